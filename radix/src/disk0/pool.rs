//! The blocks of disk 0: a fixed pool, set aside when the store was made.
//!
//! Owns which of them are free. Keeps nothing on the store: whoever opens it walks disk 0 and
//! claims what that uses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::{BlockAddr, BlockRun, ChainSpace, PoolRun, RefillFuture, SpaceError};

use crate::gate::ReadGate;
use crate::range_set::RangeSet;

/// Free blocks of the pool, by their first copies' addresses.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    runs: Vec<PoolRun>,
    free: RangeSet,
    free_count: u64,
    total: u64,
    cursor: u64,
}

impl Pool {
    /// A pool of which everything is free.
    pub fn new(runs: &[PoolRun]) -> Self {
        let mut state = State {
            runs: Vec::new(),
            free: RangeSet::default(),
            free_count: 0,
            total: 0,
            cursor: 0,
        };
        runs.iter().for_each(|run| state.add(*run));
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool has grown.
    pub fn add_run(&self, run: PoolRun) {
        self.lock().add(run);
    }

    /// Whether a block belongs to the pool.
    pub fn contains(&self, block: BlockAddr) -> bool {
        self.lock().is_primary(block)
    }

    /// All of its blocks (each counted once, though it is kept twice).
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Blocks that may be taken.
    pub fn free_count(&self) -> u64 {
        self.lock().free_count
    }

    /// Takes `block` out of the free ones: disk 0 uses it. `false` where it is not free: used
    /// twice, or not the pool's at all.
    pub fn claim(&self, block: BlockAddr) -> bool {
        self.lock().claim(block)
    }

    /// Exactly `count` blocks, in one run from `near` on where possible.
    pub fn take(&self, near: Option<BlockAddr>, count: u64) -> Option<Vec<BlockRun>> {
        self.lock().take(near, count)
    }

    /// The blocks may be taken again.
    pub fn release(&self, blocks: &[BlockAddr]) {
        let mut state = self.lock();
        for block in blocks {
            let raw = block.raw();
            assert!(!state.free.contains(raw), "block {block} of the pool was freed twice");
            state.free.insert(raw..raw + 1);
            state.free_count += 1;
        }
    }
}

impl State {
    fn add(&mut self, run: PoolRun) {
        let start = run.primary.raw();
        self.free.insert(start..start + run.count);
        self.free_count += run.count;
        self.total += run.count;
        self.runs.push(run);
    }

    fn is_primary(&self, block: BlockAddr) -> bool {
        self.runs
            .iter()
            .any(|run| BlockRun { start: run.primary, count: run.count }.contains(block))
    }

    fn claim(&mut self, block: BlockAddr) -> bool {
        let raw = block.raw();
        if !self.free.contains(raw) {
            return false;
        }
        self.free.remove(raw..raw + 1);
        self.free_count -= 1;
        true
    }

    fn take(&mut self, near: Option<BlockAddr>, count: u64) -> Option<Vec<BlockRun>> {
        if self.free_count < count {
            return None;
        }
        let mut taken = Vec::new();
        let mut missing = count;
        let whole = near
            .and_then(|near| self.run_at(near.raw(), count))
            .or_else(|| self.first_run_of(self.cursor, count))
            .or_else(|| self.first_run_of(0, count));
        while missing > 0 {
            let piece = match whole {
                Some(start) => start..start + count,
                None => self.any_piece(missing)?,
            };
            missing -= piece.end - piece.start;
            self.free.remove(piece.clone());
            self.cursor = piece.end;
            taken.push(BlockRun {
                start: BlockAddr::of(piece.start),
                count: piece.end - piece.start,
            });
        }
        self.free_count -= count;
        Some(taken)
    }

    fn run_at(&self, start: u64, count: u64) -> Option<u64> {
        let room = self.free.run_from(start)?;
        (room.end - start >= count).then_some(start)
    }

    fn first_run_of(&self, from: u64, count: u64) -> Option<u64> {
        self.free.iter_from(from).find(|r| r.end - r.start >= count).map(|r| r.start)
    }

    fn any_piece(&self, at_most: u64) -> Option<std::ops::Range<u64>> {
        let piece = self.free.iter_from(self.cursor).next().or_else(|| self.free.iter().next())?;
        Some(piece.start..piece.end.min(piece.start + at_most))
    }
}

/// The pool as the catalogue's chain sees it: what it gives back waits for readers.
pub struct PoolSpace {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Who may still be reading.
    pub gate: Arc<ReadGate>,
}

impl ChainSpace for PoolSpace {
    fn take(&self, near: Option<BlockAddr>, count: u64) -> Option<Vec<BlockRun>> {
        self.pool.take(near, count)
    }

    fn refill(&self, count: u64) -> RefillFuture {
        // A commit looks for room before it stages anything: there is nothing to wait for here.
        let enough = self.pool.free_count() >= count;
        Box::pin(async move { if enough { Ok(()) } else { Err(SpaceError::Full) } })
    }

    fn give_back(&self, blocks: &[BlockAddr]) {
        self.gate.defer(blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u64) -> Pool {
        let primary = BlockAddr::of(10);
        Pool::new(&[PoolRun { primary, mirror: BlockAddr::of(10 + count), count }])
    }

    #[test]
    fn a_fragmented_pool_still_gives_every_free_block_once() {
        let pool = pool(8);
        let first = pool.take(None, 8).unwrap();
        assert_eq!(first, [BlockRun { start: BlockAddr::of(10), count: 8 }]);
        assert_eq!(pool.take(None, 1), None);
        pool.release(&[10, 12, 13, 16].map(BlockAddr::of));
        let mut pieces: Vec<u64> =
            pool.take(None, 4).unwrap().iter().flat_map(|r| r.blocks()).map(|b| b.raw()).collect();
        pieces.sort_unstable();
        assert_eq!(pieces, [10, 12, 13, 16]);
        assert_eq!(pool.free_count(), 0);
    }

    #[test]
    fn a_run_is_continued_where_that_is_asked_for_and_possible() {
        let pool = pool(8);
        let head = pool.take(None, 1).unwrap()[0].start;
        let more = pool.take(Some(head.next()), 3).unwrap();
        assert_eq!(more, [BlockRun { start: head.next(), count: 3 }]);
    }

    #[test]
    fn a_block_is_claimed_once_and_only_from_the_pool() {
        let pool = pool(2);
        assert!(pool.claim(BlockAddr::of(11)));
        assert!(!pool.claim(BlockAddr::of(11)));
        assert!(!pool.claim(BlockAddr::of(12)), "a second copy is no block of its own");
    }
}
