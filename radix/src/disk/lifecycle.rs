//! When a disk has a chain: from its first write until it is parked.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bough_blockstore::{BlockAddr, Chain, ChainFault, ChainStart, Nonce, Sequence};

use super::publish::Follower;
use super::{Disk, DiskState, Mode, Slot, error_chain};
use crate::catalogue::{ChainRow, Rows};
use crate::disk0::{CatalogueError, Need as PoolNeed};
use crate::engine::{BrokenRule, EngineError};
use crate::error::DiskError;
use crate::node::Root;
use crate::space::Need;
use crate::store::DiskSpace;

/// Blocks of a disk's first extent.
const FIRST_EXTENT_BLOCKS: u64 = 16;

/// What a writer finds.
pub(super) enum ChainNow {
    Live(Arc<Chain>),
    None,
    Closing,
    Broken(Arc<Chain>),
}

impl Disk {
    /// The chain to write to; begins one where there is none.
    pub(super) async fn live_chain(self: &Arc<Self>) -> Result<Arc<Chain>, DiskError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // Boxed: rare, and large; no write should carry their state along.
            let step: Pin<Box<dyn Future<Output = _>>> = match self.chain_now()? {
                ChainNow::Live(chain) => return Ok(chain),
                ChainNow::None => Box::pin(self.begin_chain()),
                ChainNow::Broken(_) => Box::pin(self.restart_chain()),
                ChainNow::Closing => {
                    changed.await;
                    continue;
                }
            };
            step.await?;
        }
    }

    pub(super) fn chain_now(&self) -> Result<ChainNow, DiskError> {
        let state = self.lock();
        match &state.slot {
            Slot::Idle => Ok(ChainNow::None),
            Slot::Closing => Ok(ChainNow::Closing),
            Slot::Halted(_) | Slot::Gone => Err(self.refusal(&state)),
            Slot::Live(chain) => match chain.fault() {
                None => Ok(ChainNow::Live(Arc::clone(chain))),
                Some(ChainFault::Broken(_)) => Ok(ChainNow::Broken(Arc::clone(chain))),
                Some(fault) => Err(self.chain_error_locked(&state, &fault)),
            },
        }
    }

    /// The host was full when a record was written. What was published is merged; then a new
    /// chain may begin.
    pub(super) async fn restart_chain(self: &Arc<Self>) -> Result<(), DiskError> {
        self.checkpoint(Mode::Park).await.map_err(|error| {
            tracing::debug!(disk = %self.name(), %error, "the host is full");
            DiskError::HostFull { disk: self.name().to_string() }
        })
    }

    /// Grants the first extent, names a chain in it, and begins that.
    async fn begin_chain(self: &Arc<Self>) -> Result<(), DiskError> {
        let _one_at_a_time = self.starting.lock().await;
        if !matches!(self.lock().slot, Slot::Idle) {
            return Ok(());
        }
        let begun = self.name_chain().await;
        let start = match begun {
            Ok(Some(start)) => start,
            Ok(None) => return Err(DiskError::NoSpace { disk: self.name().to_string() }),
            Err(error) => return Err(self.catalogue_error(&error)),
        };
        let tail = self.store.config.tails.as_ref().and_then(|tails| tails.begin());
        let mut state = self.lock();
        if matches!(state.slot, Slot::Idle) {
            let chain = Chain::new(
                Arc::clone(&self.store.device),
                Arc::clone(&self.store.runtime),
                start,
                state.epoch,
                Arc::new(DiskSpace { store: Arc::clone(&self.store), disk: self.id }),
                Arc::new(Follower { disk: Arc::downgrade(self), tail }),
                self.store.config.chain.clone(),
            );
            state.slot = Slot::Live(chain);
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn name_chain(&self) -> Result<Option<ChainStart>, CatalogueError> {
        if !self.store.grant(self.id, FIRST_EXTENT_BLOCKS, Need::Overwrite).await? {
            return Ok(None);
        }
        let Some(runs) = self.store.space().draw(self.id, None, 1) else { return Ok(None) };
        let at = runs[0].start;
        let nonce = if self.store.config.breaks(BrokenRule::OneNonce) {
            Nonce([7; 16])
        } else {
            Nonce(self.store.runtime.random())
        };
        let start = ChainStart { nonce, sequence: Sequence(1), at, previous_crc: 0 };
        let epoch = self.lock().epoch;
        let mut commit = self.store.catalogue.begin(PoolNeed::Release).await?;
        Rows::new(&mut commit).put_chain(&chain_row(self, &start, epoch)).await?;
        commit.stage(&[]).await?.durable().await?;
        Ok(Some(start))
    }

    /// Has the disk's own overlay merged first while all overlays together are far over their
    /// bound: checkpoints are behind.
    pub(super) async fn hold_back(self: &Arc<Self>) -> Result<(), DiskError> {
        while self.store.overlays.is_far_exceeded() {
            {
                let state = self.lock();
                if state.active.is_empty() || !matches!(state.slot, Slot::Live(_)) {
                    return Ok(());
                }
            }
            // Whoever comes first does it; the others wait for the lock and find it done.
            self.checkpoint(Mode::Keep).await.map_err(|error| self.engine_error(&error))?;
        }
        Ok(())
    }

    /// Waits until a checkpoint that ends the chain is done.
    pub(crate) async fn settled(&self) -> Result<(), DiskError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.lock();
                match &state.slot {
                    Slot::Closing => {}
                    Slot::Idle | Slot::Live(_) => return Ok(()),
                    Slot::Halted(_) | Slot::Gone => return Err(self.refusal(&state)),
                }
            }
            changed.await;
        }
    }

    /// Has a checkpoint done in the background, unless one is already waiting to begin.
    pub(super) fn queue_checkpoint(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.checkpoint_queued {
                return;
            }
            state.checkpoint_queued = true;
        }
        let disk = Arc::clone(self);
        self.store.runtime.spawn(Box::pin(async move {
            if let Err(error) = disk.checkpoint(Mode::Keep).await {
                tracing::warn!(disk = %disk.name(), %error, "checkpoint failed");
            }
        }));
    }

    pub(crate) fn refusal(&self, state: &DiskState) -> DiskError {
        let disk = state.name.to_string();
        match &state.slot {
            Slot::Halted(cause) => DiskError::Halted { disk, cause: cause.clone() },
            _ => DiskError::Gone { disk },
        }
    }

    pub(crate) fn chain_error_locked(&self, state: &DiskState, fault: &ChainFault) -> DiskError {
        let disk = state.name.to_string();
        match fault {
            ChainFault::Full => DiskError::NoSpace { disk },
            ChainFault::Broken(_) => DiskError::HostFull { disk },
            fault => DiskError::Halted { disk, cause: error_chain(fault) },
        }
    }

    pub(super) fn catalogue_error(&self, error: &CatalogueError) -> DiskError {
        let disk = self.name().to_string();
        match error {
            CatalogueError::Full { .. } => DiskError::NoSpace { disk },
            error => DiskError::Halted { disk, cause: error_chain(error) },
        }
    }

    /// Ends the disk: nobody writes to it or takes a snapshot of it any more. The caller holds its
    /// maintenance, and goes on with [`Disk::leftovers`].
    pub(crate) fn end(&self) -> Option<Arc<Chain>> {
        let slot = std::mem::replace(&mut self.lock().slot, Slot::Gone);
        self.changed.notify_waiters();
        match slot {
            Slot::Live(chain) => Some(chain),
            _ => None,
        }
    }

    /// Stops the chain of a disk that has ended: nothing of it is needed once its row is gone.
    /// Gives every block that no tree holds, to be freed after that.
    pub(crate) async fn leftovers(&self, chain: Option<Arc<Chain>>) -> Vec<BlockAddr> {
        let Some(chain) = chain else { return Vec::new() };
        chain.stop().await;
        let mut state = self.lock();
        let mut blocks: BTreeSet<BlockAddr> = state.active.addresses().collect();
        blocks.extend(state.frozen.iter().flat_map(|overlay| overlay.addresses()));
        blocks.extend(chain.remains());
        let unfinished = state.plan.take();
        let promised = std::mem::take(&mut state.promised_nodes)
            + unfinished.map_or(0, |frozen| frozen.take_promise());
        let frozen = state.frozen.take().map_or(0, |overlay| overlay.entry_count());
        let active = std::mem::take(&mut state.active).entry_count();
        self.store.overlays.changed(active + frozen, 0);
        drop(state);
        self.store.space().settle(self.id, promised);
        blocks.into_iter().collect()
    }

    /// The committed tree, unless the disk is halted or gone. It stays as it is while the caller
    /// holds the disk's maintenance.
    pub(crate) fn served_root(&self) -> Result<Root, DiskError> {
        let state = self.lock();
        match &state.slot {
            Slot::Halted(_) | Slot::Gone => Err(self.refusal(&state)),
            _ => Ok(state.base),
        }
    }

    /// What its overlay costs: entries that a checkpoint would merge.
    pub(crate) fn overlay_entries(&self) -> usize {
        self.lock().active.entry_count()
    }

    /// A checkpoint, where there is anything to merge.
    pub(crate) async fn checkpoint_if_dirty(self: &Arc<Self>) -> Result<(), EngineError> {
        let dirty = {
            let state = self.lock();
            !state.active.is_empty() || !state.pending.is_empty() || state.plan.is_some()
        };
        if dirty { self.checkpoint(Mode::Keep).await } else { Ok(()) }
    }

    fn engine_error(&self, error: &EngineError) -> DiskError {
        let disk = self.name().to_string();
        if error.is_no_space() {
            DiskError::NoSpace { disk }
        } else {
            DiskError::Halted { disk, cause: error_chain(error) }
        }
    }

    /// Wakes everybody who waits for the disk's state to change.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }
}

/// The row of a chain that begins at `start`.
pub(super) fn chain_row(
    disk: &Disk,
    start: &ChainStart,
    epoch: bough_blockstore::Epoch,
) -> ChainRow {
    ChainRow {
        disk: disk.id,
        nonce: start.nonce,
        sequence: start.sequence,
        at: start.at,
        previous_crc: start.previous_crc,
        epoch,
        synced_upto: Sequence(start.sequence.0 - 1),
    }
}
