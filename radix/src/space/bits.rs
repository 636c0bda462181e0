//! Bitmap pages in and out, and the changes that commits make to them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bough_blockstore::{BLOCK_BYTES, BlockAddr, BlockCount, BlockRun, VirtualBlock, to_u64};

use super::bitmap::{BITMAP_BASE, Bitmap, PAGE_BLOCKS, blocks_of, indexes_of, page_at};
use super::runs::{RunSet, runs_of};
use super::{Space, SpaceConfig, SpaceFault, ahead, counts, grant};
use crate::btree::Page;

impl Space {
    /// The allocator of a store; knows no extents and has no bitmap pages loaded.
    ///
    /// # Errors
    /// Where the counters cannot be those of such a store.
    pub fn new(config: SpaceConfig) -> Result<Self, SpaceFault> {
        let (used, total) = (config.used_blocks, config.total.0);
        if used > total || config.virgin_from.raw() > total {
            return Err(SpaceFault::BadCounters { used, total });
        }
        let mut reserved = RunSet::default();
        for run in config.reserved {
            reserved.insert(run.start.raw()..run.end());
        }
        Ok(Self {
            total,
            reserved,
            floors: config.floors,
            used,
            virgin_from: config.virgin_from.raw(),
            bitmap: Bitmap::default(),
            extents: BTreeMap::new(),
            arenas: BTreeMap::new(),
            limbo: RunSet::default(),
            idle: RunSet::default(),
            busy: RunSet::default(),
            sums: counts::Sums::default(),
            search: grant::Search::new(config.virgin_from.raw()),
            ahead: ahead::Ahead::default(),
        })
    }

    /// Which bitmap pages [`Space::commit_bits`] of these blocks needs and has not got.
    pub fn missing_for_blocks<'a>(
        &self,
        blocks: impl IntoIterator<Item = &'a BlockAddr>,
    ) -> Vec<VirtualBlock> {
        let mut wanted: Vec<u64> =
            blocks.into_iter().map(|block| block.raw() / PAGE_BLOCKS).collect();
        wanted.dedup();
        self.missing(BTreeSet::from_iter(wanted))
    }

    /// Which bitmap pages [`Space::adopt`] of this extent needs and has not got.
    pub fn missing_for_run(&self, run: BlockRun) -> Vec<VirtualBlock> {
        self.missing(indexes_of(run.start.raw()..run.end()))
    }

    pub(super) fn missing(&self, indexes: impl IntoIterator<Item = u64>) -> Vec<VirtualBlock> {
        indexes.into_iter().filter(|index| !self.bitmap.has(*index)).map(page_at).collect()
    }

    /// Takes in a bitmap page as the catalogue has it now. Ignored where it is loaded already
    /// (two callers may have asked for it; the loaded one may be newer).
    pub fn load(
        &mut self,
        page: VirtualBlock,
        bytes: &[u8; BLOCK_BYTES],
    ) -> Result<(), SpaceFault> {
        let index = page.raw().checked_sub(BITMAP_BASE).ok_or(SpaceFault::NotLoaded(page))?;
        if self.bitmap.has(index) {
            return Ok(());
        }
        let mut fresh = Bitmap::default();
        fresh.insert(index, bytes);
        let own = blocks_of(index);
        let outside = self.total.clamp(own.start, own.end)..own.end;
        let forbidden: Vec<_> = self.reserved.within(own).chain([outside]).collect();
        for range in forbidden.into_iter().filter(|range| !range.is_empty()) {
            if fresh.clear_runs(range.clone()) != [range] {
                return Err(SpaceFault::ImpossibleBits(page));
            }
        }
        self.bitmap.insert(index, bytes);
        Ok(())
    }

    /// What a commit does to the bitmap: `set` are taken blocks that trees hold from now on,
    /// `clear` are blocks that no tree holds any more; they go to limbo. Checks everything
    /// before it changes anything. Returns the changed pages, for the same commit to write;
    /// call it under the commit lock, so that a later image of a page is written later. The
    /// pages stay in memory until [`Space::written`].
    pub fn commit_bits(
        &mut self,
        set: &[BlockAddr],
        clear: &[BlockAddr],
    ) -> Result<Vec<(VirtualBlock, Page)>, SpaceFault> {
        let set_runs = runs_of(set).map_err(SpaceFault::AlreadyUsed)?;
        let clear_runs = runs_of(clear).map_err(SpaceFault::NotUsed)?;
        let runs = || set_runs.iter().chain(&clear_runs).cloned();
        let changed: BTreeSet<u64> = runs().flat_map(indexes_of).collect();
        if let Some(page) = self.missing(changed.iter().copied()).first() {
            return Err(SpaceFault::NotLoaded(*page));
        }
        self.check_set(&set_runs)?;
        self.check_clear(&clear_runs, to_u64(clear.len()))?;
        for run in set_runs {
            self.bitmap.set(run.clone(), true);
            self.add_taken(run, counts::Change::Less);
        }
        for run in clear_runs {
            self.bitmap.set(run.clone(), false);
            self.limbo.insert(run);
        }
        self.used = self.used + to_u64(set.len()) - to_u64(clear.len());
        Ok(changed.into_iter().map(|index| (page_at(index), self.bitmap.image(index))).collect())
    }

    /// Each block to be set must be taken.
    fn check_set(&self, runs: &[Range<u64>]) -> Result<(), SpaceFault> {
        for run in runs {
            if let Some(used) = self.bitmap.first_used(run.clone()) {
                return Err(SpaceFault::AlreadyUsed(BlockAddr::of(used)));
            }
            if let Some(stray) = self.first_not_taken(run.clone()) {
                return Err(SpaceFault::NotTaken(BlockAddr::of(stray)));
            }
        }
        Ok(())
    }

    /// Each block to be cleared must be set.
    fn check_clear(&self, runs: &[Range<u64>], count: u64) -> Result<(), SpaceFault> {
        let first_free = runs.iter().find_map(|run| self.bitmap.first_clear(run.clone()));
        let excess = || runs.first().filter(|_| self.used < count).map(|run| run.start);
        match first_free.or_else(excess) {
            Some(block) => Err(SpaceFault::NotUsed(BlockAddr::of(block))),
            None => Ok(()),
        }
    }

    /// The commit of these pages is published: reading the catalogue gives them back.
    pub fn written(&mut self, pages: &[VirtualBlock]) {
        for page in pages {
            self.bitmap.written(page.raw() - BITMAP_BASE);
        }
    }

    /// Forgets loaded pages, the least recently used first, until `keep` are left (or only such
    /// as wait for [`Space::written`]).
    pub fn trim(&mut self, keep: usize) {
        self.bitmap.trim(keep);
    }

    /// Bits set, for `Counters::used_blocks` in the commit.
    pub fn used_blocks(&self) -> u64 {
        self.used
    }

    /// For `Counters::virgin_from` in the commit of an extent.
    pub fn virgin_from(&self) -> BlockAddr {
        BlockAddr::of(self.virgin_from)
    }

    /// The store has become larger; `reserved` of the new blocks belong to the catalogue.
    pub fn grow(&mut self, total: BlockCount, reserved: &[BlockRun]) {
        assert!(total.0 >= self.total, "a store does not shrink");
        for run in reserved {
            assert!(run.start.raw() >= self.total, "only new blocks can be reserved");
            self.reserved.insert(run.start.raw()..run.end());
        }
        self.total = total.0;
    }
}
