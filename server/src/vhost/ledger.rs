//! What a successor has to know of a session, in memory that outlives us.
//!
//! Each session has one small file in memory. Holders of descriptors hold it; whoever takes the
//! session up finds there what was agreed ([`Record`]), whether the message before it on the socket
//! was carried out already, and, for front ends that keep no in-flight region, one for each queue:
//!
//! ```text
//! 0        magic u64 | state u64: the slot that counts (bit 0), and the phase (bits 8 and 9)
//! 4096     two slots of 512 KiB: length u32, then a record as JSON
//! 4096 + 1 MiB   in-flight regions of one queue each, 576 KiB apart
//! ```
//!
//! We may be killed between any two instructions. So a record goes to the slot that does not count;
//! then one store of eight bytes makes it count, and says that the message it is about was carried
//! out. Nothing here outlives the machine, and nobody but us writes it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bough_blockstore::{to_u64, to_usize};

use crate::keep::{Kept, Role, Vault};
use crate::vhost::config::MAX_QUEUES;
use crate::vhost::record::Record;
use crate::vhost::{InflightRegion, Shape, VhostError};

const MAGIC: u64 = u64::from_le_bytes(*b"bough s1");
const STATE_AT: u64 = 8;
const SLOTS_AT: u64 = 4096;
const SLOT_BYTES: u64 = 512 << 10;
const RECORD_AT: u64 = 4;
const REGIONS_AT: u64 = SLOTS_AT + 2 * SLOT_BYTES;
const REGION_BYTES: u64 = 576 << 10;
const FILE_BYTES: u64 = REGIONS_AT + REGION_BYTES * MAX_QUEUES as u64;
const PHASE_SHIFT: u32 = 8;

// A region for the largest ring there is.
const _: () = assert!(REGION_BYTES >= 16 + 16 * 32768 && REGION_BYTES.is_multiple_of(65536));

/// How far the next message on the socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not touched, or touched in a way that may be repeated.
    Open,
    /// Carried out, as the record has it; to be answered with the reply in the record, and taken.
    Applied,
    /// Being answered and taken: whether that was done nobody can tell.
    Answering,
}

impl Phase {
    fn from_bits(bits: u64) -> Option<Self> {
        [Self::Open, Self::Applied, Self::Answering].into_iter().find(|phase| phase.bits() == bits)
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Applied => 1,
            Self::Answering => 2,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    kept: Kept,
    /// The slot that counts.
    slot: Mutex<u64>,
}

impl Ledger {
    /// Of a new session.
    pub(crate) fn create(vault: &Arc<Vault>) -> io::Result<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("bough-session", flags)?);
        file.set_len(FILE_BYTES)?;
        file.write_all_at(&MAGIC.to_le_bytes(), 0)?;
        Self::of(file, vault, 0)
    }

    /// A dead server's, and what is in it. `None`: it is none, or from another version.
    pub(crate) fn take_up(
        file: File,
        vault: &Arc<Vault>,
    ) -> io::Result<Option<(Self, Record, Phase)>> {
        let word = |at| -> io::Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_le_bytes(bytes))
        };
        if file.metadata()?.len() != FILE_BYTES || word(0)? != MAGIC {
            return Ok(None);
        }
        let state = word(STATE_AT)?;
        let slot = state & 1;
        let Some(phase) = Phase::from_bits(state >> PHASE_SHIFT) else { return Ok(None) };
        let at = SLOTS_AT + slot * SLOT_BYTES;
        let mut length = [0; 4];
        file.read_exact_at(&mut length, at)?;
        let length = u64::from(u32::from_le_bytes(length)).min(SLOT_BYTES - RECORD_AT);
        let mut bytes = vec![0; to_usize(length)];
        file.read_exact_at(&mut bytes, at + RECORD_AT)?;
        let Some(record) = Record::decode(&bytes) else { return Ok(None) };
        Ok(Some((Self::of(file, vault, slot)?, record, phase)))
    }

    fn of(file: File, vault: &Arc<Vault>, slot: u64) -> io::Result<Self> {
        let kept = vault.keep(OwnedFd::from(file), Role::Ledger)?;
        Ok(Self { kept, slot: Mutex::new(slot) })
    }

    /// Writes down what is agreed now.
    pub(crate) fn write(&self, record: &Record, phase: Phase) -> io::Result<()> {
        let bytes = record.encode();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if u64::from(length) > SLOT_BYTES - RECORD_AT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let other = *slot ^ 1;
        let at = SLOTS_AT + other * SLOT_BYTES;
        let file = self.kept.file();
        file.write_all_at(&length.to_le_bytes(), at)?;
        file.write_all_at(&bytes, at + RECORD_AT)?;
        self.put_state(other, phase)?;
        *slot = other;
        Ok(())
    }

    /// Says how far the next message is, the record being as it was.
    pub(crate) fn mark(&self, phase: Phase) -> io::Result<()> {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_state(*slot, phase)
    }

    fn put_state(&self, slot: u64, phase: Phase) -> io::Result<()> {
        let state = slot | phase.bits() << PHASE_SHIFT;
        self.kept.file().write_all_at(&state.to_le_bytes(), STATE_AT)
    }

    /// An in-flight region for one queue.
    pub(crate) fn region(&self, queue: u16, entries: u16) -> Result<InflightRegion, VhostError> {
        let shape = Shape { queues: 1, entries };
        let offset = REGIONS_AT + REGION_BYTES * u64::from(queue);
        let file = Arc::clone(self.kept.file());
        InflightRegion::adopt(file, offset, to_u64(shape.bytes()), shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(ledger: &Ledger) -> Option<(Record, Phase)> {
        let file = ledger.kept.file().try_clone().unwrap();
        let found = Ledger::take_up(file, &Arc::default()).unwrap();
        found.map(|(_, record, phase)| (record, phase))
    }

    fn record(features: u64) -> Record {
        Record { features, ..Record::default() }
    }

    #[test]
    fn the_last_record_counts_whole_and_with_its_phase() {
        let ledger = Ledger::create(&Arc::default()).unwrap();
        assert!(again(&ledger).is_none(), "nothing is known yet");
        for (features, phase) in [(1, Phase::Open), (2, Phase::Applied), (3, Phase::Answering)] {
            ledger.write(&record(features), phase).unwrap();
            assert_eq!(again(&ledger), Some((record(features), phase)));
        }
        ledger.mark(Phase::Open).unwrap();
        assert_eq!(again(&ledger), Some((record(3), Phase::Open)));
    }

    #[test]
    fn a_record_that_was_being_written_does_not_count() {
        let ledger = Ledger::create(&Arc::default()).unwrap();
        ledger.write(&record(1), Phase::Open).unwrap();
        ledger.write(&record(2), Phase::Applied).unwrap();
        // The third would go to the slot of the first: torn there, by a kill.
        ledger.kept.file().write_all_at(&[0xff; 64], SLOTS_AT + SLOT_BYTES).unwrap();
        assert_eq!(again(&ledger), Some((record(2), Phase::Applied)));
    }

    #[test]
    fn what_is_no_ledger_of_ours_is_nobodys_session() {
        let ledger = Ledger::create(&Arc::default()).unwrap();
        ledger.write(&record(1), Phase::Open).unwrap();
        let file = Arc::clone(ledger.kept.file());
        file.write_all_at(&[7], STATE_AT + 1).unwrap();
        assert!(again(&ledger).is_none(), "a phase from the future");
        ledger.mark(Phase::Open).unwrap();
        file.write_all_at(b"no record", SLOTS_AT + SLOT_BYTES + RECORD_AT).unwrap();
        assert!(again(&ledger).is_none(), "a record that cannot be read");
        file.set_len(4096).unwrap();
        assert!(again(&ledger).is_none(), "a file of another length");
    }

    #[test]
    fn the_regions_of_queues_lie_apart() {
        let ledger = Ledger::create(&Arc::default()).unwrap();
        let mut first = ledger.region(0, 32768).unwrap().queue(0, 32768, 0).unwrap();
        let mut last = ledger.region(MAX_QUEUES - 1, 128).unwrap().queue(0, 128, 0).unwrap();
        first.taken(32767);
        last.taken(5);
        let again = ledger.region(0, 32768).unwrap().queue(0, 32768, 0).unwrap().recover(0);
        assert_eq!(again, [32767]);
        assert_eq!(last.recover(0), [5]);
    }
}
