//! Records of a chain that speak of blocks which their disk does not have.
//!
//! None of ours do: whoever finds one has a forged store, and refuses it before a merge is begun.

use bough_blockstore::{BlockAddr, ChainEntry, Scan, Sequence, VirtualBlock};

/// An entry beyond a disk's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Beyond {
    /// The record that has it.
    pub sequence: Sequence,
    /// That record's header.
    pub at: BlockAddr,
    /// The block that the disk does not have.
    pub block: VirtualBlock,
}

/// The first entry of data at or beyond block `end`. Zeros there are harmless: they are cut off.
pub(crate) fn first_beyond(found: &Scan, end: u64) -> Option<Beyond> {
    found.records.iter().find_map(|record| {
        record.entries.iter().find_map(|entry| match entry {
            ChainEntry::Data { vba, .. } if vba.raw() >= end => {
                Some(Beyond { sequence: record.sequence, at: record.header_at, block: *vba })
            }
            _ => None,
        })
    })
}
