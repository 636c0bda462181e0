//! What is free, what is promised, and to whom a full store still says yes.

use bough_blockstore::{BlockCount, DiskId};

use super::Space;
use super::arena::Arena;

/// A store with less than one in so many blocks to grant looks for room in holes, too.
const ROOMY_SHARE: u64 = 8;

/// Free blocks that are kept for those who need them more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floors {
    /// New data stops when no more than this is free.
    pub data: u64,
    /// Overwrites and discards stop here: they free as much as they use, but later.
    pub overwrite: u64,
    /// Checkpoints stop here. (Catalogue and deletes live in a pool of their own.)
    pub checkpoint: u64,
}

/// What blocks are wanted for, the most dispensable first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// Data where there was none.
    Data,
    /// Data replacing data, or discards.
    Overwrite,
    /// Nodes of a checkpoint.
    Checkpoint,
}

/// There is no room for this need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the store is full: {wanted} blocks wanted, {available} available")]
pub struct Full {
    /// Blocks asked for.
    pub wanted: u64,
    /// Blocks that this need may still have.
    pub available: u64,
}

/// Where the store's blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceCounts {
    /// All of them.
    pub total: u64,
    /// Superblocks and the catalogue's pool.
    pub reserved: u64,
    /// Held by committed trees.
    pub used: u64,
    /// Held by chains and checkpoints under way.
    pub taken: u64,
    /// Freed, but perhaps still read.
    pub limbo: u64,
    /// Free: in extents, closed ones too, or not granted to anybody.
    pub free: u64,
    /// Free and not granted to anybody.
    pub ungranted: u64,
    /// Promised to checkpoints and admitted writes (a part of `free`).
    pub promised: u64,
}

/// Running totals over all extents and arenas.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Free blocks in arenas.
    arena_free: u64,
    /// Blocks taken from extents.
    pub(super) taken: u64,
    /// Bit-clear blocks of extents that are not open yet.
    pub(super) held: u64,
    /// All promises.
    promised: u64,
    /// What arenas lack to meet their disks' promises.
    shortfall: u64,
}

/// Which way a count goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    More,
    Less,
}

impl Space {
    /// Where the store's blocks are.
    pub fn counts(&self) -> SpaceCounts {
        SpaceCounts {
            total: self.total,
            reserved: self.reserved.len(),
            used: self.used,
            taken: self.sums.taken,
            limbo: self.limbo.len(),
            free: self.free(),
            ungranted: self.ungranted(),
            promised: self.sums.promised,
        }
    }

    /// Promises `count` blocks to the disk. Undone by [`Space::settle`], block by block as they
    /// are taken, or when they turn out not to be needed.
    pub fn promise(&mut self, disk: DiskId, need: Need, count: u64) -> Result<(), Full> {
        let available = self.available(disk, need);
        if count > available {
            return Err(Full { wanted: count, available });
        }
        self.change_arena(disk, |arena| arena.promised += count);
        Ok(())
    }

    /// Ends promises made to the disk.
    ///
    /// # Panics
    /// Where more is settled than was promised: a bug of ours.
    pub fn settle(&mut self, disk: DiskId, count: u64) {
        self.change_arena(disk, |arena| {
            arena.promised =
                arena.promised.checked_sub(count).expect("more settled than was promised");
        });
    }

    /// How many blocks the disk could still be promised for this need: what nobody has and what
    /// its own arena has to spare, less what others (and it) have been promised.
    pub fn available(&self, disk: DiskId, need: Need) -> u64 {
        let spare = self.arenas.get(&disk).map_or(0, Arena::spare);
        (self.ungranted() + spare).saturating_sub(self.sums.shortfall + self.floors.of(need))
    }

    /// How many blocks may be granted to the disk for this need without breaking a promise made
    /// to another.
    pub(super) fn grantable(&self, disk: DiskId, need: Need) -> u64 {
        let own = self.arenas.get(&disk).map_or(0, Arena::shortfall);
        self.ungranted().saturating_sub(self.sums.shortfall - own + self.floors.of(need))
    }

    /// Whether so much room is left that none has to be sought in holes: an eighth of the store
    /// beyond all promises.
    pub(super) fn is_roomy(&self, count: u64) -> bool {
        let kept = self.sums.promised + self.floors.data + (self.total / ROOMY_SHARE).max(count);
        self.ungranted() > kept
    }

    /// Saturating: an extent registered at opening counts wholly as held until it is adopted.
    fn free(&self) -> u64 {
        let gone = self.reserved.len() + self.used + self.sums.taken + self.limbo.len();
        self.total.saturating_sub(gone + self.sums.held)
    }

    pub(super) fn ungranted(&self) -> u64 {
        self.free().saturating_sub(self.sums.arena_free + self.idle.len())
    }

    /// The one place where an arena changes, so that the sums follow.
    pub(super) fn change_arena<R>(
        &mut self,
        disk: DiskId,
        change: impl FnOnce(&mut Arena) -> R,
    ) -> R {
        let arena = self.arenas.entry(disk).or_default();
        self.sums.arena_free -= arena.free.len();
        self.sums.promised -= arena.promised;
        self.sums.shortfall -= arena.shortfall();
        let result = change(arena);
        self.sums.arena_free += arena.free.len();
        self.sums.promised += arena.promised;
        self.sums.shortfall += arena.shortfall();
        result
    }
}

impl Floors {
    /// For a store of this size: about 1 %, at most 1 GiB, for new data.
    pub fn for_store(total: BlockCount) -> Self {
        let data = (total.0 / 100).clamp(32, 1 << 18);
        Self { data, overwrite: data / 2, checkpoint: 0 }
    }

    fn of(self, need: Need) -> u64 {
        match need {
            Need::Data => self.data,
            Need::Overwrite => self.overwrite,
            Need::Checkpoint => self.checkpoint,
        }
    }
}
