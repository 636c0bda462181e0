//! Positions in a tree: which level, which of that level's slots.
//!
//! A position never depends on a tree's height: level 0 is the disk's blocks, one node of level
//! `n` covers 256ⁿ of them. Trees of different heights therefore compare position by position,
//! and growing a disk moves nothing.

use std::fmt;

use bough_blockstore::{MAX_44, VirtualBlock, VirtualRange, to_usize};

/// Entries in a node.
pub const FAN_OUT: usize = 256;
/// [`FAN_OUT`] as a 64-bit quantity.
pub(crate) const FAN_OUT_U64: u64 = 256;
/// Bits of a block number that one level resolves.
const LEVEL_BITS: u32 = 8;
/// No tree is higher: 256⁶ blocks are more than 44 bits can number.
pub const MAX_HEIGHT: u8 = 6;

const _: () = assert!(MAX_44 < span_blocks(MAX_HEIGHT) && MAX_44 > span_blocks(MAX_HEIGHT - 1));

/// How many blocks a position of `level` covers.
pub(crate) const fn span_blocks(level: u8) -> u64 {
    assert!(level <= MAX_HEIGHT);
    // `u32::from` is not const yet; the shift is at most 48.
    let mut blocks = 1;
    let mut left = level;
    while left > 0 {
        blocks <<= LEVEL_BITS;
        left -= 1;
    }
    blocks
}

/// The least height whose tree holds `blocks`: zero for a disk of one block (or none).
///
/// # Panics
/// Where `blocks` are more than 44 bits can number: a bug of ours.
pub fn height_for(blocks: u64) -> u8 {
    assert!(blocks <= MAX_44 + 1, "a disk's size is bounded before it gets here");
    (0..=MAX_HEIGHT).find(|&height| blocks <= span_blocks(height)).unwrap_or(MAX_HEIGHT)
}

/// A place in the tree: the `index`-th span of 256^`level` blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// 0 for a data block, more for a node.
    pub level: u8,
    /// Counted along the level.
    pub index: u64,
}

impl Position {
    /// The position of `level` that covers block `vba`.
    pub fn covering(level: u8, vba: u64) -> Self {
        Self { level, index: vba / span_blocks(level) }
    }

    /// Where a root of `height` keeps its top entry.
    pub fn top(height: u8) -> Self {
        Self { level: height, index: 0 }
    }

    /// One block.
    pub fn leaf(vba: VirtualBlock) -> Self {
        Self { level: 0, index: vba.raw() }
    }

    /// The blocks below this position.
    pub fn span(self) -> VirtualRange {
        let blocks = span_blocks(self.level);
        self.index * blocks..(self.index + 1) * blocks
    }

    /// The position of this node's entry `slot`.
    ///
    /// # Panics
    /// At level 0, which has no entries: a bug of ours.
    pub fn child(self, slot: usize) -> Self {
        assert!(self.level > 0 && slot < FAN_OUT, "no such child");
        Self {
            level: self.level - 1,
            index: self.index * FAN_OUT_U64 + bough_blockstore::to_u64(slot),
        }
    }

    /// Which entry of its parent node this position is.
    pub fn slot(self) -> usize {
        to_usize(self.index % FAN_OUT_U64)
    }

    /// Which entry of this node covers block `vba`.
    pub(crate) fn slot_of(self, vba: u64) -> usize {
        Self::covering(self.level - 1, vba).slot()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {} index {}", self.level, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn height_is_the_least_that_fits() {
        for (blocks, height) in
            [(0, 0), (1, 0), (2, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 3), (1 << 38, 5)]
        {
            assert_eq!(height_for(blocks), height, "{blocks} blocks");
        }
        assert_eq!(height_for(MAX_44 + 1), MAX_HEIGHT);
    }

    #[test]
    fn children_partition_their_parent() {
        let node = Position { level: 2, index: 3 };
        assert_eq!(node.span(), 196_608..262_144);
        let mut at = node.span().start;
        for slot in 0..FAN_OUT {
            let child = node.child(slot);
            assert_eq!((child.slot(), child.span().start), (slot, at));
            assert_eq!(node.slot_of(at), slot);
            assert_eq!(Position::covering(1, at), child);
            at = child.span().end;
        }
        assert_eq!(at, node.span().end);
    }
}
