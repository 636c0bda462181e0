//! Which blocks are free, and who may use them: the allocator, in memory.
//!
//! Owns: the loaded pages of the space bitmap, extents and the free runs in them, limbo (blocks
//! that no tree holds any more but readers may), and the promises that keep a full store alive.
//! Never does I/O and never waits: the caller loads the bitmap pages that an operation names and
//! commits what it returns.
//!
//! A block is in one state, and moves only so:
//!
//! ```text
//!            adopt                take                commit_bits(set)
//!   global ---------> arena free ------> taken ----------------------> set
//!     ^                   ^  ^-----------  |  \                          |
//!     |   drop_extents    |    give_back      \ retire                   | commit_bits(clear)
//!     +-------------------+                    v                         v
//!     ^                   ^------------------ limbo <--------------------+
//!     +---------------------------------------  |   release
//! ```
//! Invariant: no block is ever handed to two takers, and none that is set, taken or in limbo to any.

mod admission;
mod ahead;
mod arena;
mod bitmap;
mod bits;
mod counts;
mod extents;
mod grant;
mod punch;
mod runs;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bough_blockstore::{BlockAddr, BlockCount, BlockRun, DiskId, VirtualBlock};

use arena::Arena;
use bitmap::Bitmap;
use extents::Extent;
use runs::RunSet;

pub use admission::Room;
pub use bitmap::{CATALOGUE_BLOCKS, PAGE_BLOCKS, bitmap_page_of};
pub use counts::{Floors, Full, Need};
pub use extents::Which;
pub use grant::Grant;
pub use punch::Punch;

/// What the allocator starts from.
#[derive(Clone, Debug)]
pub struct SpaceConfig {
    /// The store's size.
    pub total: BlockCount,
    /// Bits set in the bitmaps (`Counters::used_blocks`).
    pub used_blocks: u64,
    /// `Counters::virgin_from`; at first, the first block after the reserved ones.
    pub virgin_from: BlockAddr,
    /// Superblocks and the catalogue's pool with its mirror: never granted. No overlaps.
    pub reserved: Vec<BlockRun>,
    /// What is kept free for whom.
    pub floors: Floors,
}

/// The allocator. One for a store, under one lock.
#[derive(Debug)]
pub struct Space {
    total: u64,
    reserved: RunSet,
    floors: Floors,
    used: u64,
    virgin_from: u64,
    bitmap: Bitmap,
    extents: BTreeMap<u64, Extent>,
    arenas: BTreeMap<DiskId, Arena>,
    limbo: RunSet,
    /// Free blocks of closed extents, waiting for their extent to be dropped.
    idle: RunSet,
    /// Free blocks that the host is busy with, being given back to it or filled with zeros; they
    /// cannot be granted meanwhile.
    busy: RunSet,
    sums: counts::Sums,
    search: grant::Search,
    ahead: ahead::Ahead,
}

/// An operation that would break the allocator's invariant: nothing was changed. Coming from a
/// commit it means that the catalogue is damaged; the store must halt, not guess.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpaceFault {
    /// The operation needs a bitmap page that is not loaded.
    #[error("bitmap page {0} is not loaded")]
    NotLoaded(VirtualBlock),
    /// A bitmap page has bits set where no tree may have blocks.
    #[error("bitmap page {0} marks blocks that cannot be in use; run `bough check`")]
    ImpossibleBits(VirtualBlock),
    /// A block was to be marked that is in use already.
    #[error("block {0} would be used twice; run `bough check`")]
    AlreadyUsed(BlockAddr),
    /// A block was to be freed that is free already.
    #[error("block {0} would be freed twice; run `bough check`")]
    NotUsed(BlockAddr),
    /// A block that was not taken from any extent.
    #[error("block {0} was not allocated to anybody; run `bough check`")]
    NotTaken(BlockAddr),
    /// The catalogue's counters fit no store of this size.
    #[error("the catalogue counts {used} blocks in use, of {total}: it is damaged")]
    BadCounters {
        /// Blocks in use.
        used: u64,
        /// Blocks that there are.
        total: u64,
    },
    /// An extent overlaps another, or lies outside the store.
    #[error("the extent at block {0} cannot be; run `bough check`")]
    BadExtent(BlockAddr),
    /// No extent begins there, or it is not in the state that the operation is for.
    #[error("there is no such extent at block {0}")]
    NoExtent(BlockAddr),
    /// Extents cannot be dropped while blocks taken from them are neither set nor given back.
    #[error("disk {disk} still has {count} blocks taken from its extents")]
    StillTaken {
        /// Whose.
        disk: DiskId,
        /// How many.
        count: u64,
    },
}
