//! A set of blocks kept as runs: coalescing, never overlapping.

use std::collections::BTreeMap;
use std::ops::Range;

use bough_blockstore::BlockAddr;

/// Blocks as bare numbers, in maximal runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunSet {
    /// Start → end, both as bare numbers.
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
        let (start, end) = self.runs.range(..=block).next_back()?;
        (block < *end).then_some(*start..*end)
    }

    /// Whether any block of `range` is in the set.
    pub(super) fn intersects(&self, range: Range<u64>) -> bool {
        self.first_within(range).is_some()
    }

    /// The first block of `range` that is in the set.
    pub(super) fn first_within(&self, range: Range<u64>) -> Option<u64> {
        let (start, end) = self.runs.range(..range.end).next_back()?;
        if *end <= range.start {
            return None;
        }
        if *start <= range.start {
            return Some(range.start);
        }
        self.within(range).next().map(|run| run.start)
    }

    /// How many blocks of `range` are in the set.
    pub(super) fn count_within(&self, range: Range<u64>) -> u64 {
        self.within(range).map(|run| run.end - run.start).sum()
    }

    /// What of the set lies in `range`, ascending, cut to it.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.run_of(range.start).map_or(range.start, |run| run.start);
        let last = range.end.max(first);
        self.runs
            .range(first..last)
            .map(move |(start, end)| (*start).max(range.start)..(*end).min(range.end))
            .filter(|run| run.start < run.end)
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
        let end = self.runs.remove(&range.end).unwrap_or(range.end);
        match self.runs.range_mut(..range.start).next_back() {
            Some((_, before)) if *before == range.start => *before = end,
            _ => drop(self.runs.insert(range.start, end)),
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
        let run = self.runs.range_mut(..=range.start).next_back();
        let run = run.filter(|(_, end)| range.end <= **end);
        let (start, end) = run.unwrap_or_else(|| panic!("blocks {range:?} are not free"));
        let (start, run_end) = (*start, std::mem::replace(end, range.start));
        self.len -= range.end - range.start;
        if start == range.start {
            self.runs.remove(&start);
        }
        if range.end < run_end {
            self.runs.insert(range.end, run_end);
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
