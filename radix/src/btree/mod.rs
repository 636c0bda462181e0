//! A B+tree of byte strings in the catalogue's pages.
//!
//! Owns: the page format, page allocation (page 0 is the meta page, free pages are chained inside
//! themselves) and the balance of the tree. Never does I/O: pages come from and go to a [`Pages`].
//! Invariants: every page is valid by itself (bounds, order, place, level) or refused with a
//! [`PageFault`]; a key is in exactly one leaf; nothing read from a page can make this code panic.

mod insert;
mod lookup;
mod meta;
mod page;
mod remove;
mod scan;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bough_blockstore::VirtualBlock;

pub use insert::put;
pub use lookup::get;
pub use meta::{Counters, Meta, Totals, format, read_meta, write_meta};
pub use page::Page;
pub use remove::remove;
pub use scan::{Pair, last_before, scan};

/// The longest key.
pub const KEY_MAX_BYTES: usize = 512;
/// The longest value.
pub const VALUE_MAX_BYTES: usize = 1024;
/// Pages of the catalogue that may be ours; what comes after is for the space bitmaps.
pub const PAGES_MAX: u64 = 1 << 30;
/// The highest level of a page: with a fan-out of at least two no tree of ours comes near it.
const LEVEL_MAX: u8 = 32;

/// Where pages live: the catalogue's own address space, seen by one commit.
///
/// A page that was `put` is what `get` returns from then on.
#[allow(async_fn_in_trait)] // our futures stay on their reactor, so `Send` is not wanted
pub trait Pages {
    /// What reading can fail with; damage found in a page becomes one as well.
    type Error: From<PageFault>;

    /// The page as it is now; a page never written reads as zeros.
    async fn get(&self, page: VirtualBlock) -> Result<Arc<Page>, Self::Error>;

    /// Replaces the page.
    fn put(&mut self, page: VirtualBlock, content: Page);
}

/// A page or row of the catalogue that is not what it should be. Its block's checksum was right,
/// so this is a bug or a forged store, not rot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("catalogue page {page}: {kind}; run `bough check`")]
pub struct PageFault {
    /// The page.
    pub page: VirtualBlock,
    /// What is wrong with it.
    pub kind: PageFaultKind,
}

/// What can be wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageFaultKind {
    /// Not a page of this tree.
    #[error("not a page of the catalogue")]
    Magic,
    /// It says that it belongs elsewhere.
    #[error("it belongs at page {0}")]
    Misplaced(u64),
    /// Another kind or level of page was expected here.
    #[error("a page of another kind was expected here")]
    Unexpected,
    /// Offsets, lengths or reserved bytes are out of bounds.
    #[error("its contents are out of bounds")]
    Bounds,
    /// Keys are not in order.
    #[error("its keys are out of order")]
    Order,
    /// No page is left for rows: four TiB of them.
    #[error("the catalogue has no room for more rows")]
    Exhausted,
    /// A pointer to a page that cannot be one.
    #[error("it points at page {0}, which cannot be")]
    Pointer(u64),
}

impl PageFaultKind {
    fn at(self, page: VirtualBlock) -> PageFault {
        PageFault { page, kind: self }
    }
}
