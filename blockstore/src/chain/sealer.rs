//! Turning what is staged into records and sending them off.
//!
//! What is staged is sealed when every task of its turn has staged what it has: straight-line code
//! where blocks are at hand and nothing is in the way, else a task, one per chain, alive while there
//! is something to seal. While records are under way or blocks are being granted, the next batch
//! grows by itself. What is full has nothing to wait for: whoever fills a record sends it off, so
//! that the device works on it while the rest of the turn fills the next.
//!
//! Invariant: one unit at a time is between queue and chain (`State::sealing`), so units are
//! sealed in the order in which they were staged, whoever seals them.

use std::sync::Arc;

use crate::addr::BlockRun;
use crate::chain::batch::{Staged, Terms};
use crate::chain::state::{Flying, RecordWrite, State};
use crate::chain::{Chain, ChainConfig, ChainFault};

/// How often granted blocks may turn out to be taken by somebody else before we give up.
const MAX_REFILLS: usize = 16;

/// What the sealing task finds to do.
enum Popped {
    Unit(Staged),
    /// Somebody else is sealing something.
    Busy,
    Nothing,
}

impl Chain {
    /// Has what is staged sealed at the end of the turn. For whoever has set `State::sealer_runs`.
    pub(super) fn seal_soon(self: &Arc<Self>) {
        let chain = Arc::clone(self);
        self.runtime.defer(Box::new(move || {
            chain.seal_at_once(State::pop_simple);
            if !chain.end_if_idle() {
                chain.runtime.spawn(Box::pin(Arc::clone(&chain).run_sealer()));
            }
        }));
    }

    async fn run_sealer(self: Arc<Self>) {
        loop {
            self.wait_until(|state| !state.sealing && state.may_seal(&self.config)).await;
            self.pass_barrier().await;
            let staged = match self.pop_staged_or_end() {
                Popped::Unit(staged) => staged,
                Popped::Busy => continue,
                Popped::Nothing => {
                    self.progress.notify_waiters();
                    return;
                }
            };
            match self.take_blocks(staged.blocks_needed()).await {
                Ok(runs) => self.seal_and_send(staged, &runs).await,
                Err(fault) => self.refuse(&staged, fault),
            }
            self.lock_state().sealing = false;
        }
    }

    /// Sends off what is full and needs no waiting. The rest is for the end of the turn.
    pub(super) fn seal_full(self: &Arc<Self>) {
        self.seal_at_once(State::pop_full);
        self.progress.notify_waiters();
    }

    /// Sends off what `pop` gives, while blocks for it are at hand.
    fn seal_at_once(self: &Arc<Self>, pop: fn(&mut State, &ChainConfig) -> Option<Staged>) {
        loop {
            let mut state = self.lock_state();
            let Some(staged) = pop(&mut state, &self.config) else { return };
            let near = state.next_place();
            drop(state);
            let runs = self.space.take(near, staged.blocks_needed());
            let mut state = self.lock_state();
            state.sealing = false;
            if let Some(fault) = state.fault.clone() {
                drop(state);
                return self.seal_failed(&staged, &runs.unwrap_or_default(), fault);
            }
            let Some(runs) = runs else { return state.unpop(staged) };
            let writes = state.seal(staged, &runs);
            drop(state);
            writes.into_iter().for_each(|write| self.send(write));
        }
    }

    /// Ends the sealing if there is nothing left to seal: under the lock that staging looks under, so
    /// that nothing is left behind.
    fn end_if_idle(&self) -> bool {
        let mut state = self.lock_state();
        let is_idle = !state.sealing && !state.is_anything_staged();
        if is_idle {
            state.sealer_runs = false;
            drop(state);
            self.progress.notify_waiters();
        }
        is_idle
    }

    /// Nothing is sealed after a record that requires something until that is synced. What comes
    /// later may have other chains cut off; once it has, the requirement could not be judged any
    /// more, and must be known to have been met.
    async fn pass_barrier(self: &Arc<Self>) {
        let (upto, synced) = {
            let state = self.lock_state();
            (state.last_requiring, state.synced)
        };
        if upto > synced && self.published_upto(upto).await.is_ok() {
            // A failure is the chain's fault by now, and answers whatever is staged.
            let _ = self.synced(upto).await;
        }
    }

    /// Ends the task under the lock that staging looks under, so that none is left behind.
    fn pop_staged_or_end(&self) -> Popped {
        let mut state = self.lock_state();
        if state.sealing {
            return Popped::Busy;
        }
        let staged = state.pop_staged();
        state.sealer_runs = staged.is_some();
        state.sealing = staged.is_some();
        staged.map_or(Popped::Nothing, Popped::Unit)
    }

    /// A full store may only be waiting for the reuse rule.
    async fn take_blocks(self: &Arc<Self>, count: u64) -> Result<Vec<BlockRun>, ChainFault> {
        match self.take_or_refill(count).await {
            Err(ChainFault::Full) if self.settle().await => self.take_or_refill(count).await,
            taken => taken,
        }
    }

    async fn take_or_refill(&self, count: u64) -> Result<Vec<BlockRun>, ChainFault> {
        for _ in 0..MAX_REFILLS {
            if let Some(runs) = self.take(count) {
                return Ok(runs);
            }
            self.space.refill(count).await?;
        }
        Err(ChainFault::Full)
    }

    fn take(&self, count: u64) -> Option<Vec<BlockRun>> {
        let near = self.lock_state().next_place();
        self.space.take(near, count)
    }

    /// Releases every retired block, by an empty record that says that all is synced. Whether
    /// there were any.
    async fn settle(self: &Arc<Self>) -> bool {
        if self.lock_state().reuse.retired_blocks() == 0 {
            return false;
        }
        // Nothing but this task seals: all that retires blocks is published then.
        self.wait_until(|state| state.flying.is_empty()).await;
        let published = self.lock_state().published;
        if self.synced(published).await.is_err() {
            return false;
        }
        let Some(runs) = self.take(1) else { return false };
        let empty = Staged::new(Terms::Plain, 1);
        let answer = Arc::clone(&empty.answer);
        self.seal_and_send(empty, &runs).await;
        match answer.wait().await {
            Ok(sequence) => self.synced(sequence).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Answered after those before it, as if it had been written.
    fn refuse(self: &Arc<Self>, staged: &Staged, fault: ChainFault) {
        self.lock_state().flying.push_back(Flying::refused(staged, fault));
        self.advance();
    }

    async fn seal_and_send(self: &Arc<Self>, staged: Staged, runs: &[BlockRun]) {
        let sealed = {
            let mut state = self.lock_state();
            match state.fault.clone() {
                None => Ok(state.seal(staged, runs)),
                Some(fault) => Err((staged, fault)),
            }
        };
        match sealed {
            Ok(writes) => {
                for write in writes {
                    self.wait_until(|state| state.writing < self.config.max_inflight).await;
                    self.send(write);
                }
            }
            Err((staged, fault)) => self.seal_failed(&staged, runs, fault),
        }
    }

    fn seal_failed(self: &Arc<Self>, staged: &Staged, runs: &[BlockRun], fault: ChainFault) {
        let unused: Vec<_> = runs.iter().flat_map(|run| run.blocks()).collect();
        self.space.give_back(&unused);
        self.refuse(staged, fault);
    }

    /// Starts a record's writes: whoever waits may go away, the writes do not.
    fn send(self: &Arc<Self>, write: RecordWrite) {
        self.lock_state().writing += 1;
        for (at, data) in write.parts {
            let chain = Arc::clone(self);
            let (unit, index) = (write.unit, write.index);
            let done = Box::new(move |result| chain.part_ended(unit, index, result));
            self.device.write_then(&*self.runtime, at, data, done);
        }
    }
}
