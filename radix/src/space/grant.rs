//! Choosing new extents.
//!
//! Below `virgin_from` blocks are recycled, above it none was ever written. Recycled ones come
//! first where they lie densely enough to write long runs; then virgin ones; then whatever holes
//! there are. Pages of the bitmap are looked at one by one and remembered as dense or sparse, so
//! that a nearly full store does not search all of them again for every grant.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bough_blockstore::{BlockAddr, BlockRun, DiskId, VirtualBlock};

use super::bitmap::{PAGE_BLOCKS, blocks_of, indexes_of};
use super::runs::without;
use super::window::{Window, choose};
use super::{Full, Need, Space};

/// The largest extent: 64 MiB.
const GRANT_MAX: u64 = 16_384;
/// No grant takes more than this part of what is left, unless so much is wanted.
const GRANT_SHARE: u64 = 16;
/// How many pages to ask for at once while searching.
const LOAD_AHEAD: u64 = 8;
/// When so many blocks of a sparse page were freed, it is worth another look.
const WORTH_A_LOOK: u64 = PAGE_BLOCKS / 16;
/// Unknown pages are searched before virgin blocks are used where at least one in so many of
/// the blocks below `virgin_from` is free.
const SEARCH_SHARE: u64 = 8;

/// The answer to a wish for blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grant {
    /// This extent is registered for the disk: commit its row (and `virgin_from`), then
    /// [`Space::adopt`] it. It may hold fewer free blocks than wanted: ask again.
    Extent(BlockRun),
    /// Load these bitmap pages, then ask again.
    Load(Vec<VirtualBlock>),
    /// What there is is on its way: being given back to the host, being filled with zeros, or
    /// granted to this disk and not adopted yet. Ask again when that has ended.
    Wait,
    /// There is no room for this need.
    Full(Full),
}

/// Where to look for recycled blocks. A page is in at most one of the three; in none if it was
/// found full.
#[derive(Debug)]
pub(super) struct Search {
    /// Pages never looked at.
    unknown: Range<u64>,
    /// Pages that may have long free runs.
    dense: BTreeSet<u64>,
    /// Where dense pages are looked for next: what was freed longest ago has the fewest blocks
    /// still in use.
    hand: u64,
    /// Pages with scattered free blocks, and how many were freed since.
    sparse: BTreeMap<u64, u64>,
    /// Pages with newly freed blocks, which may be given back to the host.
    pub(super) punchable: BTreeSet<u64>,
    /// What was given back and not used since.
    pub(super) punched: super::runs::RunSet,
}

/// How a page turned out.
enum Look {
    Missing,
    Found(Window),
    Nothing,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Wish {
    disk: DiskId,
    size: u64,
}

impl Search {
    pub(super) fn new(virgin_from: u64) -> Self {
        Self {
            unknown: 0..virgin_from.div_ceil(PAGE_BLOCKS),
            dense: BTreeSet::new(),
            hand: 0,
            sparse: BTreeMap::new(),
            punchable: BTreeSet::new(),
            punched: super::runs::RunSet::default(),
        }
    }

    /// Blocks that nobody holds any more became free for all.
    pub(super) fn note_freed(&mut self, range: Range<u64>) {
        self.punchable.extend(indexes_of(range.clone()));
        self.note_free(range);
    }

    /// Blocks that were given back to the host can be granted again.
    pub(super) fn note_punched(&mut self, range: Range<u64>) {
        self.punched.insert(range.clone());
        self.note_free(range);
    }

    /// These blocks are worth a search.
    fn note_free(&mut self, range: Range<u64>) {
        for index in indexes_of(range.clone()) {
            if self.unknown.contains(&index) || self.dense.contains(&index) {
                continue;
            }
            let own = blocks_of(index);
            let count = own.end.min(range.end) - own.start.max(range.start);
            let freed = self.sparse.entry(index).or_insert(0);
            *freed += count;
            if *freed >= WORTH_A_LOOK {
                self.sparse.remove(&index);
                self.dense.insert(index);
            }
        }
    }

    /// Whether there is anything to recycle that is known to lie densely.
    pub(super) fn has_dense(&self) -> bool {
        !self.dense.is_empty()
    }

    /// Round and round, so that every page has time to become empty.
    fn next_dense(&self) -> Option<u64> {
        self.dense.range(self.hand..).next().or_else(|| self.dense.first()).copied()
    }

    /// Remembers a page that was looked at.
    fn file(&mut self, index: u64, free: u64) {
        if self.unknown.start == index {
            self.unknown.start += 1;
        }
        self.dense.remove(&index);
        self.sparse.remove(&index);
        if free > 0 {
            self.sparse.insert(index, 0);
        }
    }
}

impl Space {
    /// Chooses an extent for the disk with up to `want` free blocks, or more if there is plenty:
    /// 64 KiB at first, doubling to 64 MiB; recycled blocks before virgin ones.
    pub fn plan_grant(&mut self, disk: DiskId, want: u64, need: Need) -> Grant {
        let room = self.grantable(disk, need);
        let full = if self.arenas.get(&disk).is_some_and(|arena| arena.held > 0) {
            Grant::Wait
        } else {
            Grant::Full(Full { wanted: want, available: room })
        };
        if room < want.max(1) {
            return full;
        }
        let preferred = self.arenas.get(&disk).map_or(super::arena::FIRST_GRANT, |a| a.next_grant);
        let size = preferred.min((room / GRANT_SHARE).max(1)).max(want).min(GRANT_MAX);
        let wish = Wish { disk, size };
        let found = self.from_dense(wish);
        let found = found.or_else(|| self.worth_searching().then(|| self.from_unknown(wish))?);
        let found = found.or_else(|| self.from_virgin(wish));
        let found = found.or_else(|| self.from_unknown(wish));
        let nothing = if self.busy.len() > 0 { Grant::Wait } else { full };
        found.or_else(|| self.from_sparse(wish)).unwrap_or(nothing)
    }

    /// Free blocks above `virgin_from`.
    fn virgin_free(&self) -> u64 {
        let virgin = self.virgin_from.min(self.total)..self.total;
        virgin.end - virgin.start - self.reserved.count_within(virgin)
    }

    fn worth_searching(&self) -> bool {
        let recycled = self.ungranted().saturating_sub(self.virgin_free());
        recycled * SEARCH_SHARE >= self.virgin_from
    }

    fn from_dense(&mut self, wish: Wish) -> Option<Grant> {
        while let Some(index) = self.search.next_dense() {
            match self.look(index, wish, Window::is_dense) {
                Look::Missing => return Some(Grant::Load(self.missing([index]))),
                Look::Found(window) => {
                    self.search.hand = index;
                    return Some(self.grant(wish.disk, window));
                }
                Look::Nothing => {}
            }
        }
        None
    }

    fn from_unknown(&mut self, wish: Wish) -> Option<Grant> {
        while !self.search.unknown.is_empty() {
            let index = self.search.unknown.start;
            match self.look(index, wish, Window::is_dense) {
                Look::Missing => {
                    let ahead = index..self.search.unknown.end.min(index + LOAD_AHEAD);
                    return Some(Grant::Load(self.missing(ahead)));
                }
                Look::Found(window) => {
                    // There may be more: from now on the page is known to be worth a look.
                    self.search.file(index, 0);
                    self.search.dense.insert(index);
                    return Some(self.grant(wish.disk, window));
                }
                Look::Nothing => {}
            }
        }
        None
    }

    fn from_sparse(&mut self, wish: Wish) -> Option<Grant> {
        while let Some(index) = self.search.sparse.keys().next().copied() {
            match self.look(index, wish, |_| true) {
                Look::Missing => return Some(Grant::Load(self.missing([index]))),
                Look::Found(window) => return Some(self.grant(wish.disk, window)),
                Look::Nothing => {}
            }
        }
        None
    }

    /// Looks for a window in one page; files the page where there is none.
    fn look(&mut self, index: u64, wish: Wish, good: impl Fn(&Window) -> bool) -> Look {
        if !self.bitmap.has(index) {
            return Look::Missing;
        }
        let groups = self.ungranted_runs(index);
        let window = choose(&groups, wish.size).filter(good);
        if let Some(window) = window {
            return Look::Found(window);
        }
        self.search.file(index, groups.iter().flatten().map(|run| run.end - run.start).sum());
        Look::Nothing
    }

    /// The page's free runs that belong to nobody; one group for each stretch between extents
    /// (and whatever else is not to be granted), since an extent may span used blocks but not
    /// another extent.
    pub(super) fn ungranted_runs(&mut self, index: u64) -> Vec<Vec<Range<u64>>> {
        let own = blocks_of(index);
        let own = own.start..own.end.min(self.virgin_from.min(self.total)).max(own.start);
        let mut groups = Vec::new();
        for stretch in without(own.clone(), self.barriers(own).into_iter()) {
            let runs = self.open_runs(stretch);
            if !runs.is_empty() {
                groups.push(runs);
            }
        }
        groups
    }

    /// Extents, reserved runs and what the host is busy with in `range`, ascending and
    /// cut to it.
    fn barriers(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let first = self.extent_at(range.start).map_or(range.start, |(start, _)| start);
        let extents = self.extents.range(first..range.end.max(first));
        let cut =
            extents.map(|(start, extent)| (*start).max(range.start)..extent.end.min(range.end));
        let others = self.reserved.within(range.clone()).chain(self.busy.within(range.clone()));
        let mut all: Vec<_> = cut.chain(others).collect();
        all.sort_unstable_by_key(|barrier| barrier.start);
        all
    }

    /// Virgin blocks in one run. Their bitmap pages are all zeros and need no loading, but for
    /// one that tells of recycled blocks too.
    fn from_virgin(&mut self, wish: Wish) -> Option<Grant> {
        let virgin = self.virgin_from.min(self.total)..self.total;
        let rest = without(virgin.clone(), self.barriers(virgin).into_iter());
        // Not the little before a piece that is being filled ahead.
        let enough = |run: &&Range<u64>| run.end - run.start >= wish.size / 2;
        let first = rest.iter().find(enough).or_else(|| rest.first())?.clone();
        let range = first.start..first.end.min(first.start + wish.size);
        for index in indexes_of(range.clone()) {
            if self.bitmap.has(index) {
                continue;
            }
            if blocks_of(index).start < self.virgin_from {
                return Some(Grant::Load(self.missing([index])));
            }
            self.bitmap.insert(index, &[0; bough_blockstore::BLOCK_BYTES]);
        }
        self.virgin_from = range.end;
        let passed = rest.into_iter().take_while(|run| run.end <= range.start);
        passed.for_each(|run| self.search.note_freed(run));
        let free = range.end - range.start;
        Some(self.grant(wish.disk, Window { range, free, runs: 1 }))
    }

    fn grant(&mut self, disk: DiskId, window: Window) -> Grant {
        let Window { range, free, .. } = window;
        let start = BlockAddr::of(range.start);
        let count = range.end - range.start;
        let punched: Vec<_> = self.search.punched.within(range.clone()).collect();
        punched.into_iter().for_each(|run| self.search.punched.remove(run));
        self.hold(disk, range, free);
        self.change_arena(disk, |arena| {
            arena.next_grant = (arena.next_grant * 2).min(GRANT_MAX);
        });
        Grant::Extent(BlockRun { start, count })
    }
}
