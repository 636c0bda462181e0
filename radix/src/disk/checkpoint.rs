//! Checkpoints: the overlay becomes tree, and the chain begins later or ends.
//!
//! Crash ordering: (1) what is merged has been published, (2) new nodes are written, (3) one sync
//! makes data and nodes durable, (4) one commit names the new roots, marks and clears the bitmap
//! and moves the chain's start; only when that is durable (5) is anything used again. A crash
//! before (4) finds the old roots and the whole chain.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bough_blockstore::{BlockRun, Chain, ChainFault, ChainStart, Epoch};

use super::clear::Clearing;
use super::lifecycle::chain_row;
use super::merge_layers::{Base, MergedLayers, TreeSink, merge_layers, ownership_of};
use super::{Disk, Pending, Slot, error_chain};
use crate::catalogue::{Rows, VersionRow};
use crate::disk0::{CatalogueError, Commit, Need as PoolNeed};
use crate::engine::EngineError;
use crate::overlay::Overlay;
use crate::space::Which;
use crate::tree_error::{OnDamage, TreeError, Unreadable};

/// After so many checkpoints that failed since the medium did not give a node, what is below it is
/// given up: without a checkpoint the disk's log and overlay would grow until nobody can write.
const FAILED_READS_MAX: u32 = 3;

/// What becomes of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It goes on, from what was merged.
    Keep,
    /// It ends: nothing of the disk is left in a chain, and its extents are given back.
    Park,
}

/// What one checkpoint merges; kept until it has been committed, so that a checkpoint that
/// failed for want of space is done again with the same.
pub(crate) struct Frozen {
    pub overlay: Arc<Overlay>,
    /// Where the chain begins after what is merged.
    pub start: ChainStart,
    /// Snapshots of which everything is in the overlay.
    pub complete: Vec<Pending>,
    /// The epoch of the oldest version not complete, or the head's.
    pub rest: Epoch,
    pub promised_nodes: std::sync::Mutex<u64>,
    /// What of that may be for requests that are not in the overlay yet.
    pub nodes_under_way: u64,
    /// What is left to clear ahead, once that has been asked.
    pub clearing: std::sync::Mutex<Option<Option<Clearing>>>,
    /// How often the medium has failed to give a node that merging this needs.
    pub failed_reads: AtomicU32,
}

impl Frozen {
    /// Of the versions that take part, oldest first.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.complete.iter().map(|pending| pending.epoch).chain([self.rest]).collect()
    }

    /// What becomes of nodes that cannot be read: what is damaged is given up, and everything else
    /// goes on; what the medium fails to give may come back, and is waited for a few times.
    pub fn on_damage(&self) -> OnDamage {
        match self.failed_reads.load(Ordering::Relaxed) {
            0..FAILED_READS_MAX => OnDamage::GiveUpCorrupt,
            _ => OnDamage::GiveUp,
        }
    }

    pub fn note_failure(&self, error: &EngineError) {
        if let EngineError::Node(TreeError::Device { .. }) = error {
            self.failed_reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is left of the promise; it is no longer kept here.
    pub fn take_promise(&self) -> u64 {
        std::mem::take(&mut *lock(&self.promised_nodes))
    }
}

impl Disk {
    /// Merges everything published so far and waits until that is durable.
    pub(crate) async fn checkpoint(self: &Arc<Self>, mode: Mode) -> Result<(), EngineError> {
        while Box::pin(self.clear_between()).await? {}
        let _maintenance = self.maintenance.lock().await;
        self.checkpoint_held(mode).await
    }

    /// As [`Disk::checkpoint`]; the caller holds `maintenance`.
    pub(crate) async fn checkpoint_held(self: &Arc<Self>, mode: Mode) -> Result<(), EngineError> {
        let chain = {
            let mut state = self.lock();
            state.checkpoint_queued = false;
            match &state.slot {
                Slot::Live(chain) => Arc::clone(chain),
                Slot::Idle => return Ok(()),
                Slot::Closing | Slot::Halted(_) | Slot::Gone => {
                    return Err(self.refusal(&state).into());
                }
            }
        };
        // Boxed: rare, and large; a write that has to wait for one should not carry it along.
        let done: Pin<Box<dyn Future<Output = _>>> = match mode {
            Mode::Keep => Box::pin(self.checkpoint_keeping(&chain)),
            Mode::Park => Box::pin(self.park(&chain)),
        };
        let done = done.await;
        self.notify();
        done
    }

    async fn checkpoint_keeping(self: &Arc<Self>, chain: &Arc<Chain>) -> Result<(), EngineError> {
        let newest_cut = self.lock().pending.last().map(|pending| pending.cut);
        if let Some(cut) = newest_cut {
            // An incomplete snapshot would only have to wait for the next checkpoint; whoever
            // asked for this one may want it now.
            match chain.published_upto(cut).await {
                Ok(()) | Err(ChainFault::Broken(_)) => {}
                Err(fault) => return Err(self.chain_error(fault).into()),
            }
        }
        // What an earlier checkpoint could not finish comes first.
        loop {
            let (frozen, again) = self.freeze(chain);
            let Some(frozen) = frozen else { return Ok(()) };
            self.merge_and_commit(&frozen, Some(&frozen.start)).await?;
            chain.truncate(&frozen.start);
            if !again {
                return Ok(());
            }
        }
    }

    /// Takes the overlay, atomically against publishing. The flag says that it was an earlier
    /// checkpoint's, and that there may be more.
    pub(super) fn freeze(self: &Arc<Self>, chain: &Arc<Chain>) -> (Option<Arc<Frozen>>, bool) {
        chain.with_published(|start| {
            let mut state = self.lock();
            if let Some(unfinished) = &state.plan {
                return (Some(Arc::clone(unfinished)), true);
            }
            let complete: Vec<Pending> = state
                .pending
                .iter()
                .copied()
                .take_while(|pending| pending.cut.0 < start.sequence.0)
                .collect();
            if state.active.is_empty() && complete.is_empty() {
                return (None, false);
            }
            let rest = state.pending.get(complete.len()).map_or(state.epoch, |p| p.epoch);
            let overlay = Arc::new(std::mem::take(&mut state.active));
            let promised = std::mem::take(&mut state.promised_nodes);
            let frozen = Arc::new(Frozen {
                overlay: Arc::clone(&overlay),
                start,
                complete,
                rest,
                promised_nodes: std::sync::Mutex::new(promised),
                nodes_under_way: state.nodes_under_way,
                clearing: std::sync::Mutex::default(),
                failed_reads: AtomicU32::new(0),
            });
            state.frozen = Some(overlay);
            state.plan = Some(Arc::clone(&frozen));
            (Some(frozen), false)
        })
    }

    /// Ends the chain: everything in it is merged or was never answered.
    async fn park(self: &Arc<Self>, chain: &Arc<Chain>) -> Result<(), EngineError> {
        self.lock().slot = Slot::Closing;
        let stopped = self.stop_and_merge(chain).await;
        if let Err(error) = stopped {
            // The chain still holds what could not be merged: it is needed, but stopped.
            self.reopen_after(chain, &error);
            return Err(error);
        }
        self.store.free_taken(&chain.remains());
        self.lock().slot = Slot::Idle;
        self.drop_extents().await
    }

    async fn stop_and_merge(self: &Arc<Self>, chain: &Arc<Chain>) -> Result<(), EngineError> {
        match chain.flush().await {
            Ok(()) | Err(ChainFault::Broken(_) | ChainFault::Stopped) => {}
            Err(fault) => return Err(self.chain_error(fault).into()),
        }
        chain.stop().await;
        loop {
            let (frozen, again) = self.freeze(chain);
            let Some(frozen) = frozen else { break };
            // Only the last of them may unname the chain.
            let start = again.then_some(&frozen.start);
            self.merge_and_commit(&frozen, start).await?;
            if start.is_none() {
                return Ok(());
            }
            chain.truncate(&frozen.start);
        }
        let mut commit = self.store.catalogue.begin(PoolNeed::Release).await?;
        Rows::new(&mut commit).remove_chain(self.id).await?;
        commit.stage(&[]).await?.durable().await?;
        Ok(())
    }

    fn reopen_after(self: &Arc<Self>, chain: &Arc<Chain>, error: &EngineError) {
        let full = matches!(error, EngineError::StoreFull) || error.is_no_space();
        if full {
            self.lock().slot = Slot::Live(Arc::clone(chain));
        } else {
            self.halt(error_chain(error));
        }
    }

    /// Gives back the extents of a disk without a chain.
    pub(crate) async fn drop_extents(&self) -> Result<(), EngineError> {
        let runs = self.store.space().close(self.id, Which::All);
        if runs.is_empty() {
            return Ok(());
        }
        let mut commit = self.store.catalogue.begin(PoolNeed::Release).await?;
        remove_extents(&mut commit, &runs).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store.space().drop_extents(&runs).map_err(CatalogueError::from)?;
        Ok(())
    }

    /// Steps 2 to 5. `start`: where the chain goes on; none where it ends.
    pub(super) async fn merge_and_commit(
        &self,
        frozen: &Frozen,
        start: Option<&ChainStart>,
    ) -> Result<(), EngineError> {
        while self.clear_piece(frozen).await? {}
        let promised = frozen.take_promise();
        let mut sink = TreeSink::new(&self.store, self.id, promised);
        match self.merge_frozen(frozen, &mut sink).await {
            Ok(merged) => match self.commit_merged(frozen, merged, start).await {
                Ok(()) => {
                    let kept = sink.settle_but(frozen.nodes_under_way);
                    self.lock().promised_nodes += kept;
                    Ok(())
                }
                Err(error) => {
                    if error.is_no_space() {
                        // The catalogue had no room: asked for before anything else changed.
                        *lock(&frozen.promised_nodes) = sink.undo().await;
                    }
                    Err(error)
                }
            },
            Err(error) => {
                *lock(&frozen.promised_nodes) = sink.undo().await;
                Err(error)
            }
        }
    }

    async fn merge_frozen(
        &self,
        frozen: &Frozen,
        sink: &mut TreeSink,
    ) -> Result<MergedLayers, EngineError> {
        let ownership = ownership_of(&self.store, &self.oldest_row(frozen).await?).await?;
        let base = self.lock().base;
        let base = Base { root: base, ownership, on_damage: frozen.on_damage() };
        let merged = merge_layers(&self.store, sink, base, &frozen.overlay, &frozen.epochs()).await;
        let merged = merged.inspect_err(|error| frozen.note_failure(error))?;
        self.store.device.sync().await.map_err(EngineError::Device)?;
        Ok(merged)
    }

    /// The oldest version that takes part.
    pub(super) async fn oldest_row(&self, frozen: &Frozen) -> Result<VersionRow, CatalogueError> {
        // Together: a snapshot that comes between the two would seem to own what is the head's to
        // free.
        let mut view = self.store.catalogue.read().await;
        let first = match frozen.complete.first() {
            Some(pending) => pending.version,
            None => self.oldest_incomplete(),
        };
        Rows::new(&mut view).version(first).await
    }

    fn oldest_incomplete(&self) -> crate::catalogue::VersionId {
        let state = self.lock();
        state.pending.first().map_or(state.head, |pending| pending.version)
    }

    async fn commit_merged(
        &self,
        frozen: &Frozen,
        merged: MergedLayers,
        start: Option<&ChainStart>,
    ) -> Result<(), EngineError> {
        let mut commit = self.store.catalogue.begin(PoolNeed::Release).await?;
        self.put_versions(&mut commit, frozen, &merged).await?;
        let mut rows = Rows::new(&mut commit);
        match start {
            Some(start) => rows.put_chain(&chain_row(self, start, frozen.rest)).await?,
            None => drop(rows.remove_chain(self.id).await?),
        }
        let spent = {
            let mut space = self.store.space();
            space.leave_behind(self.id);
            space.close(self.id, Which::Spent)
        };
        remove_extents(&mut commit, &spent).await?;
        let pages = self.store.put_bits(&mut commit, &merged.bits).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store.bits_written(&pages);
        self.mourn(&merged.unreadable);
        self.store.space().drop_extents(&spent).map_err(CatalogueError::from)?;
        if let Some(last) = merged.versions.last() {
            let mut state = self.lock();
            state.base = last.root;
            if let Some(merged) = state.frozen.take() {
                self.store.overlays.changed(merged.entry_count(), 0);
            }
            state.plan = None;
            state.pending.drain(..frozen.complete.len());
        }
        self.store.free_committed(&merged.bits.clear);
        self.store.free_taken(&merged.dropped);
        Ok(())
    }

    /// Tells of what a committed merge has given up.
    pub(super) fn mourn(&self, unreadable: &[Unreadable]) {
        for Unreadable { position, error } in unreadable {
            let blocks = position.span();
            tracing::error!(
                disk = %self.name(),
                first_block = blocks.start,
                end_block = blocks.end,
                %error,
                "what was not written since is lost: reading it is an error until it is written"
            );
        }
    }

    /// The new roots and counts: of each complete snapshot, and, in the head's row, of what comes
    /// after them.
    async fn put_versions(
        &self,
        commit: &mut Commit<'_>,
        frozen: &Frozen,
        merged: &MergedLayers,
    ) -> Result<(), CatalogueError> {
        let head_id = self.lock().head;
        let mut rows = Rows::new(commit);
        let mut head = rows.version(head_id).await?;
        let mut referenced = head.referenced_blocks;
        let mut owned = head.owned_blocks;
        for (pending, version) in frozen.complete.iter().zip(&merged.versions) {
            referenced = referenced.saturating_add(version.referenced_delta);
            owned = owned.saturating_add(version.owned_delta);
            let row = rows.version(pending.version).await?;
            let row = VersionRow {
                root: version.root,
                pending: false,
                referenced_blocks: referenced,
                owned_blocks: owned,
                ..row
            };
            rows.put_version(&row).await?;
            owned = 0;
        }
        if let Some(last) = merged.versions.last() {
            // After a crash the head may hold records of an epoch whose snapshot did not survive.
            head.epoch = head.epoch.max(frozen.rest);
            head.root = last.root;
            head.referenced_blocks = referenced.saturating_add(last.referenced_delta);
            head.owned_blocks = owned.saturating_add(last.owned_delta);
        }
        rows.put_version(&head).await
    }
}

/// Removes the rows of extents that their disk no longer needs.
pub(crate) async fn remove_extents(
    commit: &mut Commit<'_>,
    runs: &[BlockRun],
) -> Result<(), CatalogueError> {
    let mut rows = Rows::new(commit);
    for run in runs {
        rows.remove_extent(run.start).await?;
    }
    Ok(())
}

pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
