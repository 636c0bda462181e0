//! Choosing virgin blocks to be written before anybody wants them.
//!
//! The first write to a block of a sparse file costs the host's file system an allocation or a
//! conversion, and the next sync has that to keep, too. A log of large records hardly notices. For
//! one of small records the blocks that it will be granted next are filled with zeros beforehand.
//!
//! Invariant: a piece that is being filled is granted to nobody until it is.

use std::ops::Range;

use bough_blockstore::{BlockAddr, BlockRun, DiskId};

use super::Space;
use super::runs::without;

/// A record of fewer blocks than this (256 KiB) is small.
const SMALL_BLOCKS: u64 = 64;
/// How many of a log's records are looked at before it is judged.
const RECORDS_JUDGED: u64 = 64;
/// Nothing is written ahead where less than so many times as much is left.
const LEAST_ROOM: u64 = 4;

/// How far virgin blocks are written.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Virgin blocks below this have been written.
    written_to: u64,
    /// Up to here they are to be.
    goal: u64,
    /// These are being written now.
    piece: Option<Range<u64>>,
    /// The host would not have it, or the store is being closed.
    ended: bool,
}

impl Ahead {
    fn goes_on(&self) -> bool {
        self.piece.is_some() || self.written_to < self.goal
    }
}

impl Space {
    /// Sets a goal where the disk's log would gain by it. `true`: [`Space::plan_ahead`] has
    /// something to do, and nobody is at it.
    pub fn begin_ahead(&mut self, disk: DiskId) -> bool {
        let Some(arena) = self.arenas.get(&disk) else { return false };
        let want = arena.next_grant;
        let virgin = self.total.saturating_sub(self.virgin_from);
        let has = self.ahead.written_to.saturating_sub(self.virgin_from);
        let worth_it = arena.writes_small(RECORDS_JUDGED, SMALL_BLOCKS)
            && has < want / 2
            && virgin > want * LEAST_ROOM
            && !self.search.has_dense();
        if !worth_it || self.ahead.ended || self.ahead.goes_on() {
            return false;
        }
        self.ahead.goal = self.virgin_from + want;
        true
    }

    /// As [`Space::begin_ahead`], whoever gains by it.
    #[cfg(test)]
    pub(super) fn set_goal_ahead(&mut self, blocks: u64) {
        self.ahead.goal = self.virgin_from + blocks;
    }

    /// The next piece to be filled with zeros, of at most `most` blocks; none where the goal is
    /// reached. [`Space::end_ahead`] when that is done.
    pub fn plan_ahead(&mut self, most: u64) -> Option<BlockRun> {
        let from = self.ahead.written_to.max(self.virgin_from);
        let rest = from..self.ahead.goal.min(self.total).max(from);
        let open = without(rest.clone(), self.reserved.within(rest));
        let Some(first) = open.into_iter().find(|run| !run.is_empty()) else {
            self.ahead.goal = 0;
            return None;
        };
        let piece = first.start..first.end.min(first.start + most);
        self.busy.insert(piece.clone());
        self.ahead.piece = Some(piece.clone());
        Some(BlockRun { start: BlockAddr::of(piece.start), count: piece.end - piece.start })
    }

    /// All that is to be filled from `piece` on.
    pub fn wanted_ahead(&self, piece: BlockRun) -> BlockRun {
        let end = piece.end().max(self.ahead.goal.min(self.total));
        BlockRun { start: piece.start, count: end - piece.start.raw() }
    }

    /// The piece from [`Space::plan_ahead`] has been filled, or could not be.
    pub fn end_ahead(&mut self, filled: bool) {
        let Some(piece) = self.ahead.piece.take() else { return };
        self.busy.remove(piece.clone());
        self.ahead.written_to = piece.end;
        if !filled {
            self.stop_ahead();
        }
        // Grants have gone past it meanwhile.
        let passed = piece.start..piece.end.min(self.virgin_from).max(piece.start);
        if !passed.is_empty() {
            self.search.note_freed(passed);
        }
    }

    /// Nothing more is written ahead.
    pub fn stop_ahead(&mut self) {
        self.ahead.ended = true;
        self.ahead.goal = 0;
    }

    /// Whether a piece is being filled now.
    pub fn fills_ahead(&self) -> bool {
        self.ahead.piece.is_some()
    }
}
