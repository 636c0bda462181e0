//! Extents: registered (not to be granted to others), adopted (open for taking), closed (nothing
//! is taken any more), dropped.

use std::collections::BTreeSet;
use std::ops::Range;

use bough_blockstore::{BlockAddr, BlockRun, DiskId, to_u64};

use super::counts::Change;
use super::grant::Search;
use super::runs::{runs_of, without};
use super::{Space, SpaceFault};

/// A disk's right to allocate in a run of blocks.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) end: u64,
    pub(super) disk: DiskId,
    /// Blocks taken and neither set nor handed back.
    taken: u64,
    /// Free blocks that are accounted for while the extent is not open.
    held: u64,
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

/// Which extents to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Those of no more use: nothing free, nothing taken.
    Spent,
    /// All from which nothing is taken: the disk's chain has ended, and nobody else takes any.
    All,
}

impl Extent {
    pub(super) fn place(&self) -> (Phase, DiskId) {
        (self.phase, self.disk)
    }
}

impl Space {
    /// Registers an extent row found when opening the store.
    pub fn register(&mut self, disk: DiskId, run: BlockRun) -> Result<(), SpaceFault> {
        let range = run.start.raw()..run.end();
        let inside = !range.is_empty() && range.end <= self.total;
        let mut others = self.extents.range(..range.end);
        let overlaps = others.next_back().is_some_and(|(_, other)| other.end > range.start);
        if !inside || overlaps || self.reserved.intersects(range.clone()) {
            return Err(SpaceFault::BadExtent(run.start));
        }
        if self.virgin_from < range.end {
            self.virgin_from = range.end;
            self.search = Search::new(range.end);
        }
        self.hold(disk, range, run.count);
        Ok(())
    }

    /// Counts what is free in a registered extent; before that, all of it counts as gone, so that
    /// a nearly full store would seem full. Needs [`Space::missing_for_run`] loaded.
    pub fn count_free(&mut self, start: BlockAddr) -> Result<(), SpaceFault> {
        let end = self.held_extent(start)?.end;
        let run = run_from(start.raw(), end);
        if let Some(page) = self.missing_for_run(run).first() {
            return Err(SpaceFault::NotLoaded(*page));
        }
        let free = self.open_runs(start.raw()..end).into_iter().map(|run| run.end - run.start);
        let free = free.sum();
        self.set_held(start.raw(), free);
        Ok(())
    }

    /// Keeps `range`, with `free` free blocks in it, for the disk.
    pub(super) fn hold(&mut self, disk: DiskId, range: Range<u64>, free: u64) {
        let start = range.start;
        let extent = Extent { end: range.end, disk, taken: 0, held: free, phase: Phase::Held };
        self.extents.insert(start, extent);
        self.sums.held += free;
        self.change_arena(disk, |arena| {
            arena.held += free;
            arena.extents.insert(start)
        });
    }

    /// Opens a registered or granted extent, whose row is durable. `taken` are blocks in it that
    /// are in use without being in any tree: at recovery, those of the chain that was found; else
    /// none. Needs [`Space::missing_for_run`] loaded.
    pub fn adopt(&mut self, start: BlockAddr, taken: &[BlockAddr]) -> Result<(), SpaceFault> {
        let extent = self.held_extent(start)?;
        let (range, disk) = (start.raw()..extent.end, extent.disk);
        let run = BlockRun { start, count: range.end - range.start };
        if let Some(page) = self.missing_for_run(run).first() {
            return Err(SpaceFault::NotLoaded(*page));
        }
        let taken_runs = runs_of(taken).map_err(SpaceFault::AlreadyUsed)?;
        let free = self.open_runs(range.clone());
        for run in &taken_runs {
            let after = free.partition_point(|open| open.start <= run.start);
            let open = after.checked_sub(1).map(|index| &free[index]);
            if open.is_none_or(|open| open.end < run.end) {
                return Err(SpaceFault::AlreadyUsed(BlockAddr::of(run.start)));
            }
        }
        self.set_held(start.raw(), 0);
        self.change_arena(disk, |arena| free.into_iter().for_each(|run| arena.free.insert(run)));
        self.change_arena(disk, |arena| {
            taken_runs.into_iter().for_each(|run| arena.free.remove(run));
            arena.fill(range.clone());
        });
        let count = to_u64(taken.len());
        self.sums.taken += count;
        if let Some(extent) = self.extents.get_mut(&start.raw()) {
            extent.taken = count;
            extent.phase = Phase::Open;
        }
        Ok(())
    }

    /// Runs of blocks in `range` that are in no tree and not in limbo; their pages are loaded.
    pub(super) fn open_runs(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let clear = self.bitmap.clear_runs(range);
        let mut open: Vec<Range<u64>> = Vec::new();
        for run in clear.into_iter().flat_map(|run| without(run.clone(), self.limbo.within(run))) {
            match open.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => open.push(run),
            }
        }
        open
    }

    /// Forgets a granted extent whose row could not be written.
    pub fn abandon(&mut self, start: BlockAddr) -> Result<(), SpaceFault> {
        let extent = self.held_extent(start)?;
        let (end, disk) = (extent.end, extent.disk);
        self.set_held(start.raw(), 0);
        self.forget(start.raw(), disk);
        self.search.note_freed(start.raw()..end);
        Ok(())
    }

    fn held_extent(&self, start: BlockAddr) -> Result<&Extent, SpaceFault> {
        let extent = self.extents.get(&start.raw());
        extent.filter(|e| e.phase == Phase::Held).ok_or(SpaceFault::NoExtent(start))
    }

    fn set_held(&mut self, start: u64, held: u64) {
        let Some(extent) = self.extents.get_mut(&start) else { return };
        let before = std::mem::replace(&mut extent.held, held);
        let disk = extent.disk;
        self.sums.held = self.sums.held - before + held;
        self.change_arena(disk, |arena| arena.held = arena.held - before + held);
    }

    pub(super) fn add_held(&mut self, start: u64, count: u64) {
        let held = self.extents.get(&start).map_or(0, |extent| extent.held);
        self.set_held(start, held + count);
    }

    /// All extents of a disk.
    pub fn extents_of(&self, disk: DiskId) -> Vec<BlockRun> {
        let starts = self.arenas.get(&disk).into_iter().flat_map(|arena| &arena.extents);
        starts.map(|start| run_from(*start, self.extents[start].end)).collect()
    }

    /// The disk's extents that can be dropped, nothing being taken from them: the caller removes
    /// their rows in its next commit and then calls [`Space::drop_extents`]. Spent ones are closed
    /// right now; of others, what is free stays the disk's until then, so that no promise is
    /// without cover meanwhile. Extents granted but not adopted are left alone.
    pub fn close(&mut self, disk: DiskId, which: Which) -> Vec<BlockRun> {
        for run in self.extents_of(disk) {
            let range = run.start.raw()..run.end();
            let extent = &self.extents[&range.start];
            let empty = extent.taken == 0 && !self.arena_has(disk, range.clone());
            if which == Which::Spent && extent.phase == Phase::Open && empty {
                self.close_one(disk, range);
            }
        }
        if which == Which::All {
            self.change_arena(disk, |arena| arena.next_grant = super::arena::FIRST_GRANT);
        }
        let mut droppable = self.extents_of(disk);
        droppable.retain(|run| self.extents[&run.start.raw()].droppable(which));
        droppable
    }

    /// While the store has plenty of room, closes the extents that the disk's log has gone past:
    /// what became free in them is for all as soon as they are dropped.
    pub fn leave_behind(&mut self, disk: DiskId) {
        for run in self.extents_of(disk) {
            let range = run.start.raw()..run.end();
            let open = self.extents[&range.start].phase == Phase::Open;
            let left = self.arenas.get(&disk).is_some_and(|arena| arena.has_left(&range));
            if open && left && self.is_roomy(0) {
                self.close_one(disk, range);
            }
        }
    }

    fn arena_has(&self, disk: DiskId, range: Range<u64>) -> bool {
        self.arenas.get(&disk).is_some_and(|arena| arena.free.intersects(range))
    }

    fn close_one(&mut self, disk: DiskId, range: Range<u64>) {
        let free: Vec<_> = self.change_arena(disk, |arena| {
            let free: Vec<_> = arena.free.within(range.clone()).collect();
            free.iter().for_each(|run| arena.free.remove(run.clone()));
            free
        });
        free.into_iter().for_each(|run| self.idle.insert(run));
        if let Some(extent) = self.extents.get_mut(&range.start) {
            extent.phase = Phase::Closed;
        }
    }

    /// Drops extents whose rows are gone; what is free in them is free for all.
    pub fn drop_extents(&mut self, extents: &[BlockRun]) -> Result<(), SpaceFault> {
        for run in extents {
            let extent = self.extents.get(&run.start.raw());
            let extent = extent.filter(|e| e.phase != Phase::Held && e.end == run.end());
            let extent = extent.ok_or(SpaceFault::NoExtent(run.start))?;
            if extent.taken > 0 {
                let (disk, count) = (extent.disk, extent.taken);
                return Err(SpaceFault::StillTaken { disk, count });
            }
        }
        let starts: BTreeSet<u64> = extents.iter().map(|run| run.start.raw()).collect();
        for start in starts {
            let extent = &self.extents[&start];
            self.drop_one(start..extent.end, extent.disk);
        }
        Ok(())
    }

    fn drop_one(&mut self, range: Range<u64>, disk: DiskId) {
        self.close_one(disk, range.clone());
        let free: Vec<_> = self.idle.within(range.clone()).collect();
        for run in free {
            self.idle.remove(run.clone());
            self.search.note_freed(run);
        }
        self.forget(range.start, disk);
    }

    fn forget(&mut self, start: u64, disk: DiskId) {
        self.extents.remove(&start);
        self.change_arena(disk, |arena| arena.extents.remove(&start));
        if self.arenas.get(&disk).is_some_and(super::arena::Arena::is_unused) {
            self.arenas.remove(&disk);
        }
    }

    /// The extent that holds `block`, with its start.
    pub(super) fn extent_at(&self, block: u64) -> Option<(u64, &Extent)> {
        let (start, extent) = self.extents.range(..=block).next_back()?;
        (block < extent.end).then_some((*start, extent))
    }

    /// Counts blocks as taken, or as taken no more.
    ///
    /// # Panics
    /// Where they are in no extent, or fewer are taken than that: a bug of ours.
    pub(super) fn add_taken(&mut self, range: Range<u64>, change: Change) {
        let mut from = range.start;
        while from < range.end {
            let (piece, owner) = self.piece_at(from, range.end);
            let count = piece.end - piece.start;
            let extent = owner.and_then(|start| self.extents.get_mut(&start));
            let extent = extent.expect("taken blocks lie in extents");
            (extent.taken, self.sums.taken) = match change {
                Change::More => (extent.taken + count, self.sums.taken + count),
                Change::Less => {
                    let rest = extent.taken.checked_sub(count).expect("no more than were taken");
                    (rest, self.sums.taken - count)
                }
            };
            from = piece.end;
        }
    }
}

impl Extent {
    fn droppable(&self, which: Which) -> bool {
        let phase = match which {
            Which::Spent => self.phase == Phase::Closed,
            Which::All => self.phase != Phase::Held,
        };
        phase && self.taken == 0
    }
}

fn run_from(start: u64, end: u64) -> BlockRun {
    BlockRun { start: BlockAddr::of(start), count: end - start }
}
