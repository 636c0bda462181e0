//! The bitmap's pages: where they are in the catalogue, and those in memory.

use std::collections::BTreeMap;

use bough_blockstore::{BLOCK_BYTES_U64, BlockAddr, VirtualBlock};

/// The catalogue page of the first bitmap page; rows have the pages below.
pub const BITMAP_BASE: u64 = 1 << 30;
/// Blocks that one page tells of.
pub(super) const PAGE_BLOCKS: u64 = BLOCK_BYTES_U64 * 8;
/// The size of the catalogue's address space: rows and a bitmap for every possible address.
pub const CATALOGUE_BLOCKS: u64 = BITMAP_BASE + (BlockAddr::MAX.raw() + 1) / PAGE_BLOCKS;

/// The catalogue page that tells whether `block` is used.
pub const fn bitmap_page_of(block: BlockAddr) -> VirtualBlock {
    VirtualBlock::of(BITMAP_BASE + block.raw() / PAGE_BLOCKS)
}

/// Pages in memory.
#[derive(Debug, Default)]
pub(super) struct Bitmap {
    pages: BTreeMap<u64, ()>,
}
