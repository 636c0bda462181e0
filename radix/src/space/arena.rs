//! Taking blocks from a disk's own extents, and giving them back.

use std::collections::BTreeSet;
use std::ops::Range;

use bough_blockstore::{BlockAddr, BlockRun, DiskId};

use super::Space;
use super::counts::Change;
use super::extents::Phase;
use super::runs::{RunSet, runs_of};

/// How many runs are looked at for one that is long enough, before settling for pieces.
const RUNS_TRIED: usize = 8;
/// The first extent that a disk gets: 64 KiB.
pub(super) const FIRST_GRANT: u64 = 16;

/// A disk's free blocks.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) free: RunSet,
    /// Free blocks in extents that are granted and not open yet: as good as free.
    pub(super) held: u64,
    /// Where the last take ended: the next one goes on there.
    cursor: u64,
    /// Where the extent ends that is being filled.
    fresh_end: u64,
    /// Where the disk's extents begin, in whatever phase.
    pub(super) extents: BTreeSet<u64>,
    /// What was promised to the disk and has not been taken.
    pub(super) promised: u64,
    /// What was promised to requests that have not ended...
    pub(super) admitted: u64,
    /// ...and what of that has been taken already.
    pub(super) drawn: u64,
    /// How large its next extent is to be.
    pub(super) next_grant: u64,
    /// How often something was taken from the extent that is being filled...
    takes: u64,
    /// ...and how much.
    blocks_taken: u64,
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            free: RunSet::default(),
            held: 0,
            cursor: 0,
            fresh_end: 0,
            extents: BTreeSet::new(),
            promised: 0,
            admitted: 0,
            drawn: 0,
            next_grant: FIRST_GRANT,
            takes: 0,
            blocks_taken: 0,
        }
    }
}

impl Arena {
    /// Free blocks beyond what was promised.
    pub(super) fn spare(&self) -> u64 {
        (self.free.len() + self.held).saturating_sub(self.promised)
    }

    /// What is missing to meet the promises.
    pub(super) fn shortfall(&self) -> u64 {
        self.promised.saturating_sub(self.free.len() + self.held)
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_unused(&self) -> bool {
        self.extents.is_empty() && self.promised == 0 && self.admitted == 0
    }

    /// What requests under way may still take.
    pub(super) fn undrawn(&self) -> u64 {
        self.admitted - self.drawn
    }

    /// Fills this extent from now on.
    pub(super) fn fill(&mut self, extent: Range<u64>) {
        (self.cursor, self.fresh_end) = (extent.start, extent.end);
        (self.takes, self.blocks_taken) = (0, 0);
    }

    /// Whether the extent that is being filled was taken from at least so many times, on average
    /// fewer than `blocks` blocks.
    pub(super) fn writes_small(&self, times: u64, blocks: u64) -> bool {
        self.takes >= times && self.blocks_taken < self.takes * blocks
    }

    /// Whether the extent that is being filled has so many blocks left.
    fn goes_on(&self, count: u64) -> bool {
        let mut found = 0;
        self.free.within(self.cursor..self.fresh_end).any(|run| {
            found += run.end - run.start;
            found >= count
        })
    }

    /// Whether the log has gone past `extent`: what became free there since is scattered.
    pub(super) fn has_left(&self, extent: &Range<u64>) -> bool {
        !extent.contains(&self.cursor)
    }

    /// Takes exactly `count` blocks; the caller has seen that there are so many.
    fn take(&mut self, near: Option<BlockAddr>, count: u64) -> Vec<Range<u64>> {
        let taken = match self.one_run(near, count) {
            Some(run) => vec![run],
            None => self.pieces(count),
        };
        for run in &taken {
            self.free.remove(run.clone());
            self.cursor = run.end;
        }
        self.takes += 1;
        self.blocks_taken += count;
        taken
    }

    fn one_run(&self, near: Option<BlockAddr>, count: u64) -> Option<Range<u64>> {
        let long_enough = |run: &Range<u64>| run.end - run.start >= count;
        let filled = self.cursor..self.fresh_end;
        let after = near.map(BlockAddr::raw).filter(|next| {
            // Not back to an extent that was left.
            filled.is_empty() || filled.contains(next)
        });
        let after = after.and_then(|next| self.free.run_of(next).map(|run| next..run.end));
        let found = after
            .filter(long_enough)
            .or_else(|| self.from_cursor().take(RUNS_TRIED).find(long_enough));
        found.map(|run| run.start..run.start + count)
    }

    fn pieces(&self, count: u64) -> Vec<Range<u64>> {
        let mut wanted = count;
        let mut pieces = Vec::new();
        for run in self.from_cursor() {
            let piece = run.start..run.end.min(run.start + wanted);
            wanted -= piece.end - piece.start;
            pieces.push(piece);
            if wanted == 0 {
                break;
            }
        }
        assert!(wanted == 0, "an arena has fewer blocks than it says");
        pieces
    }

    fn from_cursor(&self) -> impl Iterator<Item = Range<u64>> {
        self.around(self.cursor)
    }

    /// All free runs once, from the one at `from` on, then those before it.
    fn around(&self, from: u64) -> impl Iterator<Item = Range<u64>> {
        let after = self.free.within(from..u64::MAX);
        after.chain(self.free.within(0..from))
    }
}

impl Space {
    /// Takes exactly `count` blocks from the disk's extents: in one run from `near` on if
    /// possible, else in one run, else in pieces. `None`: not so many there; get a grant.
    pub fn take(
        &mut self,
        disk: DiskId,
        near: Option<BlockAddr>,
        count: u64,
    ) -> Option<Vec<BlockRun>> {
        if self.arena_free(disk) < count {
            return None;
        }
        let runs = self.change_arena(disk, |arena| arena.take(near, count));
        for run in &runs {
            self.add_taken(run.clone(), Change::More);
        }
        let block_run = |run: Range<u64>| BlockRun {
            start: BlockAddr::of(run.start),
            count: run.end - run.start,
        };
        Some(runs.into_iter().map(block_run).collect())
    }

    /// Whether the disk is to take `count` blocks from what it has. While the store has plenty of
    /// room, that is only where the extent being filled has so many left: the log would be
    /// scattered over whatever became free in older ones.
    pub fn has_room(&self, disk: DiskId, count: u64) -> bool {
        let Some(arena) = self.arenas.get(&disk) else { return false };
        arena.free.len() >= count && (arena.goes_on(count) || !self.is_roomy(count))
    }

    /// No better place than scattered holes was found: takes from them until the next extent.
    pub fn settle_for_holes(&mut self, disk: DiskId) {
        self.change_arena(disk, |arena| arena.fill(0..u64::MAX));
    }

    /// Free blocks in the disk's extents.
    pub fn arena_free(&self, disk: DiskId) -> u64 {
        self.arenas.get(&disk).map_or(0, |arena| arena.free.len())
    }

    /// Taken blocks that nobody reads or ever will: free at once.
    ///
    /// # Panics
    /// Where a block is not taken: reusing it would corrupt somebody's data.
    pub fn give_back(&mut self, blocks: &[BlockAddr]) {
        for run in self.taken_runs(blocks) {
            self.add_taken(run.clone(), Change::Less);
            self.free_run(run);
        }
    }

    /// Taken blocks that are done with but may still be read: to limbo.
    ///
    /// # Panics
    /// Where a block is not taken.
    pub fn retire(&mut self, blocks: &[BlockAddr]) {
        for run in self.taken_runs(blocks) {
            self.add_taken(run.clone(), Change::Less);
            self.limbo.insert(run);
        }
    }

    /// Blocks in limbo whose last reader has gone: free, to the extent that they lie in or to
    /// all.
    ///
    /// # Panics
    /// Where a block is not in limbo.
    pub fn release(&mut self, blocks: &[BlockAddr]) {
        for run in runs_of(blocks).expect("a block is released once") {
            self.release_range(run);
        }
    }

    pub(super) fn release_range(&mut self, range: Range<u64>) {
        self.limbo.remove(range.clone());
        self.free_run(range);
    }

    /// Frees blocks that are in no state any more.
    fn free_run(&mut self, range: Range<u64>) {
        let mut from = range.start;
        while from < range.end {
            let (piece, owner) = self.piece_at(from, range.end);
            from = piece.end;
            let count = piece.end - piece.start;
            match owner.map(|start| self.extents[&start].place()) {
                None => self.search.note_freed(piece),
                Some((Phase::Open, disk)) => {
                    self.change_arena(disk, |arena| arena.free.insert(piece));
                }
                Some((Phase::Closed, _)) => self.idle.insert(piece),
                Some((Phase::Held, _)) => self.add_held(owner.unwrap_or_default(), count),
            }
        }
    }

    /// The blocks from `from` on, before `end`, that lie in one extent (its start is returned)
    /// or in none.
    pub(super) fn piece_at(&self, from: u64, end: u64) -> (Range<u64>, Option<u64>) {
        if let Some((start, extent)) = self.extent_at(from) {
            return (from..end.min(extent.end), Some(start));
        }
        let next = self.extents.range(from..).next().map_or(end, |(start, _)| *start);
        (from..end.min(next), None)
    }

    fn taken_runs(&self, blocks: &[BlockAddr]) -> Vec<Range<u64>> {
        let runs = runs_of(blocks).expect("a block is handed back once");
        let stray = runs.iter().find_map(|run| self.first_not_taken(run.clone()));
        assert!(stray.is_none(), "block {stray:?} is handed back but not taken");
        runs
    }

    /// The first block of `range` that is not held by a chain or a checkpoint, as far as can be
    /// seen (its bit may not be loaded).
    pub(super) fn first_not_taken(&self, range: Range<u64>) -> Option<u64> {
        let mut from = range.start;
        while from < range.end {
            let (piece, owner) = self.piece_at(from, range.end);
            let extent = owner.map(|start| &self.extents[&start]);
            let Some(extent) = extent.filter(|extent| extent.phase != Phase::Held) else {
                return Some(from);
            };
            from = piece.end;
            let arena = self.arenas.get(&extent.disk);
            let free = arena.and_then(|arena| arena.free.first_within(piece.clone()));
            let idle = self.idle.first_within(piece.clone());
            let limbo = self.limbo.first_within(piece.clone());
            let used = self.bitmap.first_used(piece);
            let stray = [free, idle, limbo, used].into_iter().flatten().min();
            if stray.is_some() {
                return stray;
            }
        }
        None
    }
}
