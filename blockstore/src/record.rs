//! One record of a chain as it lies on the store: the header block's codec, pure.
//!
//! Owns the bytes of a header and nothing else: it reads no device and keeps no state. What
//! `decode` returns has been checked in every byte; reserved ones are zero. The invariant: a
//! header is accepted only where its CRC, nonce, sequence, own address and (by the caller that
//! walks in order) its predecessor's CRC all agree, so neither a stale record nor a block that a
//! guest wrote can pass for one.

mod zeros;

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use self::zeros::Zeros;
use crate::addr::{
    BLOCK_BYTES, BlockAddr, DiskId, Epoch, MAX_44, Nonce, Sequence, VirtualBlock, VirtualRange,
};

/// One thing a record says, in the order in which it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainEntry {
    /// The block now reads as what lies at `addr`.
    Data {
        /// Which block of the disk.
        vba: VirtualBlock,
        /// Where its bytes are.
        addr: BlockAddr,
        /// CRC-32 of those bytes.
        crc: u32,
    },
    /// These blocks now read as zeros.
    Zero {
        /// Which; never empty.
        range: VirtualRange,
    },
    /// This record counts only if that disk's chain reaches that record.
    Require {
        /// Whose chain.
        disk: DiskId,
        /// The last record that must be there.
        sequence: Sequence,
    },
}

/// Marks a record's header: `BchR`.
const MAGIC: u32 = u32::from_le_bytes(*b"BchR");
/// The layout below.
const VERSION: u16 = 1;
/// The group that this record belongs to continues in the next.
const FLAG_CONTINUES: u16 = 1;
/// Entries in one header, at most.
pub(crate) const MAX_ENTRIES: usize = 249;
/// The largest sequence: 48 bits.
const MAX_SEQUENCE: u64 = (1 << 48) - 1;

const KIND_DATA: u8 = 1;
const KIND_ZERO: u8 = 2;
const KIND_REQUIRE: u8 = 3;

/// Two little-endian words; see `FORMAT.md`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEntry {
    low: U64,
    high: U64,
}

/// The header block as it lies on the store.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: U16,
    flags: U16,
    nonce: [u8; 16],
    sequence: U64,
    epoch: U64,
    at: U64,
    synced_upto: U64,
    next_at: U64,
    previous_crc: U32,
    entry_count: U16,
    reserved: [u8; 26],
    entries: [RawEntry; MAX_ENTRIES],
    reserved_tail: [u8; 12],
    crc: U32,
}

const _: () = assert!(size_of::<RawEntry>() == 16);
const _: () = assert!(size_of::<RawHeader>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(RawHeader, nonce) == 8);
const _: () = assert!(offset_of!(RawHeader, sequence) == 24);
const _: () = assert!(offset_of!(RawHeader, next_at) == 56);
const _: () = assert!(offset_of!(RawHeader, entries) == 96);
const _: () = assert!(offset_of!(RawHeader, crc) == CRC_OFFSET);
/// The CRC covers everything before it.
const CRC_OFFSET: usize = BLOCK_BYTES - 4;

/// Most headers are short, and end in zeros from here on.
const SHORT_BYTES: usize = 1024;
static REST_OF_SHORT: Zeros = Zeros::of(CRC_OFFSET - SHORT_BYTES);

/// Whether a record ends the group it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupEnd {
    /// It does; a record on its own is a group of one.
    Here,
    /// The next record belongs to it too.
    Later,
}

/// A header's content, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub sequence: Sequence,
    pub epoch: Epoch,
    pub at: BlockAddr,
    /// The highest record known synced when this one was sealed.
    pub synced_upto: Sequence,
    /// Where the next header goes.
    pub next_at: BlockAddr,
    pub previous_crc: u32,
    pub group: GroupEnd,
    pub entries: Vec<ChainEntry>,
}

/// Why a block is no header of this chain, at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    #[error("no record header")]
    Magic,
    #[error("the header's checksum fails")]
    Crc,
    #[error("another chain's header")]
    Nonce,
    #[error("a header written for another place")]
    Misplaced,
    #[error("a header of an unknown version")]
    Version,
    #[error("reserved bits are set")]
    Reserved,
    #[error("a field is out of its bounds")]
    Field,
}

impl RecordHeader {
    /// Writes the header into `out`; returns its CRC, which the next header names.
    ///
    /// # Panics
    /// With more than [`MAX_ENTRIES`] entries or an empty range: bugs of ours.
    pub fn encode(&self, nonce: Nonce, out: &mut [u8; BLOCK_BYTES]) -> u32 {
        assert!(self.entries.len() <= MAX_ENTRIES && self.sequence.0 <= MAX_SEQUENCE);
        out.fill(0);
        let raw: &mut RawHeader = zerocopy::transmute_mut!(out);
        raw.magic = MAGIC.into();
        raw.version = VERSION.into();
        raw.flags = if self.group == GroupEnd::Later { FLAG_CONTINUES } else { 0 }.into();
        raw.nonce = nonce.0;
        raw.sequence = self.sequence.0.into();
        raw.epoch = self.epoch.raw().into();
        raw.at = self.at.raw().into();
        raw.synced_upto = self.synced_upto.0.into();
        raw.next_at = self.next_at.raw().into();
        raw.previous_crc = self.previous_crc.into();
        raw.entry_count = u16::try_from(self.entries.len()).expect("at most 249").into();
        for (raw, entry) in raw.entries.iter_mut().zip(&self.entries) {
            *raw = encode_entry(entry);
        }
        let used = offset_of!(RawHeader, entries) + self.entries.len() * size_of::<RawEntry>();
        let crc = if used <= SHORT_BYTES {
            REST_OF_SHORT.append_to(crc32fast::hash(&out[..SHORT_BYTES]))
        } else {
            crc32fast::hash(&out[..CRC_OFFSET])
        };
        out[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// The header in `block`, which was read at `at`, and its CRC.
    pub fn decode(
        block: &[u8; BLOCK_BYTES],
        nonce: Nonce,
        at: BlockAddr,
    ) -> Result<(Self, u32), HeaderFault> {
        let raw: &RawHeader = zerocopy::transmute_ref!(block);
        // The cheap and telling ones first: a search beyond the end tries every block.
        ensure(raw.magic.get() == MAGIC, HeaderFault::Magic)?;
        ensure(raw.nonce == nonce.0, HeaderFault::Nonce)?;
        let crc = raw.crc.get();
        ensure(crc32fast::hash(&block[..CRC_OFFSET]) == crc, HeaderFault::Crc)?;
        ensure(raw.version.get() == VERSION, HeaderFault::Version)?;
        ensure(raw.at.get() == at.raw(), HeaderFault::Misplaced)?;
        check_reserved(raw)?;
        let header = Self {
            sequence: sequence(raw.sequence)?,
            epoch: Epoch::new(raw.epoch.get()).ok_or(HeaderFault::Field)?,
            at,
            synced_upto: sequence(raw.synced_upto)?,
            next_at: BlockAddr::new(raw.next_at.get()).ok_or(HeaderFault::Field)?,
            previous_crc: raw.previous_crc.get(),
            group: if raw.flags.get() & FLAG_CONTINUES != 0 {
                GroupEnd::Later
            } else {
                GroupEnd::Here
            },
            entries: decode_entries(raw)?,
        };
        ensure(header.synced_upto < header.sequence, HeaderFault::Field)?;
        Ok((header, crc))
    }
}

fn ensure(holds: bool, fault: HeaderFault) -> Result<(), HeaderFault> {
    if holds { Ok(()) } else { Err(fault) }
}

fn sequence(raw: U64) -> Result<Sequence, HeaderFault> {
    ensure(raw.get() <= MAX_SEQUENCE, HeaderFault::Field)?;
    Ok(Sequence(raw.get()))
}

fn check_reserved(raw: &RawHeader) -> Result<(), HeaderFault> {
    let unused = raw.entries.get(usize::from(raw.entry_count.get())..).ok_or(HeaderFault::Field)?;
    let zero = raw.flags.get() & !FLAG_CONTINUES == 0
        && raw.reserved == [0; 26]
        && raw.reserved_tail == [0; 12]
        && unused.as_bytes().iter().all(|byte| *byte == 0);
    ensure(zero, HeaderFault::Reserved)
}

fn decode_entries(raw: &RawHeader) -> Result<Vec<ChainEntry>, HeaderFault> {
    let count = usize::from(raw.entry_count.get());
    raw.entries[..count].iter().map(decode_entry).collect()
}

/// Bits 0–7 kind, 8–51 a 44-bit number, 52–63 a 12-bit one.
fn pack(kind: u8, middle: u64, top: u64) -> U64 {
    U64::new(u64::from(kind) | middle << 8 | top << 52)
}

fn encode_entry(entry: &ChainEntry) -> RawEntry {
    match entry {
        ChainEntry::Data { vba, addr, crc } => RawEntry {
            low: pack(KIND_DATA, vba.raw(), addr.raw() & 0xfff),
            high: U64::new(addr.raw() >> 12 | u64::from(*crc) << 32),
        },
        ChainEntry::Zero { range } => {
            assert!(range.start < range.end && range.end <= MAX_44 + 1, "an empty or wild range");
            RawEntry {
                low: pack(KIND_ZERO, range.start, 0),
                high: U64::new(range.end - range.start),
            }
        }
        ChainEntry::Require { disk, sequence } => {
            RawEntry { low: pack(KIND_REQUIRE, u64::from(disk.0), 0), high: U64::new(sequence.0) }
        }
    }
}

fn decode_entry(raw: &RawEntry) -> Result<ChainEntry, HeaderFault> {
    let (low, high) = (raw.low.get(), raw.high.get());
    let (middle, top) = (low >> 8 & MAX_44, low >> 52);
    match low.to_le_bytes()[0] {
        KIND_DATA => Ok(ChainEntry::Data {
            vba: VirtualBlock::of(middle),
            addr: BlockAddr::of((high & 0xffff_ffff) << 12 | top),
            crc: u32::try_from(high >> 32).expect("32 bits remain"),
        }),
        KIND_ZERO => {
            let end = middle.checked_add(high).ok_or(HeaderFault::Field)?;
            ensure(top == 0 && high > 0 && end <= MAX_44 + 1, HeaderFault::Field)?;
            Ok(ChainEntry::Zero { range: middle..end })
        }
        KIND_REQUIRE => {
            let disk = u32::try_from(middle).map_err(|_| HeaderFault::Field)?;
            ensure(top == 0 && high <= MAX_SEQUENCE, HeaderFault::Field)?;
            Ok(ChainEntry::Require { disk: DiskId(disk), sequence: Sequence(high) })
        }
        _ => Err(HeaderFault::Field),
    }
}

#[cfg(test)]
mod tests;
