//! Where live logs end, in memory that keepers hold: what makes a successor's recovery short.
//!
//! One file in memory has a slot for each log that is being written. A slot has room for two ends,
//! written in turn, each with a checksum: whoever dies while writing one leaves the other, which is
//! earlier and as good.
//!
//! ```text
//! slot     two ends of 64 bytes
//! end      nonce [16] | sequence u64 | next header's block u64 | CRC of the header before it u32 | CRC-32 of these 36
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::{BlockAddr, ChainStart, Nonce, Sequence, to_u64, to_usize};
use bough_radix::{Tail, Tails};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use crate::keep::{Kept, Role, Vault};

/// Logs that can be written at once; those beyond are searched as after any crash.
const SLOTS: usize = 1 << 15;
const END_BYTES: usize = 64;
const SLOT_BYTES: usize = 2 * END_BYTES;
const FILE_BYTES: usize = SLOTS * SLOT_BYTES;
/// What the checksum covers.
const SUMMED_BYTES: usize = 36;

/// See the module.
#[derive(Debug)]
pub struct SharedTails {
    shared: Arc<Shared>,
    /// By nonce: a dead server's.
    left: BTreeMap<[u8; 16], ChainStart>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    mapped: MmapRegion,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<usize>,
    used: usize,
}

impl SharedTails {
    /// With what a dead server's files say.
    ///
    /// # Errors
    /// Where there is no memory, or no descriptor, for a file of our own.
    pub(crate) fn new(inherited: Vec<File>) -> io::Result<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("bough-tails", flags)?);
        file.set_len(to_u64(FILE_BYTES))?;
        let whole = FileOffset::new(file.try_clone()?, 0);
        let mapped = MmapRegion::from_file(whole, FILE_BYTES).map_err(io::Error::other)?;
        let shared = Arc::new(Shared { file, mapped, slots: Mutex::default() });
        let mut left = BTreeMap::new();
        for file in inherited {
            match ends_in(&file) {
                Ok(ends) => ends.for_each(|end| note(&mut left, end)),
                Err(error) => tracing::warn!(%error, "what a dead server noted cannot be read"),
            }
        }
        Ok(Self { shared, left })
    }

    /// Has keepers hold it, for as long as what this returns lives.
    pub(crate) fn keep(&self, vault: &Arc<Vault>) -> io::Result<Kept> {
        vault.keep(OwnedFd::from(self.shared.file.try_clone()?), Role::Tails)
    }
}

/// Ends in a file of whatever length.
fn ends_in(file: &File) -> io::Result<impl Iterator<Item = ChainStart>> {
    let length = file.metadata()?.len().min(to_u64(FILE_BYTES));
    let mut bytes = vec![0; to_usize(length)];
    file.read_exact_at(&mut bytes, 0)?;
    let ends: Vec<_> = bytes.chunks_exact(END_BYTES).filter_map(decode).collect();
    Ok(ends.into_iter())
}

/// Of two ends of one log the later one is right, the other what it was before.
fn note(left: &mut BTreeMap<[u8; 16], ChainStart>, end: ChainStart) {
    let known = left.entry(end.nonce.0).or_insert(end);
    if known.sequence < end.sequence {
        *known = end;
    }
}

fn encode(end: &ChainStart) -> [u8; END_BYTES] {
    let mut bytes = [0; END_BYTES];
    bytes[..16].copy_from_slice(&end.nonce.0);
    bytes[16..24].copy_from_slice(&end.sequence.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&end.at.raw().to_le_bytes());
    bytes[32..SUMMED_BYTES].copy_from_slice(&end.previous_crc.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..SUMMED_BYTES]);
    bytes[SUMMED_BYTES..SUMMED_BYTES + 4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<ChainStart> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if half(SUMMED_BYTES)? != crc32fast::hash(bytes.get(..SUMMED_BYTES)?) || word(16)? == 0 {
        return None;
    }
    Some(ChainStart {
        nonce: Nonce(bytes.get(..16)?.try_into().ok()?),
        sequence: Sequence(word(16)?),
        at: BlockAddr::new(word(24)?)?,
        previous_crc: half(32)?,
    })
}

impl Tails for SharedTails {
    fn begin(&self) -> Option<Box<dyn Tail>> {
        let slot = self.shared.slots().take()?;
        Some(Box::new(Slot {
            shared: Arc::clone(&self.shared),
            slot,
            second: AtomicBool::default(),
        }))
    }

    fn left(&self, nonce: Nonce) -> Option<ChainStart> {
        self.left.get(&nonce.0).copied()
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let written = self.mapped.as_volatile_slice().write_slice(bytes, at);
        written.unwrap_or_else(|error| unreachable!("inside our own file: {error}"));
    }
}

impl Slots {
    fn take(&mut self) -> Option<usize> {
        self.free.pop().or_else(|| {
            let next = (self.used < SLOTS).then_some(self.used);
            self.used += usize::from(next.is_some());
            next
        })
    }
}

/// One log's.
struct Slot {
    shared: Arc<Shared>,
    slot: usize,
    /// Which of the two is next. One at a time sets it.
    second: AtomicBool,
}

impl Tail for Slot {
    fn set(&self, next: &ChainStart) {
        let second = self.second.fetch_xor(true, Ordering::Relaxed);
        let at = self.slot * SLOT_BYTES + usize::from(second) * END_BYTES;
        self.shared.write(at, &encode(next));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.write(self.slot * SLOT_BYTES, &[0; SLOT_BYTES]);
        self.shared.slots().free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(nonce: u8, sequence: u64) -> ChainStart {
        let at = BlockAddr::new(sequence * 7).unwrap();
        let previous_crc = u32::try_from(sequence).unwrap() ^ 0xabcd;
        ChainStart { nonce: Nonce([nonce; 16]), sequence: Sequence(sequence), at, previous_crc }
    }

    /// What whoever comes after a kill finds.
    fn after(tails: &SharedTails) -> SharedTails {
        SharedTails::new(vec![tails.shared.file.try_clone().unwrap()]).unwrap()
    }

    #[test]
    fn a_successor_finds_where_each_log_ended() {
        let tails = SharedTails::new(Vec::new()).unwrap();
        let (web, db) = (tails.begin().unwrap(), tails.begin().unwrap());
        (2..=9).for_each(|sequence| web.set(&end(1, sequence)));
        db.set(&end(2, 4));
        let next = after(&tails);
        assert_eq!(next.left(Nonce([1; 16])), Some(end(1, 9)));
        assert_eq!(next.left(Nonce([2; 16])), Some(end(2, 4)));
        assert_eq!(next.left(Nonce([3; 16])), None);
        assert_eq!(next.left(Nonce([0; 16])), None, "unused slots are nobody's");
    }

    #[test]
    fn an_end_that_was_being_written_leaves_the_one_before() {
        let tails = SharedTails::new(Vec::new()).unwrap();
        let web = tails.begin().unwrap();
        (2..=4).for_each(|sequence| web.set(&end(1, sequence)));
        // The third went to the first place: torn there, by a kill.
        tails.shared.write(20, &[0xff; 8]);
        assert_eq!(after(&tails).left(Nonce([1; 16])), Some(end(1, 3)));
    }

    #[test]
    fn a_log_that_is_over_leaves_nothing_and_its_slot_is_used_again() {
        let tails = SharedTails::new(Vec::new()).unwrap();
        let web = tails.begin().unwrap();
        web.set(&end(1, 2));
        drop(web);
        assert_eq!(after(&tails).left(Nonce([1; 16])), None);
        let all: Vec<_> = (0..SLOTS).map_while(|_| tails.begin()).collect();
        assert_eq!(all.len(), SLOTS);
        assert!(tails.begin().is_none(), "no room for more");
    }

    #[test]
    fn a_file_of_another_kind_says_nothing() {
        let noise =
            File::from(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        noise.write_all_at(&[7; 1000], 0).unwrap();
        let tails = SharedTails::new(vec![noise]).unwrap();
        assert!(tails.left.is_empty());
    }
}
