//! Whether a qcow2 file is all there.
//!
//! Beyond the end of a file its driver reads zeros, so one that was cut off on its way would import
//! without a word, with holes where data was. I check that its tables lie inside the file; whoever maps
//! data checks that against [`Qcow2Bounds::end_bytes`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bough_blockstore::to_usize;

const CLUSTER_BITS_AT: usize = 20;
const L1_SIZE_AT: usize = 36;
const L1_OFFSET_AT: usize = 40;
const HEADER_BYTES: usize = 72;
/// The driver's own bound on the table: 32 MiB.
const L1_MAX_ENTRIES: u64 = 4 << 20;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// How far a qcow2 file reaches.
pub struct Qcow2Bounds {
    /// Its end, rounded up: the last cluster may be written in part.
    pub end_bytes: u64,
}

impl Qcow2Bounds {
    /// Reads header and first table; `None` where the file was cut off.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        let mut header = [0; HEADER_BYTES];
        if length < bough_blockstore::to_u64(HEADER_BYTES) {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let u32_at = |at: usize| {
            header[at..].first_chunk().map_or(0, |bytes| u64::from(u32::from_be_bytes(*bytes)))
        };
        let l1_offset = header[L1_OFFSET_AT..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        let cluster_bits = u32_at(CLUSTER_BITS_AT).clamp(9, 21);
        let cluster_bytes = 1_u64 << cluster_bits;
        let l1_entries = u32_at(L1_SIZE_AT).min(L1_MAX_ENTRIES);
        let l1_end = l1_offset.checked_add(l1_entries * 8);
        if l1_end.is_none_or(|end| end > length) {
            return Ok(None);
        }
        let mut l1 = vec![0; to_usize(l1_entries * 8)];
        file.read_exact_at(&mut l1, l1_offset)?;
        let (entries, _) = l1.as_chunks::<8>();
        let tables = entries.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET_MASK);
        let cut_off =
            tables.filter(|at| *at != 0).any(|at| at.saturating_add(cluster_bytes) > length);
        let end_bytes = length.next_multiple_of(cluster_bytes);
        Ok((!cut_off).then_some(Self { end_bytes }))
    }
}
