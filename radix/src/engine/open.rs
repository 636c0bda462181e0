//! Making, opening and closing a store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bough_blockstore::{
    BlockAddr, BlockCount, BlockRun, Device, DiskId, OneSync, Runtime, SUPERBLOCK_BLOCKS, ScanEnd,
    ScanLimits, Sequence, Superblock, SuperblockError, read_pair,
};
use tokio::sync::Notify;
use uuid::Uuid;

use super::reclaim::Begun;
use super::{Engine, EngineConfig, EngineError, Epochs, Inner, OpeningFault, lock};
use crate::backlog::Backlog;
use crate::btree::Counters;
use crate::cache::NodeCache;
use crate::catalogue::{ChainRow, ExtentRow, Rows};
use crate::disk::{Disk, Mode, scan_chain_from};
use crate::disk0::{
    self, CatalogueError, Disk0, FormatOptions, Opened, Recovered, Requirement, min_store,
};
use crate::gate::ReadGate;
use crate::overlay_budget::OverlayBudget;
use crate::space::{Floors, Space, SpaceConfig};
use crate::store::{Freed, Store};

/// Rows read at a time.
const PAGE_ROWS: usize = 256;

impl Engine {
    /// Writes an empty store over the whole of `device`.
    ///
    /// # Errors
    /// Where there is a store already, the device is too small, or fails.
    pub async fn format(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
    ) -> Result<(), EngineError> {
        let (found, least) = (device.block_count(), min_store());
        if found < least {
            let (min_bytes, found_bytes) = (least.bytes(), found.bytes());
            return Err(EngineError::StoreTooSmall { min_bytes, found_bytes });
        }
        match read_pair(&device).await {
            Err(SuperblockError::Alien) => {}
            _ => return Err(EngineError::StoreExists),
        }
        let uuid = *uuid::Builder::from_random_bytes(runtime.random()).as_uuid().as_bytes();
        Ok(disk0::format(&device, &runtime, FormatOptions { uuid }).await?)
    }

    /// Opens a store: recovers the catalogue, then every disk that has something in a chain. A
    /// disk that cannot be recovered is left alone and not served; the others are.
    ///
    /// # Errors
    /// Where there is no store, or its catalogue cannot be recovered.
    pub async fn open(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let engine = Self::open_catalogue(device, runtime, config).await?;
        engine.recover_disks().await?;
        engine.lease_epochs(1).await?;
        engine.resume_deletes().await?;
        engine.start_background();
        Ok(engine)
    }

    /// Opens the catalogue and nothing else: no disk is recovered, nothing is reclaimed. Only what
    /// reads, and what changes the catalogue alone, may be asked of it.
    pub(super) async fn open_catalogue(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let device: Arc<dyn Device> = OneSync::new(device, Arc::clone(&runtime));
        let cell: Arc<OnceLock<Arc<Mutex<Space>>>> = Arc::new(OnceLock::new());
        let freed_to = Arc::clone(&cell);
        let gate_for = |pool| Arc::new(ReadGate::new(Arc::new(Freed { pool, space: freed_to })));
        let mut recovered = Recovered::read(
            Arc::clone(&device),
            Arc::clone(&runtime),
            gate_for,
            config.cache_bytes / 4,
        )
        .await?;
        recovered
            .replay(async |disk0, wanted| requirements_met(disk0, &device, wanted).await)
            .await?;
        let Opened { disk0, superblock } = recovered.open().await?;
        let counters = {
            let mut view = disk0.read().await;
            Rows::new(&mut view).counters().await?
        };
        let space = Space::new(space_config(&superblock, counters));
        let space = Arc::new(Mutex::new(space.map_err(CatalogueError::from)?));
        let _ = cell.set(Arc::clone(&space));
        let cache = NodeCache::new(Arc::clone(&device), config.cache_bytes / 4 * 3);
        let gate = disk0.gate();
        let overlays = Arc::new(OverlayBudget::new(config.overlay_entries));
        let store = Arc::new(Store {
            device,
            runtime,
            gate,
            cache,
            catalogue: disk0,
            space,
            config,
            backlog: Backlog::new(),
            overlays,
            arrived: Notify::new(),
        });
        Ok(Self { inner: Arc::new(Inner::new(store, &superblock, counters)) })
    }

    /// Leaves nothing in any chain, so that the next opening has nothing to recover; then stops.
    /// The engine must not be used afterwards.
    ///
    /// # Errors
    /// The first failure; what was acknowledged is recovered at the next opening all the same.
    pub async fn close(&self) -> Result<(), EngineError> {
        self.inner.closing.store(true, Ordering::Release);
        self.store().backlog.close();
        self.store().stop_filling_ahead().await;
        let _verbs = self.inner.verbs.lock().await;
        let disks: Vec<Arc<Disk>> = self.disks().values().cloned().collect();
        let mut failure = None;
        for disk in disks {
            if disk.fault().is_none()
                && let Err(error) = disk.checkpoint(Mode::Park).await
            {
                failure.get_or_insert(error);
            }
        }
        self.store().catalogue.close().await?;
        failure.map_or(Ok(()), Err)
    }

    /// Registers all extents, recovers every disk with a chain, drops the extents of the others.
    async fn recover_disks(&self) -> Result<(), EngineError> {
        let store = self.store();
        self.register_extents().await?;
        for row in self.chain_rows().await? {
            let disk = self.disk_by_id(row.disk).await?;
            if let Err(error) = disk.recover(&row).await {
                if let EngineError::Catalogue(fatal) = error {
                    return Err(fatal.into());
                }
                disk.halt(crate::disk::error_chain(&error));
                let block = match &error {
                    EngineError::LostRecords { at, .. } | EngineError::BeyondDisk { at, .. } => {
                        Some(*at)
                    }
                    _ => None,
                };
                let fault = OpeningFault { message: error.to_string(), block };
                lock(&self.inner.faults).insert(row.disk, fault);
            }
        }
        let faulted: Vec<DiskId> = lock(&self.inner.faults).keys().copied().collect();
        let unused = self.extent_runs(|disk| !faulted.contains(&disk)).await?;
        if unused.is_empty() {
            return Ok(());
        }
        let mut commit = store.catalogue.begin(disk0::Need::Release).await?;
        crate::disk::remove_extents(&mut commit, &unused).await?;
        commit.stage(&[]).await?.durable().await?;
        for run in unused {
            store.space().abandon(run.start).map_err(CatalogueError::from)?;
        }
        Ok(())
    }

    async fn register_extents(&self) -> Result<(), EngineError> {
        let mut view = self.store().catalogue.read().await;
        let extents = all_extents(&Rows::new(&mut view)).await?;
        for extent in &extents {
            let mut space = self.store().space();
            space.register(extent.disk, extent.run).map_err(CatalogueError::from)?;
        }
        for extent in &extents {
            let missing = self.store().space().missing_for_run(extent.run);
            self.store().load_bitmap(&view, missing).await?;
            let mut space = self.store().space();
            space.count_free(extent.run.start).map_err(CatalogueError::from)?;
        }
        Ok(())
    }

    async fn extent_runs(
        &self,
        wanted: impl Fn(DiskId) -> bool,
    ) -> Result<Vec<BlockRun>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let all = all_extents(&Rows::new(&mut view)).await?;
        Ok(all.into_iter().filter(|extent| wanted(extent.disk)).map(|extent| extent.run).collect())
    }

    async fn chain_rows(&self) -> Result<Vec<ChainRow>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let mut all: Vec<ChainRow> = Vec::new();
        loop {
            let from = all.last().map_or(DiskId(0), |row| DiskId(row.disk.0 + 1));
            let page = rows.list_chains(from, PAGE_ROWS).await?;
            let more = page.len() == PAGE_ROWS;
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }

    fn start_background(&self) {
        let reclaimer = self.clone();
        self.store().runtime.spawn(Box::pin(async move { reclaimer.reclaim_forever().await }));
        // Asleep the others hold nothing: a closed engine lets go of its device at once.
        let (runtime, engine) = (Arc::clone(&self.store().runtime), Arc::downgrade(&self.inner));
        let period = self.store().config.checkpoint_every;
        self.store().runtime.spawn(Box::pin(async move {
            loop {
                runtime.sleep(period).await;
                let Some(engine) = Self::still_open(&engine) else { return };
                engine.checkpoint_dirty_disks().await;
            }
        }));
        let (overlays, engine) = (Arc::clone(&self.store().overlays), Arc::downgrade(&self.inner));
        self.store().runtime.spawn(Box::pin(async move {
            loop {
                overlays.exceeded().await;
                let Some(engine) = Self::still_open(&engine) else { return };
                engine.merge_largest_overlays().await;
            }
        }));
    }

    fn still_open(engine: &Weak<Inner>) -> Option<Self> {
        let inner = engine.upgrade()?;
        (!inner.closing.load(Ordering::Acquire)).then_some(Self { inner })
    }

    /// Bounds the age of what is in a chain, so that sizes shown and recovery stay fresh.
    async fn checkpoint_dirty_disks(&self) {
        let disks: Vec<Arc<Disk>> = self.disks().values().cloned().collect();
        for disk in disks {
            if self.inner.closing.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = disk.checkpoint_if_dirty().await {
                tracing::warn!(disk = %disk.name(), %error, "checkpoint failed");
            }
        }
    }

    /// Bounds the memory of all overlays together.
    async fn merge_largest_overlays(&self) {
        let mut disks: Vec<(usize, Arc<Disk>)> = {
            let disks = self.disks();
            disks.values().map(|disk| (disk.overlay_entries(), Arc::clone(disk))).collect()
        };
        disks.sort_unstable_by_key(|(entries, _)| std::cmp::Reverse(*entries));
        for (_, disk) in disks {
            if self.store().overlays.is_relaxed() || self.inner.closing.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = disk.checkpoint_if_dirty().await {
                tracing::warn!(disk = %disk.name(), %error, "checkpoint failed");
            }
        }
    }
}

impl Inner {
    fn new(store: Arc<Store>, superblock: &Superblock, counters: Counters) -> Self {
        Self {
            store,
            uuid: Uuid::from_bytes(superblock.uuid),
            disks: Mutex::default(),
            verbs: tokio::sync::Mutex::new(()),
            reclaiming: tokio::sync::Mutex::new(Begun::Unknown),
            epochs: Mutex::new(Epochs {
                next: counters.epoch_lease_end,
                end: counters.epoch_lease_end,
            }),
            pins: Mutex::default(),
            closing: AtomicBool::new(false),
            faults: Mutex::new(BTreeMap::new()),
        }
    }
}

/// Whether every chain named reaches its record, by the catalogue as it was before the commit.
async fn requirements_met(
    disk0: &Disk0,
    device: &Arc<dyn Device>,
    wanted: &[Requirement],
) -> Result<bool, CatalogueError> {
    let mut view = disk0.read().await;
    let rows = Rows::new(&mut view);
    for requirement in wanted {
        let Some(chain) = rows.get_chain(requirement.disk).await? else { return Ok(false) };
        let extents: Vec<BlockRun> = all_extents(&rows)
            .await?
            .into_iter()
            .filter(|extent| extent.disk == requirement.disk)
            .map(|extent| extent.run)
            .collect();
        let found = scan_chain_from(device, &chain, ScanLimits::default(), &extents).await?;
        if let ScanEnd::Damaged { .. } = found.end {
            // No crash did that, so it tells nothing of whether somebody was told of the commit:
            // it stays. The disk itself will not be served; the others of its group are.
            continue;
        }
        let reached = found
            .records
            .last()
            .map_or(Sequence(chain.sequence.0.saturating_sub(1)), |record| record.sequence);
        if reached < requirement.sequence {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn all_extents(
    rows: &Rows<'_, disk0::Snapshot<'_>>,
) -> Result<Vec<ExtentRow>, CatalogueError> {
    let (mut from, mut all) = (BlockAddr::ZERO, Vec::new());
    loop {
        let page = rows.list_extents(from, PAGE_ROWS).await?;
        let more = page.len() == PAGE_ROWS;
        all.extend(page);
        match all.last() {
            Some(last) if more => match BlockAddr::new(last.run.start.raw() + 1) {
                Some(next) => from = next,
                None => return Ok(all),
            },
            _ => return Ok(all),
        }
    }
}

fn space_config(superblock: &Superblock, counters: Counters) -> SpaceConfig {
    SpaceConfig {
        total: superblock.size,
        used_blocks: counters.used_blocks,
        virgin_from: counters.virgin_from,
        reserved: reserved_runs(superblock),
        floors: Floors::for_store(superblock.size),
    }
}

/// Superblocks, and both copies of the pool.
fn reserved_runs(superblock: &Superblock) -> Vec<BlockRun> {
    let pair = BlockRun { start: BlockAddr::ZERO, count: SUPERBLOCK_BLOCKS };
    let copies = superblock.pool.iter().flat_map(|run| {
        [run.primary, run.mirror].map(|start| BlockRun { start, count: run.count })
    });
    [pair].into_iter().chain(copies).collect()
}

/// How large a store of that many bytes is, in blocks.
pub(super) fn store_blocks(size_bytes: u64) -> BlockCount {
    BlockCount(size_bytes / 4096)
}
