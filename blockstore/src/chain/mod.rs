//! The live log of one disk: what it is asked, in order, made durable record by record.
//!
//! Owns the order of records, the blocks of their headers, and the moment at which a replaced
//! block may be used again. Never reads, never knows what a tree holds, never decides where blocks
//! come from ([`ChainSpace`]) or what they mean ([`Publish`]). The invariants:
//!
//! 1. records are published, and those who wait are answered, in chain order, each only when it and
//!    all before it have reached the device;
//! 2. a replaced block is given back only when a header (or a committed row) that says that its
//!    replacement is synced is itself synced;
//! 3. nothing depends on a caller's future being polled: all I/O belongs to the chain's own tasks.
//!
//! Locks, outermost first: the chain's publication lock, whatever the caller's [`Publish`] takes,
//! the chain's state lock. So [`Chain::with_published`] may not be called under a lock that
//! `publish` takes; everything else may.

mod batch;
mod config;
mod fault;
mod publisher;
mod reuse;
mod sealer;
mod space;
mod state;
mod syncer;
#[cfg(test)]
mod tests;
mod ticket;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::addr::{BLOCK_BYTES, BlockAddr, Epoch, Nonce, Sequence, VirtualBlock, VirtualRange};
use crate::chain::batch::{Batch, Staged, Terms};
use crate::chain::state::State;
use crate::chain::ticket::Answer;
use crate::device::{Device, Runtime};

pub use config::{ChainConfig, ChainStats, Sabotage};
pub use fault::{ChainFault, SpaceError};
pub use space::{ChainSpace, Group, Publish, PublishedRecord, RefillFuture};
pub use ticket::Ticket;

/// Where a chain begins: what its row in the catalogue stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainStart {
    /// The chain's secret.
    pub nonce: Nonce,
    /// The next record's.
    pub sequence: Sequence,
    /// Where its header goes.
    pub at: BlockAddr,
    /// The CRC of the header before it; anything for a chain's first record.
    pub previous_crc: u32,
}

/// The live log of one disk.
pub struct Chain {
    device: Arc<dyn Device>,
    runtime: Arc<dyn Runtime>,
    space: Arc<dyn ChainSpace>,
    sink: Arc<dyn Publish>,
    config: ChainConfig,
    /// Held while publishing: where a chain would begin that is cut off at what is published.
    publication: Mutex<ChainStart>,
    state: Mutex<State>,
    /// Something in `state` has changed that somebody may wait for.
    progress: Notify,
}

impl Chain {
    /// A chain that continues (or begins) at `start`, whose header block it owns from now on.
    pub fn new(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
        start: ChainStart,
        epoch: Epoch,
        space: Arc<dyn ChainSpace>,
        sink: Arc<dyn Publish>,
        config: ChainConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            device,
            runtime,
            space,
            sink,
            config,
            publication: Mutex::new(start),
            state: Mutex::new(State::new(start, epoch)),
            progress: Notify::new(),
        })
    }

    /// Stages one block: `fill` writes all of its bytes into our buffer (which holds anything
    /// before that), where they are checksummed.
    /// Straight-line; call it on a reactor, since the first one staged starts the sealing task,
    /// and not from inside [`Publish`], since a record that is full is sent off at once.
    /// `fill` runs under the chain's state lock: it may not call the chain.
    ///
    /// # Errors
    /// Where the chain takes no more writes.
    pub fn stage_block(
        self: &Arc<Self>,
        vba: VirtualBlock,
        fill: &mut dyn FnMut(&mut [u8; BLOCK_BYTES]),
    ) -> Result<Ticket, ChainFault> {
        let mut is_one_full = false;
        let ticket = self.stage(|state, config| {
            let staged = room_for(state, config, Terms::Plain, (1, 1));
            staged.last().push_block(vba, fill, config);
            let answer = Arc::clone(&staged.answer);
            if !staged.last().has_room(1, 1, config) {
                state.close_open();
            }
            is_one_full = !state.queue.is_empty();
            answer
        })?;
        if is_one_full {
            self.seal_full();
        }
        Ok(ticket)
    }

    /// Stages blocks that are to read as zeros.
    ///
    /// # Errors
    /// Where the chain takes no more writes.
    pub fn stage_zero(self: &Arc<Self>, range: VirtualRange) -> Result<Ticket, ChainFault> {
        self.stage_group(&Group { zeros: std::slice::from_ref(&range), ..Group::default() })
    }

    /// Stages writes that recovery will find wholly or not at all, however many records they
    /// take. They share a record with others where they fit in one. Zeros apply before blocks.
    ///
    /// A group that requires something holds up what follows it until it is synced: so whatever
    /// comes later in the chain says that it was, and recovery judges requirements by chains
    /// that nothing later has cut off.
    ///
    /// # Errors
    /// Where the chain takes no more writes.
    pub fn stage_group(self: &Arc<Self>, group: &Group<'_>) -> Result<Ticket, ChainFault> {
        let others = group.zeros.len() + group.requires.len();
        let entries = others + group.blocks.len();
        let terms = if group.requires.is_empty() { Terms::Plain } else { Terms::Requiring };
        self.stage(|state, config| {
            if Batch::would_fit(entries, group.blocks.len(), config) {
                let staged = room_for(state, config, terms, (entries, group.blocks.len()));
                staged.put(group, config);
                Arc::clone(&staged.answer)
            } else {
                state.close_open();
                let mut staged = Staged::new(terms, entries);
                staged.put(group, config);
                let answer = Arc::clone(&staged.answer);
                state.queue.push_back(staged);
                answer
            }
        })
    }

    /// Waits until it and all before it are on the device and published; returns its record.
    /// Dropping the future withdraws nothing.
    ///
    /// # Errors
    /// Where this write was refused, or the chain halted before it.
    pub async fn published(&self, ticket: Ticket) -> Result<Sequence, ChainFault> {
        ticket.answer.wait().await
    }

    /// Waits until record `upto` and all before it are published.
    ///
    /// # Errors
    /// Where the chain halted before it.
    pub async fn published_upto(&self, upto: Sequence) -> Result<(), ChainFault> {
        let settled = |state: &State| state.fault.is_some() && state.flying.is_empty();
        self.wait_until(|state| state.published >= upto || settled(state)).await;
        let state = self.lock_state();
        match &state.fault {
            Some(fault) if state.published < upto => Err(fault.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until everything staged so far has been published or refused.
    ///
    /// # Errors
    /// Where the chain halted before that.
    pub async fn settled(&self) -> Result<Sequence, ChainFault> {
        // Answers come in order, so the last one stands for all.
        let last = self.lock_state().last_answer.clone();
        match last {
            None => Ok(self.lock_state().published),
            Some(last) => match last.wait().await {
                Err(fault) if fault.is_refusal() => Ok(self.lock_state().published),
                outcome => outcome,
            },
        }
    }

    /// Waits until everything staged so far survives a power cut (writes refused for want of
    /// space excepted: they were answered so). Concurrent flushes share one sync.
    ///
    /// # Errors
    /// Where the chain halted before that.
    pub async fn flush(self: &Arc<Self>) -> Result<(), ChainFault> {
        // 1. What this flush promises has reached the device.
        let upto = self.settled().await?;
        // 2. The commit point.
        self.promised(upto).await
    }

    /// Makes everything answered so far survive a power cut, though the chain may be broken: what
    /// was answered lies before the break.
    ///
    /// # Errors
    /// Where a sync failed.
    pub async fn flush_published(self: &Arc<Self>) -> Result<(), ChainFault> {
        let published = self.lock_state().published;
        self.promised(published).await
    }

    /// Waits until it and all before it survive a power cut; returns its record.
    ///
    /// # Errors
    /// Where this write was refused, or the chain halted before it.
    pub async fn durable(self: &Arc<Self>, ticket: Ticket) -> Result<Sequence, ChainFault> {
        let sequence = ticket.answer.wait().await?;
        self.promised(sequence).await?;
        Ok(sequence)
    }

    /// The last sealed record; everything sealed later carries `epoch`. Never splits a group.
    /// Under [`Publish`]'s own lock nothing is published (so nothing answered) meanwhile.
    ///
    /// # Panics
    /// Where epochs run backwards: a bug of the caller's.
    pub fn cut(&self, epoch: Epoch) -> Sequence {
        let mut state = self.lock_state();
        assert!(epoch >= state.epoch, "epochs only grow");
        state.epoch = epoch;
        Sequence(state.seal_at.sequence.0 - 1)
    }

    /// Runs `f` with nothing being published meanwhile. It is given where the chain would begin
    /// if everything published so far were cut off.
    pub fn with_published<R>(&self, f: impl FnOnce(ChainStart) -> R) -> R {
        let publication = self.lock_publication();
        f(*publication)
    }

    /// A durable commit has made the records before `start.sequence` needless: gives back their
    /// headers, and the blocks retired by them.
    ///
    /// # Panics
    /// Where `start` lies beyond what is published: a bug of the caller's.
    pub fn truncate(&self, start: &ChainStart) {
        let free = {
            let mut state = self.lock_state();
            assert!(start.sequence <= state.published.next(), "cut off beyond the published");
            state.reuse.truncate(start.sequence)
        };
        self.give_back(&free);
    }

    /// Blocks that only the chain knows and that record `replaced_by` replaced: given back when
    /// no recovery can want them any more. May be called from inside `publish`.
    pub fn retire(&self, blocks: &[BlockAddr], replaced_by: Sequence) {
        let free = self.lock_state().reuse.retire(blocks, replaced_by);
        self.give_back(&free);
    }

    /// How long and how busy the chain is.
    pub fn stats(&self) -> ChainStats {
        let state = self.lock_state();
        ChainStats {
            records: state.reuse.records(),
            bytes: state.reuse.bytes(),
            inflight: state.flying.iter().map(|unit| unit.records.len()).sum(),
            unsynced_bytes: state.published_bytes - state.synced_bytes,
            retired_blocks: state.reuse.retired_blocks(),
        }
    }

    /// Why the chain takes no more writes, if it does not.
    pub fn fault(&self) -> Option<ChainFault> {
        self.lock_state().fault.clone()
    }

    /// Refuses everything not yet sealed and everything to come, and waits for all I/O under way
    /// to end. Flush first to keep what was staged. May not be awaited by what
    /// [`ChainSpace::refill`] waits for.
    pub async fn stop(self: &Arc<Self>) {
        self.lock_state().set_fault(ChainFault::Stopped);
        self.advance();
        self.wait_until(|state| {
            !state.sealer_runs && !state.syncer_runs && state.flying.is_empty()
        })
        .await;
    }

    /// Every block that nothing but this chain kept: headers, the one reserved for the next,
    /// retired blocks not yet given back, blocks of records that were never published. For the
    /// owner of a stopped chain, to free once a durable commit no longer names the chain.
    pub fn remains(&self) -> Vec<BlockAddr> {
        let next = self.lock_publication().at;
        let mut blocks = self.lock_state().reuse.remains();
        blocks.push(next);
        blocks
    }

    /// Puts something into the batch and makes sure that somebody will seal it.
    fn stage(
        self: &Arc<Self>,
        put: impl FnOnce(&mut State, &ChainConfig) -> Arc<Answer>,
    ) -> Result<Ticket, ChainFault> {
        let mut state = self.lock_state();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        let was_much = state.is_much_staged(&self.config);
        let answer = put(&mut state, &self.config);
        state.last_answer = Some(Arc::clone(&answer));
        let is_much = state.is_much_staged(&self.config);
        let start = !std::mem::replace(&mut state.sealer_runs, true);
        drop(state);
        if is_much && !was_much {
            self.progress.notify_waiters();
        }
        if start {
            self.seal_soon();
        }
        Ok(Ticket { answer })
    }

    async fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        while !holds(&self.lock_state()) {
            let mut progress = pin!(self.progress.notified());
            // Registered before looking, so that no change falls in between.
            progress.as_mut().enable();
            if holds(&self.lock_state()) {
                return;
            }
            progress.await;
        }
    }

    fn give_back(&self, blocks: &[BlockAddr]) {
        if !blocks.is_empty() {
            self.space.give_back(blocks);
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic left the chain's state unknown")
    }

    fn lock_publication(&self) -> MutexGuard<'_, ChainStart> {
        self.publication.lock().expect("a panic left the chain's publication unknown")
    }
}

/// The batch being filled, if so many entries and data blocks still fit; a fresh one otherwise.
/// What requires something shares no record with what does not: see the sealer.
fn room_for<'a>(
    state: &'a mut State,
    config: &ChainConfig,
    terms: Terms,
    (entries, data_blocks): (usize, usize),
) -> &'a mut Staged {
    let fits = |staged: &mut Staged| {
        staged.terms == terms && staged.last().has_room(entries, data_blocks, config)
    };
    if !state.open.as_mut().is_some_and(fits) {
        state.close_open();
    }
    let expected = state.expected_blocks;
    state.open.get_or_insert_with(|| Staged::new(terms, expected))
}
