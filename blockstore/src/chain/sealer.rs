//! The task that turns what is staged into records and sends them off.
//!
//! One per chain, alive while there is something to seal. It first lets every task of its turn
//! stage what it has; while records are under way or blocks are being granted, the next batch
//! grows by itself.

use std::sync::Arc;

use crate::addr::{BlockRun, to_u64};
use crate::chain::batch::Staged;
use crate::chain::config::Sabotage;
use crate::chain::state::{Flying, RecordWrite};
use crate::chain::{Chain, ChainFault};

/// How often granted blocks may turn out to be taken by somebody else before we give up.
const MAX_REFILLS: usize = 16;

impl Chain {
    pub(super) async fn run_sealer(self: Arc<Self>) {
        self.runtime.yield_now().await;
        loop {
            self.wait_until(|state| state.writing < self.config.max_inflight).await;
            let Some(staged) = self.pop_staged_or_end() else {
                self.progress.notify_waiters();
                return;
            };
            match self.take_blocks(staged.blocks_needed()).await {
                Ok(runs) => self.seal_and_send(staged, &runs).await,
                Err(fault) => self.refuse(&staged, fault),
            }
        }
    }

    /// Ends the task under the lock that staging looks under, so that none is left behind.
    fn pop_staged_or_end(&self) -> Option<Staged> {
        let mut state = self.lock_state();
        let staged = state.pop_staged();
        state.sealer_runs = staged.is_some();
        staged
    }

    async fn take_blocks(&self, count: u64) -> Result<Vec<BlockRun>, ChainFault> {
        for _ in 0..MAX_REFILLS {
            let near = self.lock_state().seal_at.at.raw() + 1;
            if let Some(runs) = self.space.take(crate::addr::BlockAddr::new(near), count) {
                return Ok(runs);
            }
            self.space.refill(count).await?;
        }
        Err(ChainFault::Full)
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
            Err((staged, fault)) => {
                let unused: Vec<_> = runs.iter().flat_map(|run| run.blocks()).collect();
                self.space.give_back(&unused);
                self.refuse(&staged, fault);
            }
        }
    }

    /// Starts a record's writes, each in a task of its own: whoever waits may go away, the
    /// writes do not.
    fn send(self: &Arc<Self>, write: RecordWrite) {
        self.lock_state().writing += 1;
        for (at, data) in write.parts {
            let chain = Arc::clone(self);
            let (unit, index) = (write.unit, write.index);
            self.runtime.spawn(Box::pin(async move {
                let result = chain.device.write(at, data).await;
                chain.part_ended(unit, index, result);
            }));
        }
    }

    /// The device has ended one write of a record.
    fn part_ended(
        self: &Arc<Self>,
        unit: u64,
        index: usize,
        result: Result<(), crate::device::DeviceError>,
    ) {
        {
            let mut state = self.lock_state();
            let place = crate::addr::to_usize(unit - state.first_unit);
            let flying = &mut state.flying[place];
            flying.records[index].parts_left -= 1;
            let record_ended = flying.records[index].parts_left == 0;
            if let Err(error) = result {
                let fault = ChainFault::from_write(error);
                flying.fault.get_or_insert(fault.clone());
                state.set_fault(fault);
            }
            if self.config.sabotage() == Sabotage::AnswerOutOfOrder {
                state.flying[place].answer_out_of_order();
            }
            if record_ended {
                state.writing -= 1;
            }
        }
        self.advance();
    }

    /// Publishes and answers, in order, all that has landed.
    pub(super) fn advance(self: &Arc<Self>) {
        let mut publication = self.lock_publication();
        while let Some(flying) = self.pop_landed() {
            let outcome = match flying.fault {
                None => {
                    for record in &flying.records {
                        self.sink.publish(&record.record);
                    }
                    let last = flying.records.last().expect("a sealed unit has a record");
                    publication.sequence = last.record.sequence.next();
                    publication.at = *last.taken.last().expect("the next header");
                    publication.previous_crc = last.header_crc;
                    let sequence = last.record.sequence;
                    self.note_published(flying.records);
                    Ok(sequence)
                }
                Some(fault) => {
                    let taken = flying.records.into_iter().flat_map(|record| record.taken);
                    self.lock_state().reuse.note_lost(taken);
                    Err(fault)
                }
            };
            if !flying.answer.is_set() || self.config.sabotage() == Sabotage::None {
                flying.answer.set(outcome);
            }
        }
        drop(publication);
        self.progress.notify_waiters();
        self.sync_if_much_is_unsynced();
    }

    /// The front unit, if all its writes have ended. After one whose records were lost nothing
    /// counts any more: recovery would stop there.
    fn pop_landed(&self) -> Option<Flying> {
        let mut state = self.lock_state();
        let mut flying = state.flying.pop_front_if(|front| front.has_landed())?;
        state.first_unit += 1;
        if flying.fault.is_some() && !flying.records.is_empty() {
            state.cut_off = true;
        }
        if state.cut_off && flying.fault.is_none() {
            flying.fault = state.fault.clone();
        }
        Some(flying)
    }

    fn note_published(&self, records: Vec<crate::chain::state::FlyingRecord>) {
        let mut state = self.lock_state();
        for record in records {
            let blocks = to_u64(record.taken.len());
            state.published = record.record.sequence;
            state.published_bytes += crate::addr::BlockCount(blocks).bytes();
            state.reuse.note_published(crate::chain::reuse::Header {
                sequence: record.record.sequence,
                at: record.header_at,
                synced_upto: record.synced_upto,
                blocks,
            });
        }
    }
}
