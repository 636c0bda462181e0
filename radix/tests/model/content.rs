//! What is in a sector: a stamp that no other write has, and where the sector belongs.

use crate::layout::SECTOR_BYTES;

/// Who wrote a sector; zero for nobody, or for somebody who wrote zeros.
pub type Stamp = u32;

/// Bytes that no write of ours has left there.
pub const ALIEN: Stamp = Stamp::MAX;

/// Fills `piece`, which begins at `sector`.
pub fn fill(piece: &mut [u8], sector: u64, stamp: Stamp) {
    for (index, bytes) in (0..).zip(piece.chunks_exact_mut(SECTOR_BYTES)) {
        if stamp == 0 {
            bytes.fill(0);
            continue;
        }
        let word = word_of(sector + index, stamp).to_le_bytes();
        for place in bytes.chunks_exact_mut(8) {
            place.copy_from_slice(&word);
        }
    }
}

/// Reads back what [`fill`] wrote.
pub fn stamps(bytes: &[u8], sector: u64, out: &mut [Stamp]) {
    for ((index, bytes), out) in (0..).zip(bytes.chunks_exact(SECTOR_BYTES)).zip(out) {
        *out = stamp_of(bytes, sector + index);
    }
}

fn stamp_of(bytes: &[u8], sector: u64) -> Stamp {
    let first: [u8; 8] = bytes[..8].try_into().unwrap();
    if bytes[8..] != bytes[..SECTOR_BYTES - 8] {
        return ALIEN;
    }
    let word = u64::from_le_bytes(first);
    if word == 0 {
        return 0;
    }
    let stamp = u32::try_from(word >> 32).unwrap();
    if word == word_of(sector, stamp) { stamp } else { ALIEN }
}

fn word_of(sector: u64, stamp: Stamp) -> u64 {
    (u64::from(stamp) << 32) | (sector & 0xffff_ffff)
}
