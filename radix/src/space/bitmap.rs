//! The bitmap's pages: where they are in the catalogue, and those in memory.
//!
//! Bit `n` of a page (bit `n % 8` of byte `n / 8`) is set where block `n` of its 32,768 is held
//! by a committed tree.

use std::collections::BTreeMap;
use std::ops::Range;

use bough_blockstore::{BLOCK_BYTES, BLOCK_BYTES_U64, BlockAddr, VirtualBlock, to_u64, to_usize};

use crate::btree::{PAGES_MAX, Page};

/// The catalogue page of the first bitmap page; rows have the pages below.
pub const BITMAP_BASE: u64 = PAGES_MAX;
/// Blocks that one page tells of.
pub const PAGE_BLOCKS: u64 = BLOCK_BYTES_U64 * 8;
/// The size of the catalogue's address space: rows and a bitmap for every possible address.
pub const CATALOGUE_BLOCKS: u64 = BITMAP_BASE + (BlockAddr::MAX.raw() + 1) / PAGE_BLOCKS;

const WORD_BITS: u64 = 64;
const WORDS: usize = BLOCK_BYTES / 8;

/// The catalogue page that tells whether `block` is used.
pub const fn bitmap_page_of(block: BlockAddr) -> VirtualBlock {
    page_at(block.raw() / PAGE_BLOCKS)
}

/// The catalogue page of bitmap page `index`.
pub(super) const fn page_at(index: u64) -> VirtualBlock {
    VirtualBlock::of(BITMAP_BASE + index)
}

/// Which bitmap pages tell of the blocks in `range`.
pub(super) fn indexes_of(range: Range<u64>) -> Range<u64> {
    range.start / PAGE_BLOCKS..range.end.div_ceil(PAGE_BLOCKS)
}

/// The blocks that bitmap page `index` tells of.
pub(super) fn blocks_of(index: u64) -> Range<u64> {
    index * PAGE_BLOCKS..(index + 1) * PAGE_BLOCKS
}

/// Pages in memory, by index.
#[derive(Debug, Default)]
pub(super) struct Bitmap {
    pages: BTreeMap<u64, Bits>,
    clock: u64,
}

#[derive(Debug)]
struct Bits {
    words: Box<[u64; WORDS]>,
    /// Commits that changed the page and are not written yet.
    unwritten: u32,
    last_use: u64,
}

impl Bitmap {
    pub(super) fn has(&self, index: u64) -> bool {
        self.pages.contains_key(&index)
    }

    pub(super) fn insert(&mut self, index: u64, bytes: &[u8; BLOCK_BYTES]) {
        let mut words = Box::new([0; WORDS]);
        for (word, raw) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*raw);
        }
        self.clock += 1;
        self.pages.insert(index, Bits { words, unwritten: 0, last_use: self.clock });
    }

    /// The first block of `range` whose bit is set, as far as pages are loaded.
    pub(super) fn first_used(&self, range: Range<u64>) -> Option<u64> {
        self.first(range, true)
    }

    /// The first block of `range` whose bit is clear, as far as pages are loaded.
    pub(super) fn first_clear(&self, range: Range<u64>) -> Option<u64> {
        self.first(range, false)
    }

    fn first(&self, range: Range<u64>, used: bool) -> Option<u64> {
        indexes_of(range.clone()).find_map(|index| {
            let own = blocks_of(index);
            let bits = self.pages.get(&index)?;
            bits.next(own.start.max(range.start), own.end.min(range.end), used)
        })
    }

    /// Changes the bits of a range.
    ///
    /// # Panics
    /// Where a page is not loaded: callers have checked.
    pub(super) fn set(&mut self, range: Range<u64>, used: bool) {
        for index in indexes_of(range.clone()) {
            let own = blocks_of(index);
            let bits = self.pages.get_mut(&index).expect("page checked to be loaded");
            for block in own.start.max(range.start)..own.end.min(range.end) {
                let (word, mask) = place(block);
                if used {
                    bits.words[word] |= mask;
                } else {
                    bits.words[word] &= !mask;
                }
            }
        }
    }

    /// The page as it is to be written by the commit under way.
    pub(super) fn image(&mut self, index: u64) -> Page {
        self.clock += 1;
        let bits = self.pages.get_mut(&index).expect("page checked to be loaded");
        bits.unwritten += 1;
        bits.last_use = self.clock;
        let mut page = Page::zeroed();
        for (raw, word) in page.bytes_mut().as_chunks_mut::<8>().0.iter_mut().zip(&bits.words[..]) {
            *raw = word.to_le_bytes();
        }
        page
    }

    pub(super) fn written(&mut self, index: u64) {
        let bits = self.pages.get_mut(&index).expect("an unwritten page stays loaded");
        bits.unwritten = bits.unwritten.checked_sub(1).expect("written more often than changed");
    }

    pub(super) fn trim(&mut self, keep: usize) {
        let Some(excess) = self.pages.len().checked_sub(keep) else { return };
        let idle = self.pages.iter().filter(|(_, bits)| bits.unwritten == 0);
        let mut oldest: Vec<(u64, u64)> = idle.map(|(i, bits)| (bits.last_use, *i)).collect();
        oldest.sort_unstable();
        for (_, index) in oldest.into_iter().take(excess) {
            self.pages.remove(&index);
        }
    }

    /// Runs of clear bits in `range`, whose pages are loaded, ascending. A run ends where its
    /// page does.
    pub(super) fn clear_runs(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        self.clock += 1;
        let mut runs = Vec::new();
        for index in indexes_of(range.clone()) {
            let own = blocks_of(index);
            let bits = self.pages.get_mut(&index).expect("page checked to be loaded");
            bits.last_use = self.clock;
            let mut from = own.start.max(range.start);
            let end = own.end.min(range.end);
            while let Some(start) = bits.next(from, end, false) {
                from = bits.next(start, end, true).unwrap_or(end);
                runs.push(start..from);
            }
        }
        runs
    }
}

impl Bits {
    /// The first block from `from` on, before `end`, whose bit is as asked.
    fn next(&self, from: u64, end: u64, used: bool) -> Option<u64> {
        let mut block = from;
        while block < end {
            let (word, _) = place(block);
            let raw = if used { self.words[word] } else { !self.words[word] };
            let rest = raw >> (block % WORD_BITS);
            if rest != 0 {
                return Some(block + u64::from(rest.trailing_zeros())).filter(|found| *found < end);
            }
            block += WORD_BITS - block % WORD_BITS;
        }
        None
    }
}

fn place(block: u64) -> (usize, u64) {
    let bit = block % PAGE_BLOCKS;
    (to_usize(bit / WORD_BITS), 1 << (bit % WORD_BITS))
}

const _: () = assert!(to_u64(WORDS) * WORD_BITS == PAGE_BLOCKS);
