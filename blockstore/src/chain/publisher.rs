//! What happens when a record has reached the device: it is published and answered, in order.
//!
//! Invariant: a unit is published only when it and all units before it have landed whole. After
//! one that was lost nothing is, whatever reached the device: recovery would stop at the gap.

use std::sync::Arc;

use crate::addr::{BlockCount, to_u64, to_usize};
use crate::chain::config::Sabotage;
use crate::chain::reuse::Header;
use crate::chain::state::{Flying, FlyingRecord};
use crate::chain::ticket::Outcome;
use crate::chain::{Chain, ChainFault, ChainStart};
use crate::device::DeviceError;

impl Chain {
    /// The device has ended one write of a record.
    pub(super) fn part_ended(
        self: &Arc<Self>,
        unit: u64,
        index: usize,
        result: Result<(), DeviceError>,
    ) {
        {
            let mut state = self.lock_state();
            let place = to_usize(unit - state.first_unit);
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
            let answer = Arc::clone(&flying.answer);
            let outcome = self.conclude(flying, &mut publication);
            let answered_early = self.config.sabotage() != Sabotage::None && answer.is_set();
            if !answered_early {
                answer.set(outcome);
            }
        }
        drop(publication);
        self.progress.notify_waiters();
        self.sync_if_much_is_unsynced();
    }

    /// Publishes a unit's records, or writes them off.
    fn conclude(&self, flying: Flying, publication: &mut ChainStart) -> Outcome {
        if let Some(fault) = flying.fault {
            let taken = flying.records.into_iter().flat_map(|record| record.taken);
            self.lock_state().reuse.note_lost(taken);
            return Err(fault);
        }
        for record in &flying.records {
            self.sink.publish(&record.record);
        }
        let last = flying.records.last().expect("a sealed unit has a record");
        let sequence = last.record.sequence;
        publication.sequence = sequence.next();
        publication.at = *last.taken.last().expect("the next header");
        publication.previous_crc = last.header_crc;
        self.sink.published_before(publication);
        self.note_published(flying.records);
        Ok(sequence)
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

    fn note_published(&self, records: impl IntoIterator<Item = FlyingRecord>) {
        let mut state = self.lock_state();
        for record in records {
            let blocks = to_u64(record.taken.len());
            state.published = record.record.sequence;
            state.published_bytes += BlockCount(blocks).bytes();
            state.reuse.note_published(Header {
                sequence: record.record.sequence,
                at: record.header_at,
                synced_upto: record.synced_upto,
                blocks,
            });
        }
    }
}
