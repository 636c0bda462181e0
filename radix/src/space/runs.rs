//! A set of blocks kept as runs: coalescing, never overlapping.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;

use bough_blockstore::BlockAddr;

/// Blocks as bare numbers, in maximal runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunSet {
    /// End → start, both as bare numbers: what is taken from the front of a run, as logs do, leaves
    /// its key as it is.
    runs: BTreeMap<u64, u64>,
    len: u64,
}

impl RunSet {
    /// How many blocks.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The run that holds `block`.
    pub(super) fn run_of(&self, block: u64) -> Option<Range<u64>> {
        self.from(block).next().filter(|run| run.start <= block)
    }

    /// Whether any block of `range` is in the set.
    pub(super) fn intersects(&self, range: Range<u64>) -> bool {
        self.first_within(range).is_some()
    }

    /// The first block of `range` that is in the set.
    pub(super) fn first_within(&self, range: Range<u64>) -> Option<u64> {
        self.within(range).next().map(|run| run.start)
    }

    /// How many blocks of `range` are in the set.
    pub(super) fn count_within(&self, range: Range<u64>) -> u64 {
        self.within(range).map(|run| run.end - run.start).sum()
    }

    /// What of the set lies in `range`, ascending, cut to it.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.from(range.start)
            .map(move |run| run.start.max(range.start)..run.end.min(range.end))
            .take_while(|run| run.start < run.end)
    }

    /// The runs that have blocks from `block` on, whole.
    fn from(&self, block: u64) -> impl Iterator<Item = Range<u64>> {
        self.runs.range((Excluded(block), Unbounded)).map(|(end, start)| *start..*end)
    }

    /// Adds blocks, none of which may be in the set.
    ///
    /// # Panics
    /// Where one is: some block was handed back twice, a bug of ours that would corrupt data.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        assert!(!self.intersects(range.clone()), "blocks {range:?} are free already");
        self.len += range.end - range.start;
        let start = self.runs.remove(&range.start).unwrap_or(range.start);
        match self.runs.range_mut((Excluded(range.end), Unbounded)).next() {
            Some((_, after)) if *after == range.end => *after = start,
            _ => drop(self.runs.insert(range.end, start)),
        }
    }

    /// Takes blocks out, all of which must be in the set.
    ///
    /// # Panics
    /// Where one is not: a bug of ours.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let run = self.runs.range_mut((Excluded(range.start), Unbounded)).next();
        let run = run.filter(|(end, start)| **start <= range.start && range.end <= **end);
        let (end, start) = run.unwrap_or_else(|| panic!("blocks {range:?} are not free"));
        let (end, run_start) = (*end, std::mem::replace(start, range.end));
        self.len -= range.end - range.start;
        if end == range.end {
            self.runs.remove(&end);
        }
        if run_start < range.start {
            self.runs.insert(range.start, run_start);
        }
    }
}

/// The blocks as runs, ascending; fails with a block that is named twice.
pub(super) fn runs_of(blocks: &[BlockAddr]) -> Result<Vec<Range<u64>>, BlockAddr> {
    let mut sorted = blocks.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in sorted {
        match runs.last_mut() {
            Some(last) if last.end > block.raw() => return Err(block),
            Some(last) if last.end == block.raw() => last.end += 1,
            _ => runs.push(block.raw()..block.raw() + 1),
        }
    }
    Ok(runs)
}

/// `from` without what is in `holes`.
pub(super) fn without(
    from: Range<u64>,
    holes: impl Iterator<Item = Range<u64>>,
) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    let mut start = from.start;
    for hole in holes {
        if start < hole.start {
            rest.push(start..hole.start);
        }
        start = hole.end;
    }
    if start < from.end {
        rest.push(start..from.end);
    }
    rest
}
