//! The best stretch for an extent among free runs; pure.

use std::ops::Range;

use bough_blockstore::to_u64;

/// The least that is worth an extent while there are better places: 64 KiB...
const DENSE_BLOCKS: u64 = 16;
/// ...in runs of 16 KiB on average. Each run is a write of its own.
const DENSE_RUN_BLOCKS: u64 = 4;

/// A stretch of blocks, some of them free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub(super) range: Range<u64>,
    pub(super) free: u64,
    /// In how many runs these lie.
    pub(super) runs: u64,
}

impl Window {
    /// Whether writes into it would mostly be long ones.
    pub(super) fn is_dense(&self) -> bool {
        self.free >= DENSE_BLOCKS && self.free >= self.runs * DENSE_RUN_BLOCKS
    }

    fn span(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The window for `want` blocks: a single run if there is one, else the shortest with so many
/// free blocks, else the one with the most. A window stays within one group of runs.
pub(super) fn choose(groups: &[Vec<Range<u64>>], want: u64) -> Option<Window> {
    let runs = groups.iter().flatten();
    let whole = runs.into_iter().find(|run| run.end - run.start >= want);
    if let Some(run) = whole {
        return Some(Window { range: run.start..run.start + want, free: want, runs: 1 });
    }
    let best = groups.iter().filter_map(|runs| shortest(runs, want));
    let best = best.min_by_key(|window| (window.span(), window.range.start));
    best.or_else(|| {
        let all = groups.iter().filter_map(|runs| everything(runs));
        all.max_by_key(|window| (window.free, std::cmp::Reverse(window.range.start)))
    })
}

/// The shortest stretch with `want` free blocks, beginning and ending with free ones.
fn shortest(runs: &[Range<u64>], want: u64) -> Option<Window> {
    let mut best: Option<Window> = None;
    let (mut first, mut free) = (0, 0);
    for (last, run) in runs.iter().enumerate() {
        free += run.end - run.start;
        while free - length(&runs[first]) >= want {
            free -= length(&runs[first]);
            first += 1;
        }
        if free >= want {
            // What is too much is cut off at the end.
            let range = runs[first].start..run.end - (free - want);
            let window = Window { range, free: want, runs: to_u64(last - first + 1) };
            if best.as_ref().is_none_or(|best| window.span() < best.span()) {
                best = Some(window);
            }
        }
    }
    best
}

fn everything(runs: &[Range<u64>]) -> Option<Window> {
    let range = runs.first()?.start..runs.last()?.end;
    Some(Window { range, free: runs.iter().map(length).sum(), runs: to_u64(runs.len()) })
}

fn length(run: &Range<u64>) -> u64 {
    run.end - run.start
}
