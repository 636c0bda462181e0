//! The overlay's changes as the tree's updates.

use bough_blockstore::VirtualBlock;

use crate::merge::Update;
use crate::overlay::Change;

/// What a merge wants to hear of these changes.
pub fn updates_of(changes: &[Change]) -> impl Iterator<Item = Update> + '_ {
    changes.iter().map(|change| match change {
        Change::Data(block, point) => Update::Data {
            vba: VirtualBlock::of(*block),
            addr: point.addr,
            crc: point.crc,
            birth: point.epoch,
        },
        Change::Zero(range) => Update::Zero { range: range.clone() },
    })
}
