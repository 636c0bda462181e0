//! The task that makes published records survive a power cut.
//!
//! One sync at a time, for all who wait; it begins after the records that it promises have ended,
//! and whoever comes while it runs waits for the next one. A failed sync is never repeated.

use std::sync::Arc;

use crate::addr::Sequence;
use crate::chain::config::Sabotage;
use crate::chain::{Chain, ChainFault};

impl Chain {
    /// As [`Self::synced`], for somebody who was promised it.
    pub(super) async fn promised(self: &Arc<Self>, upto: Sequence) -> Result<(), ChainFault> {
        if self.config.sabotage() == Sabotage::SkipSync {
            return Ok(());
        }
        self.synced(upto).await
    }

    /// Waits until record `upto`, which is published, survives a power cut.
    pub(super) async fn synced(self: &Arc<Self>, upto: Sequence) -> Result<(), ChainFault> {
        self.request_sync(upto);
        self.wait_until(|state| {
            state.synced >= upto || matches!(state.fault, Some(ChainFault::SyncFailed(_)))
        })
        .await;
        let state = self.lock_state();
        match &state.fault {
            _ if state.synced >= upto => Ok(()),
            Some(fault) => Err(fault.clone()),
            None => unreachable!("waited for the one or the other"),
        }
    }

    fn request_sync(self: &Arc<Self>, upto: Sequence) {
        let mut state = self.lock_state();
        state.sync_wanted = state.sync_wanted.max(upto);
        let failed = matches!(state.fault, Some(ChainFault::SyncFailed(_)));
        if state.syncer_runs || failed || state.sync_wanted <= state.synced {
            return;
        }
        state.syncer_runs = true;
        drop(state);
        self.runtime.spawn(Box::pin(Arc::clone(self).run_syncer()));
    }

    async fn run_syncer(self: Arc<Self>) {
        while let Some((upto, bytes)) = self.next_sync() {
            match self.device.sync().await {
                Ok(()) => self.note_synced(upto, bytes),
                Err(error) => self.halt_all(ChainFault::SyncFailed(error)),
            }
        }
        self.progress.notify_waiters();
    }

    /// What a sync that begins now promises, if one is wanted.
    fn next_sync(&self) -> Option<(Sequence, u64)> {
        let mut state = self.lock_state();
        let failed = matches!(state.fault, Some(ChainFault::SyncFailed(_)));
        state.syncer_runs = !failed && state.sync_wanted > state.synced;
        state.syncer_runs.then_some((state.published, state.published_bytes))
    }

    fn note_synced(&self, upto: Sequence, bytes: u64) {
        let free = {
            let mut state = self.lock_state();
            state.synced = upto;
            state.synced_bytes = bytes;
            state.reuse.note_synced(upto, self.config.sabotage())
        };
        self.progress.notify_waiters();
        self.give_back(&free);
    }

    /// After a failed sync nothing that is not yet answered counts.
    fn halt_all(self: &Arc<Self>, fault: ChainFault) {
        {
            let mut state = self.lock_state();
            state.cut_off = true;
            state.set_fault(fault);
        }
        self.advance();
    }

    /// Bounds what recovery has to verify.
    pub(super) fn sync_if_much_is_unsynced(self: &Arc<Self>) {
        let (published, unsynced_bytes, arm) = {
            let mut state = self.lock_state();
            if state.published == state.synced || state.fault.is_some() {
                return;
            }
            let arm = !std::mem::replace(&mut state.timer_runs, true);
            (state.published, state.published_bytes - state.synced_bytes, arm)
        };
        if unsynced_bytes >= self.config.sync_bytes {
            self.request_sync(published);
        }
        if arm {
            self.arm_timer();
        }
    }

    /// The timer keeps no chain alive.
    fn arm_timer(self: &Arc<Self>) {
        let sleep = self.runtime.sleep(self.config.sync_after);
        let chain = Arc::downgrade(self);
        self.runtime.spawn(Box::pin(async move {
            sleep.await;
            if let Some(chain) = chain.upgrade() {
                let published = {
                    let mut state = chain.lock_state();
                    state.timer_runs = false;
                    state.published
                };
                chain.request_sync(published);
            }
        }));
    }
}
