//! Repair: what is kept twice, and what can be counted again, is put right.
//!
//! Of a store that nobody serves, with nothing recovered and nothing reclaimed, so that no block is
//! handed out by bitmaps that are wrong. Invariants: a block is marked free only when every tree
//! could be walked to its end; each commit leaves the store no worse than it was, so that a crash in
//! between leaves one that can be repaired again.

use std::sync::Arc;

use bough_blockstore::{BlockAddr, Device, Epoch, Runtime, VirtualBlock, read_pair};

use super::check::{LostPages, Mend, Tally};
use super::scrub::copy_finding;
use super::{Engine, EngineConfig, EngineError, LEASE, Progress};
use crate::btree::{Page, Pages};
use crate::catalogue::{RowFault, Rows, VersionRow};
use crate::disk0::{CatalogueError, Commit, Copies, DamagedCopy, Need as PoolNeed, Outcome};
use crate::info::{Finding, RepairReport};
use crate::space::{PAGE_BLOCKS, bitmap_page_of};

/// Rows read at a time.
const PAGE_ROWS: usize = 256;
/// Mends in one commit: each is a page at most, and a few of the tree above it.
const COMMIT_MENDS: usize = 16;

/// Whether to repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RepairMode {
    /// Write what is right.
    Mend,
    /// Only say what would be written.
    Show,
}

impl Engine {
    /// Puts right what redundancy allows: a damaged superblock or copy of part of the catalogue from
    /// the other one, space bitmaps and all numbers from a walk of all trees. Says what, and what is
    /// left wrong. To look, too, the catalogue is opened, which is recovered by that.
    ///
    /// # Errors
    /// Where there is no store, or its catalogue cannot be read. What was mended by then stays so.
    pub async fn repair(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
        config: EngineConfig,
        mode: RepairMode,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<RepairReport, EngineError> {
        let mut mended = Vec::new();
        if read_pair(&device).await.map_err(CatalogueError::from)?.repaired {
            let copy = DamagedCopy { block: None, outcome: Outcome::Mended };
            mended.push(Finding { message: "one superblock".to_owned(), ..copy_finding(&copy) });
        }
        let engine = Self::open_catalogue(device, runtime, config).await?;
        let copies = match mode {
            RepairMode::Mend => Copies::Mend,
            RepairMode::Show => Copies::Leave,
        };
        // Of what has no whole copy the survey says more.
        let found = engine.store().catalogue.scrub(copies).await?;
        let whole_elsewhere = found.iter().filter(|copy| copy.outcome == Outcome::Mended);
        mended.extend(whole_elsewhere.map(copy_finding));
        let (mut left, mendable, mends) = engine.look(LostPages::Replace, progress).await?.split();
        if mode == RepairMode::Mend && !mendable.is_empty() {
            engine.mend(&mends).await?;
            left = engine.look(LostPages::Fail, progress).await?.finish();
        }
        mended.extend(mendable);
        engine.store().catalogue.close().await?;
        Ok(RepairReport { is_dry_run: mode == RepairMode::Show, mended, left })
    }

    async fn look(
        &self,
        lost_pages: LostPages,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Tally, EngineError> {
        let mut view = self.store().catalogue.read().await;
        self.survey(&mut view, lost_pages, progress).await
    }

    /// Bitmaps come first: as long as a used block is marked free, it may be given away.
    async fn mend(&self, mends: &[Mend]) -> Result<(), EngineError> {
        let is_bits = |mend: &&Mend| matches!(mend, Mend::Bits { .. });
        let (bits, numbers): (Vec<_>, Vec<_>) = mends.iter().partition(is_bits);
        for some in bits.chunks(COMMIT_MENDS).chain(numbers.chunks(COMMIT_MENDS)) {
            let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
            for mend in some {
                put(&mut commit, mend).await?;
            }
            commit.stage(&[]).await?.durable().await?;
        }
        Ok(())
    }
}

async fn put(commit: &mut Commit<'_>, mend: &Mend) -> Result<(), EngineError> {
    if let Mend::Bits { index, page } = mend {
        let at: VirtualBlock = bitmap_page_of(BlockAddr::of(index * PAGE_BLOCKS));
        commit.put(at, Page::new(**page));
        return Ok(());
    }
    let mut rows = Rows::new(commit);
    match *mend {
        Mend::Referenced(id, blocks) => {
            let row = rows.version(id).await?;
            rows.put_version(&VersionRow { referenced_blocks: blocks, ..row }).await?;
        }
        Mend::Owned(id, blocks) => {
            let row = rows.version(id).await?;
            rows.put_version(&VersionRow { owned_blocks: blocks, ..row }).await?;
        }
        Mend::Children(id, count) => rows.correct_children(id, count).await?,
        Mend::Snapshots(id, count) => rows.correct_snapshots(id, count).await?,
        Mend::Totals(totals) => rows.correct_totals(totals).await?,
        Mend::Used(blocks) => {
            let mut counters = rows.counters().await?;
            counters.used_blocks = blocks;
            rows.set_counters(counters).await?;
        }
        Mend::Next { disk, version, epoch, block } => {
            let extents_end = end_of_extents(&rows).await?;
            let mut counters = rows.counters().await?;
            let exhausted = RowFault::NumbersExhausted;
            let disk = u32::try_from(disk).map_err(|_| CatalogueError::Row(exhausted))?;
            counters.next_disk = counters.next_disk.max(disk);
            counters.next_version = counters.next_version.max(version);
            if epoch > counters.epoch_lease_end.raw() {
                // Logs may have records of epochs that no version has.
                counters.epoch_lease_end = Epoch::new(epoch + LEASE)
                    .ok_or(CatalogueError::Row(RowFault::NumbersExhausted))?;
            }
            let virgin_from = counters.virgin_from.raw().max(block).max(extents_end);
            counters.virgin_from = BlockAddr::of(virgin_from);
            rows.set_counters(counters).await?;
        }
        Mend::Bits { .. } => {}
    }
    Ok(())
}

/// What is in a log has no bit, and lies in an extent.
async fn end_of_extents(rows: &Rows<'_, Commit<'_>>) -> Result<u64, EngineError> {
    let mut end = 0;
    loop {
        let page = rows.list_extents(BlockAddr::of(end), PAGE_ROWS).await?;
        let Some(last) = page.last() else { return Ok(end) };
        end = last.run.end();
    }
}
