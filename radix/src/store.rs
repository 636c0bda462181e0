//! What all disks of a store share: the device, the allocator, the caches and the catalogue.
//!
//! Owns the order in which blocks are granted, committed and freed. Knows no disks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::{
    BlockAddr, BlockBuf, BlockRun, BlockSlice, ChainSpace, Device, DeviceError, DiskId,
    RefillFuture, Runtime, SpaceError, VirtualBlock, to_usize,
};

use tokio::sync::Notify;

use crate::backlog::Backlog;
use crate::btree::{Page, Pages};
use crate::cache::NodeCache;
use crate::catalogue::{ExtentRow, Rows};
use crate::disk0::{CatalogueError, Commit, Disk0, Need as PoolNeed, Pool};
use crate::engine::EngineConfig;
use crate::gate::{ReadGate, Released};
use crate::overlay_budget::OverlayBudget;
use crate::space::{Grant, Need, Punch, Space, bitmap_page_of};

/// Bitmap pages kept in memory: 256 MiB of bitmap would describe 8 TiB, this describes 128 GiB.
const BITMAP_PAGES_KEPT: usize = 1024;

/// Written ahead at a time, between two looks at what is still wanted: 4 MiB...
const PIECE_BLOCKS: u64 = 1024;
/// ...in writes of 128 KiB, one after the other: a guest's write waits behind one of them at most.
const ZEROS_BLOCKS: usize = 32;

/// Extents granted for one wish, each perhaps smaller than that, before it is met from holes.
const GRANTS_TRIED: usize = 4;

/// The shared parts; see the module's documentation.
pub struct Store {
    pub device: Arc<dyn Device>,
    pub runtime: Arc<dyn Runtime>,
    pub gate: Arc<ReadGate>,
    pub cache: NodeCache,
    pub catalogue: Disk0,
    pub space: Arc<Mutex<Space>>,
    pub config: EngineConfig,
    pub backlog: Backlog,
    pub overlays: Arc<OverlayBudget>,
    /// Something that a grant may wait for has arrived.
    pub arrived: Notify,
}

/// Blocks whose last reader has gone, back to whoever they belong to.
pub struct Freed {
    pub pool: Arc<Pool>,
    pub space: Arc<std::sync::OnceLock<Arc<Mutex<Space>>>>,
}

impl Released for Freed {
    fn released(&self, blocks: &[BlockAddr]) {
        let (pool, data): (Vec<_>, Vec<_>) = blocks.iter().partition(|b| self.pool.contains(**b));
        self.pool.release(&pool);
        if let Some(space) = self.space.get() {
            space.lock().unwrap_or_else(PoisonError::into_inner).release(&data);
        }
    }
}

/// What a commit does to the space bitmaps.
#[derive(Debug, Default)]
pub struct BitChanges {
    /// Blocks that trees hold from now on.
    pub set: Vec<BlockAddr>,
    /// Blocks that no tree holds any more.
    pub clear: Vec<BlockAddr>,
}

impl Store {
    /// The allocator.
    pub fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the named bitmap pages into the allocator.
    pub async fn load_bitmap<P: Pages<Error = CatalogueError>>(
        &self,
        pages: &P,
        wanted: Vec<VirtualBlock>,
    ) -> Result<(), CatalogueError> {
        for page in wanted {
            let content = pages.get(page).await?;
            self.space().load(page, &content)?;
        }
        Ok(())
    }

    /// Puts changes of the bitmap into `commit`; the pages to hand to
    /// [`Space::written`](crate::space::Space::written) once it is durable.
    pub async fn put_bits(
        &self,
        commit: &mut Commit<'_>,
        changes: &BitChanges,
    ) -> Result<Vec<VirtualBlock>, CatalogueError> {
        let blocks = || changes.set.iter().chain(&changes.clear);
        let mut touched: Vec<VirtualBlock> = blocks().map(|b| bitmap_page_of(*b)).collect();
        touched.dedup();
        let touched = BTreeSet::from_iter(touched);
        // Asked for before the allocator changes: staging cannot be refused afterwards.
        commit.make_room(touched.len() + 1).await?;
        let missing = self.space().missing_for_blocks(blocks());
        self.load_bitmap(commit, missing).await?;
        let changed: Vec<(VirtualBlock, Page)> =
            self.space().commit_bits(&changes.set, &changes.clear)?;
        let pages = changed.iter().map(|(page, _)| *page).collect();
        for (page, content) in changed {
            commit.put(page, content);
        }
        let mut rows = Rows::new(commit);
        let mut counters = rows.counters().await?;
        counters.used_blocks = self.space().used_blocks();
        rows.set_counters(counters).await?;
        Ok(pages)
    }

    /// The commit of these pages is durable.
    pub fn bits_written(&self, pages: &[VirtualBlock]) {
        let mut space = self.space();
        space.written(pages);
        space.trim(BITMAP_PAGES_KEPT);
    }

    /// Plans an extent and puts its row into `commit`. [`Store::adopt`] it once that is durable,
    /// or [`Space::abandon`] it. Never asks for pages.
    async fn plan_extent(
        &self,
        commit: &mut Commit<'_>,
        disk: DiskId,
        want: u64,
        need: Need,
    ) -> Result<Grant, CatalogueError> {
        let run = loop {
            let plan = self.space().plan_grant(disk, want, need);
            match plan {
                Grant::Extent(run) => break run,
                Grant::Load(pages) => self.load_bitmap(commit, pages).await?,
                Grant::Wait | Grant::Full(_) => return Ok(plan),
            }
        };
        let mut rows = Rows::new(commit);
        rows.put_extent(&ExtentRow { run, disk }).await?;
        let mut counters = rows.counters().await?;
        counters.virgin_from = self.space().virgin_from();
        rows.set_counters(counters).await?;
        Ok(Grant::Extent(run))
    }

    /// Opens an extent whose row is durable.
    pub async fn adopt(&self, run: BlockRun, taken: &[BlockAddr]) -> Result<(), CatalogueError> {
        let view = self.catalogue.read().await;
        let missing = self.space().missing_for_run(run);
        self.load_bitmap(&view, missing).await?;
        self.space().adopt(run.start, taken)?;
        Ok(())
    }

    /// Takes one promised block of what `disk` has; `None` where it had better be granted more.
    pub fn take_promised(&self, disk: DiskId, near: Option<BlockAddr>) -> Option<BlockAddr> {
        let mut space = self.space();
        let runs = space.has_room(disk, 1).then(|| space.take(disk, near, 1)).flatten()?;
        space.settle(disk, 1);
        Some(runs[0].start)
    }

    /// Takes exactly `count` blocks for requests under way, likewise.
    pub fn draw(
        self: &Arc<Self>,
        disk: DiskId,
        near: Option<BlockAddr>,
        count: u64,
    ) -> Option<Vec<BlockRun>> {
        let mut space = self.space();
        let drawn = space.has_room(disk, count).then(|| space.draw(disk, near, count)).flatten();
        if self.device.is_sparse() && space.begin_ahead(disk) {
            self.runtime.spawn(Box::pin(fill_ahead(Arc::clone(self))));
        }
        drawn
    }

    /// Writes no more zeros ahead of the logs; returns when none are under way.
    pub async fn stop_filling_ahead(&self) {
        self.space().stop_ahead();
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if !self.space().fills_ahead() {
                return;
            }
            arrived.await;
        }
    }

    /// Grants `disk` extents until it can take `count` blocks; `false` where the store is full.
    pub async fn grant(
        &self,
        disk: DiskId,
        count: u64,
        need: Need,
    ) -> Result<bool, CatalogueError> {
        let mut granted = 0;
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if self.space().has_room(disk, count) {
                return Ok(true);
            }
            let has_holes = || self.space().arena_free(disk) >= count;
            if granted >= GRANTS_TRIED && has_holes() {
                break;
            }
            match self.grant_once(disk, count, need).await? {
                None => return Ok(true),
                Some(Grant::Extent(_)) => granted += 1,
                Some(Grant::Wait) if !has_holes() => arrived.await,
                Some(_) => break,
            }
        }
        let mut space = self.space();
        let has_holes = space.arena_free(disk) >= count;
        if has_holes {
            space.settle_for_holes(disk);
        }
        Ok(has_holes)
    }

    /// `None` where the disk can take `count` blocks already.
    async fn grant_once(
        &self,
        disk: DiskId,
        count: u64,
        need: Need,
    ) -> Result<Option<Grant>, CatalogueError> {
        let mut commit = self.catalogue.begin(PoolNeed::Release).await?;
        // Somebody else's grant may have come first while we waited for the commit.
        if self.space().has_room(disk, count) {
            return Ok(None);
        }
        let have = self.space().arena_free(disk);
        let want = if have < count { count - have } else { count };
        let plan = self.plan_extent(&mut commit, disk, want, need).await?;
        let Grant::Extent(run) = plan else { return Ok(Some(plan)) };
        // Into blocks that the host has not set aside, writes would go one after the other.
        let reserved = self.device.reserve(run);
        let durable = match commit.stage(&[]).await {
            Ok(staged) => staged.durable().await,
            Err(error) => Err(error),
        };
        if let Err(error) = durable {
            self.space().abandon(run.start)?;
            self.arrived.notify_waiters();
            return Err(error);
        }
        if let Err(error) = reserved.await {
            // The write itself will tell if there is really no room.
            tracing::debug!(%error, "the host did not set an extent aside");
        }
        let adopted = self.adopt(run, &[]).await;
        self.arrived.notify_waiters();
        adopted.map(|()| Some(plan))
    }

    /// Gives one free run of at least `least` blocks back to the host; `false` where there is
    /// none, or the host would not have it. To be awaited to its end: until then the run cannot
    /// be granted.
    pub async fn punch(&self, least: u64) -> Result<bool, CatalogueError> {
        let run = loop {
            let plan = self.space().plan_punch(least);
            match plan {
                Punch::Run(run) => break run,
                Punch::Load(pages) => {
                    let view = self.catalogue.read().await;
                    self.load_bitmap(&view, pages).await?;
                }
                Punch::Nothing => return Ok(false),
            }
        };
        let done = self.device.discard(run).await;
        self.space().end_punch(run);
        self.arrived.notify_waiters();
        if let Err(error) = &done {
            tracing::debug!(%error, "free space is not given back to the host");
        }
        Ok(done.is_ok())
    }

    /// Freed by a durable commit: used again once nobody can be reading them.
    pub fn free_committed(&self, blocks: &[BlockAddr]) {
        self.gate.defer(blocks);
    }

    /// Taken, never in a tree, and done with: as above.
    pub fn free_taken(&self, blocks: &[BlockAddr]) {
        if !blocks.is_empty() {
            self.space().retire(blocks);
            self.gate.defer(blocks);
        }
    }
}

/// Fills virgin blocks with zeros, piece by piece, up to the allocator's goal.
async fn fill_ahead(store: Arc<Store>) {
    let zeros = BlockBuf::zeroed(ZEROS_BLOCKS).share();
    let mut reserved_to = 0;
    loop {
        let piece = store.space().plan_ahead(PIECE_BLOCKS);
        let Some(piece) = piece else { return };
        let mut reserved = Ok(());
        if piece.end() > reserved_to {
            // In one go: the writes would set blocks aside one after the other, and all writes of
            // guests wait while the host does that.
            let run = store.space().wanted_ahead(piece);
            reserved = store.device.reserve(run).await;
            reserved_to = run.end();
        }
        let filled = match reserved {
            Ok(()) => write_zeros(&store, piece, &zeros).await,
            Err(error) => Err(error),
        };
        store.space().end_ahead(filled.is_ok());
        store.arrived.notify_waiters();
        if let Err(error) = filled {
            tracing::debug!(%error, "blocks are not written ahead of the logs any more");
        }
    }
}

async fn write_zeros(
    store: &Store,
    piece: BlockRun,
    zeros: &BlockSlice,
) -> Result<(), DeviceError> {
    for start in (piece.start.raw()..piece.end()).step_by(ZEROS_BLOCKS) {
        let count = to_usize(piece.end() - start).min(ZEROS_BLOCKS);
        store.device.write(BlockAddr::of(start), zeros.slice(0, count)).await?;
    }
    Ok(())
}

/// Where the chain of one disk gets its blocks.
pub struct DiskSpace {
    pub store: Arc<Store>,
    pub disk: DiskId,
}

impl ChainSpace for DiskSpace {
    fn take(&self, near: Option<BlockAddr>, count: u64) -> Option<Vec<BlockRun>> {
        self.store.draw(self.disk, near, count)
    }

    fn refill(&self, count: u64) -> RefillFuture {
        let (store, disk) = (Arc::clone(&self.store), self.disk);
        // Whether there is room for this write was decided when it was admitted.
        Box::pin(async move {
            match store.grant(disk, count, Need::Overwrite).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(SpaceError::Full),
                Err(error) => Err(SpaceError::Failed(Arc::new(error))),
            }
        })
    }

    fn give_back(&self, blocks: &[BlockAddr]) {
        self.store.free_taken(blocks);
    }
}
