//! Extents: registered (not to be granted to others), adopted (open for taking), closed (nothing
//! is taken any more), dropped.

use bough_blockstore::{BlockAddr, BlockRun, DiskId};

use super::{Space, SpaceFault};

/// A disk's right to allocate in a run of blocks.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) end: u64,
    pub(super) disk: DiskId,
    pub(super) taken: u64,
    pub(super) phase: Phase,
}

/// How far an extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Known, so that nobody else gets it; its row may not be durable yet.
    Held,
    /// Blocks may be taken.
    Open,
    /// No more.
    Closed,
}

impl Space {
    /// Registers an extent row found when opening the store.
    pub fn register(&mut self, disk: DiskId, run: BlockRun) -> Result<(), SpaceFault> {
        let _ = (disk, run);
        todo!()
    }

    /// Opens a registered or granted extent, whose row is durable. `taken` are blocks in it that
    /// are in use without being in any tree: at recovery, those of the chain that was found; else
    /// none. Needs [`Space::missing_for_run`] loaded.
    pub fn adopt(&mut self, start: BlockAddr, taken: &[BlockAddr]) -> Result<(), SpaceFault> {
        let _ = (start, taken);
        todo!()
    }

    /// Forgets a granted extent whose row could not be written.
    pub fn abandon(&mut self, start: BlockAddr) -> Result<(), SpaceFault> {
        let _ = start;
        todo!()
    }

    /// All extents of a disk.
    pub fn extents_of(&self, disk: DiskId) -> Vec<BlockRun> {
        let _ = disk;
        todo!()
    }

    /// Closes the disk's extents that have neither free nor taken blocks left (all of a disk's
    /// extents where `all`); returns those that can be dropped now: the caller removes their rows
    /// in its next commit and then calls [`Space::drop_extents`].
    pub fn close(&mut self, disk: DiskId, which: Which) -> Vec<BlockRun> {
        let _ = (disk, which);
        todo!()
    }

    /// Drops closed extents whose rows are gone; what is free in them is free for all.
    pub fn drop_extents(&mut self, extents: &[BlockRun]) -> Result<(), SpaceFault> {
        let _ = extents;
        todo!()
    }
}

/// Which extents to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Those of no more use: nothing free, nothing taken.
    Spent,
    /// All: the disk's chain has ended.
    All,
}
