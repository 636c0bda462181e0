//! Taking blocks from a disk's own extents, and giving them back.

use bough_blockstore::{BlockAddr, BlockRun, DiskId};

use super::Space;
use super::runs::RunSet;

/// A disk's free blocks.
#[derive(Debug, Default)]
pub(super) struct Arena {
    pub(super) free: RunSet,
    /// Where the last take ended: the next one goes on there.
    pub(super) cursor: u64,
    /// What was promised to the disk.
    pub(super) promised: u64,
    /// How large its next extent is to be.
    pub(super) next_grant: u64,
}

impl Space {
    /// Takes exactly `count` blocks from the disk's extents: in one run right after `near` if
    /// possible, else in one run, else in pieces. `None`: not so many there; get a grant.
    pub fn take(
        &mut self,
        disk: DiskId,
        near: Option<BlockAddr>,
        count: u64,
    ) -> Option<Vec<BlockRun>> {
        let _ = (disk, near, count);
        todo!()
    }

    /// Free blocks in the disk's extents.
    pub fn arena_free(&self, disk: DiskId) -> u64 {
        let _ = disk;
        todo!()
    }

    /// Taken blocks that nobody reads or ever will: free at once.
    pub fn give_back(&mut self, blocks: &[BlockAddr]) {
        let _ = blocks;
        todo!()
    }

    /// Taken blocks that are done with but may still be read: to limbo.
    pub fn retire(&mut self, blocks: &[BlockAddr]) {
        let _ = blocks;
        todo!()
    }

    /// Blocks in limbo whose last reader has gone: free, to the extent that they lie in or to
    /// all.
    pub fn release(&mut self, blocks: &[BlockAddr]) {
        let _ = blocks;
        todo!()
    }
}
