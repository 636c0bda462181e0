//! What a simulated medium holds, and what a crash leaves of it.

use std::collections::VecDeque;

use super::pages::{Page, PageMap, SECTOR_BYTES, WHOLE};
use super::rng::SimRng;
use crate::addr::{BLOCK_BYTES, BlockAddr, BlockCount, to_u64, to_usize};

const SECTORS_PER_BLOCK: usize = BLOCK_BYTES / SECTOR_BYTES;

/// How a machine ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashKind {
    /// The process dies. Completed writes stay, though not synced ones are still volatile: a
    /// power cut after the restart may take them. Each write under way happened, or not, or
    /// in part.
    Kill,
    /// The machine loses power. Of what was not synced any subset stays.
    PowerCut,
}

/// A change that a power cut may undo.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// These pages from `at` on.
    Pages { at: u64, pages: Vec<Page> },
    /// The medium has this many blocks.
    Length(u64),
}

/// Where in the order of completions a change stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ChangeOrder(u64);

/// The contents of a medium, its volatile cache included. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SimImage {
    virgin: Page,
    current: PageMap,
    durable: PageMap,
    current_blocks: u64,
    durable_blocks: u64,
    unsynced: VecDeque<(ChangeOrder, Change)>,
    next_order: u64,
    allocated: u64,
}

impl SimImage {
    /// A sparse file of zeros.
    pub fn zeroed(blocks: BlockCount) -> Self {
        Self::filled(blocks, Page::Hole)
    }

    /// A device that somebody else has used before.
    pub fn used_before(blocks: BlockCount, seed: u64) -> Self {
        Self::filled(blocks, Page::Garbage(seed))
    }

    fn filled(blocks: BlockCount, virgin: Page) -> Self {
        Self {
            virgin,
            current: PageMap::default(),
            durable: PageMap::default(),
            current_blocks: blocks.0,
            durable_blocks: blocks.0,
            unsynced: VecDeque::new(),
            next_order: 0,
            allocated: 0,
        }
    }

    /// How many blocks there are.
    pub const fn block_count(&self) -> BlockCount {
        BlockCount(self.current_blocks)
    }

    /// How many blocks the host keeps.
    pub const fn allocated(&self) -> BlockCount {
        BlockCount(self.allocated)
    }

    /// One block, as a read sees it.
    pub fn read(&self, at: BlockAddr) -> Box<[u8; BLOCK_BYTES]> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        self.page(at.raw()).copy_to(&mut bytes);
        bytes
    }

    /// Changes one block behind everybody's back, durably: a damage tool.
    pub fn damage(&mut self, at: BlockAddr, change: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
        let mut bytes = self.read(at);
        change(&mut bytes);
        let page = Page::copy_of(&bytes[..]);
        self.durable.put(at.raw(), page.clone());
        self.place(at.raw(), page);
    }

    /// Has the host keep blocks from now on, durably. What they hold stays.
    pub(super) fn reserve(&mut self, at: u64, count: u64) {
        let zeros = Page::copy_of(&[0; BLOCK_BYTES]);
        for block in at..at + count {
            let page = match self.page(block) {
                Page::Hole => zeros.clone(),
                page => page.kept(),
            };
            if self.durable.get(block).is_none() {
                self.durable.put(block, page.clone());
            }
            self.place(block, page);
        }
    }

    /// Cuts the medium short, durably: a damage tool.
    pub fn truncate(&mut self, blocks: BlockCount) {
        self.resize_current(blocks.0);
        self.durable.truncate(blocks.0);
        self.durable_blocks = blocks.0;
        self.unsynced.clear();
    }

    pub(super) fn page(&self, block: u64) -> Page {
        self.current.get(block).map_or_else(|| self.virgin_page(block), Page::clone)
    }

    fn virgin_page(&self, block: u64) -> Page {
        match self.virgin {
            Page::Garbage(seed) => Page::Garbage(SimRng::new(seed ^ block).next_u64()),
            _ => Page::Hole,
        }
    }

    /// How many of `count` blocks from `at` on the host would have to find room for.
    pub(super) fn unallocated(&self, at: u64, count: u64) -> u64 {
        let absent = |block: &u64| !self.page(*block).is_allocated();
        to_u64((at..at + count).filter(absent).count())
    }

    /// A completed change: visible from now on, durable once synced.
    pub(super) fn apply(&mut self, change: Change) {
        match &change {
            Change::Pages { at, pages } => {
                for (block, page) in (*at..).zip(pages) {
                    self.place(block, page.clone());
                }
            }
            Change::Length(blocks) => self.resize_current(*blocks),
        }
        self.unsynced.push_back((ChangeOrder(self.next_order), change));
        self.next_order += 1;
    }

    fn place(&mut self, block: u64, page: Page) {
        let gains = u64::from(page.is_allocated());
        let before = self.current.put(block, page);
        self.allocated += gains;
        self.allocated -= u64::from(before.is_some_and(|page| page.is_allocated()));
    }

    fn resize_current(&mut self, blocks: u64) {
        if blocks < self.current_blocks {
            self.current.truncate(blocks);
            self.allocated = to_u64(self.current.allocated());
        }
        self.current_blocks = blocks;
    }

    /// What a sync begun now promises: every change before this one.
    pub(super) const fn sync_mark(&self) -> ChangeOrder {
        ChangeOrder(self.next_order)
    }

    /// A sync has done what it promised.
    pub(super) fn harden(&mut self, mark: ChangeOrder) {
        while let Some((_, change)) = self.pop_before(mark) {
            self.keep(&change, &mut |_| WHOLE);
        }
    }

    /// A sync has failed: what it should have written is written, torn or lost, and the cache
    /// thinks it clean. Reads go on seeing it.
    pub(super) fn fail_sync(&mut self, mark: ChangeOrder, rng: &mut SimRng) {
        while let Some((_, change)) = self.pop_before(mark) {
            let keep = Fate::pick(rng, Mood::Mixed { kept_percent: 50 });
            self.keep(&change, &mut |sector| keep.mask(sector, rng));
        }
    }

    fn pop_before(&mut self, mark: ChangeOrder) -> Option<(ChangeOrder, Change)> {
        self.unsynced.pop_front_if(|(order, _)| *order < mark)
    }

    /// Makes durable those sectors of a change that `mask` picks, block by block.
    fn keep(&mut self, change: &Change, mask: &mut dyn FnMut(usize) -> u8) {
        match change {
            Change::Length(blocks) => {
                if mask(0) != 0 {
                    self.durable_blocks = *blocks;
                }
            }
            Change::Pages { at, pages } => {
                for (index, page) in pages.iter().enumerate() {
                    let block = at + to_u64(index);
                    let old = self.durable.get(block).cloned();
                    let old = old.unwrap_or_else(|| self.virgin_page(block));
                    match mask(index) {
                        0 => {}
                        picked => drop(self.durable.put(block, old.mixed(page, picked))),
                    }
                }
            }
        }
    }

    /// What a crash leaves, `under_way` being what had been asked for and not answered.
    pub(super) fn crashed(
        mut self,
        kind: CrashKind,
        under_way: Vec<Change>,
        rng: &mut SimRng,
    ) -> Self {
        let mood = Mood::pick(rng);
        for change in under_way {
            self.land(change, Fate::pick(rng, mood), rng);
        }
        if kind == CrashKind::PowerCut {
            self.lose_power(Mood::pick(rng), rng);
        }
        self
    }

    /// A change that was under way, as far as it got.
    pub(super) fn land(&mut self, change: Change, fate: Fate, rng: &mut SimRng) {
        match change {
            Change::Length(_) if matches!(fate, Fate::Nothing) => {}
            Change::Length(_) => self.apply(change),
            Change::Pages { at, pages } => {
                for (index, page) in pages.into_iter().enumerate() {
                    let block = at + to_u64(index);
                    let mask = fate.mask(index, rng);
                    if mask != 0 {
                        let page = self.page(block).mixed(&page, mask);
                        self.apply(Change::Pages { at: block, pages: vec![page] });
                    }
                }
            }
        }
    }

    fn lose_power(&mut self, mood: Mood, rng: &mut SimRng) {
        for (_, change) in std::mem::take(&mut self.unsynced) {
            let fate = Fate::pick(rng, mood);
            self.keep(&change, &mut |index| fate.mask(index, rng));
        }
        self.durable.truncate(self.durable_blocks);
        self.current = self.durable.clone();
        self.current_blocks = self.durable_blocks;
        self.allocated = to_u64(self.current.allocated());
    }
}

/// How kind a crash is as a whole: the extremes are where the bugs are, and independent coins
/// alone would never reach them.
#[derive(Clone, Copy)]
enum Mood {
    KeepsAll,
    KeepsNone,
    Mixed { kept_percent: u64 },
}

impl Mood {
    fn pick(rng: &mut SimRng) -> Self {
        match rng.below(6) {
            0 => Self::KeepsAll,
            1 => Self::KeepsNone,
            2 => Self::Mixed { kept_percent: 90 },
            3 => Self::Mixed { kept_percent: 10 },
            _ => Self::Mixed { kept_percent: 50 },
        }
    }
}

/// What becomes of one write that nobody vouched for.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    Whole,
    Nothing,
    /// The sectors before this one.
    Prefix(usize),
    /// Every sector by a coin of its own.
    Torn,
}

impl Fate {
    fn pick(rng: &mut SimRng, mood: Mood) -> Self {
        let kept_percent = match mood {
            Mood::KeepsAll => return Self::Whole,
            Mood::KeepsNone => return Self::Nothing,
            Mood::Mixed { kept_percent } => kept_percent,
        };
        if rng.chance(1, 4) {
            Self::torn(rng)
        } else if rng.chance(kept_percent, 100) {
            Self::Whole
        } else {
            Self::Nothing
        }
    }

    pub(super) fn torn(rng: &mut SimRng) -> Self {
        // Short prefixes matter most (a header without its data), whatever the write's length.
        match rng.below(3) {
            0 => Self::Prefix(to_usize(rng.below(2 * to_u64(SECTORS_PER_BLOCK) + 1))),
            1 => Self::Prefix(to_usize(rng.below(64 * to_u64(SECTORS_PER_BLOCK)))),
            _ => Self::Torn,
        }
    }

    /// The sectors that survive of a write's block number `index`.
    fn mask(self, index: usize, rng: &mut SimRng) -> u8 {
        match self {
            Self::Whole => WHOLE,
            Self::Nothing => 0,
            Self::Torn => rng.sector_mask(),
            Self::Prefix(sectors) => {
                let here = sectors.saturating_sub(index * SECTORS_PER_BLOCK).min(SECTORS_PER_BLOCK);
                (0..here).fold(0, |mask, sector| mask | (1 << sector))
            }
        }
    }
}
