//! Choosing new extents, and what to give back to the host.

use bough_blockstore::{BlockRun, DiskId, VirtualBlock};

use super::{Full, Need, Space};

/// The answer to a wish for blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grant {
    /// This extent is registered for the disk: commit its row (and `virgin_from`), then
    /// [`Space::adopt`] it. It may hold fewer free blocks than wanted: ask again.
    Extent(BlockRun),
    /// Load these bitmap pages, then ask again.
    Load(Vec<VirtualBlock>),
    /// There is no room for this need.
    Full(Full),
}

/// Where to look for free blocks next.
#[derive(Debug, Default)]
pub(super) struct Search {}

impl Space {
    /// Chooses an extent for the disk with up to `want` free blocks, or more if there is plenty:
    /// 64 KiB at first, doubling to 64 MiB; recycled blocks before virgin ones.
    pub fn plan_grant(&mut self, disk: DiskId, want: u64, need: Need) -> Grant {
        let _ = (disk, want, need);
        todo!()
    }

    /// Chooses a run of at least `least` free, ungranted blocks that were used before, to be
    /// given back to the host: it is in limbo until [`Space::release_run`], after the discard.
    pub fn plan_punch(&mut self, least: u64) -> Option<BlockRun> {
        let _ = least;
        todo!()
    }

    /// A run from [`Space::plan_punch`] is free again.
    pub fn release_run(&mut self, run: BlockRun) {
        let _ = run;
        todo!()
    }
}
