//! The in-flight region: which requests a killed server had taken and not answered.
//!
//! The front end keeps the memory; whichever server comes next finds in it what to carry out
//! again, in the order in which it was taken. The layout is the vhost-user specification's for
//! split rings:
//!
//! ```text
//! region   one queue region per queue, each a multiple of 64 bytes
//! queue    features u64 | version u16 | entries u16 | last_batch_head u16 | used_idx u16
//!          then one entry per descriptor
//! entry    inflight u8 | 5 bytes of padding | next u16 | counter u64
//! ```
//!
//! I never trust what I read: the front end can write here. An entry decides only which chain is
//! parsed again.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{AtomicAccess, Bytes, VolatileMemory};

use bough_blockstore::to_u64;

use crate::vhost::{SharedMapping, VhostError};

const HEADER_BYTES: usize = 16;
const VERSION_AT: usize = 8;
const COUNT_AT: usize = 10;
const LAST_BATCH_AT: usize = 12;
const USED_AT: usize = 14;
const ENTRY_BYTES: usize = 16;
const NEXT_AT: usize = 6;
const COUNTER_AT: usize = 8;
const QUEUE_ALIGN: usize = 64;
/// Entries of a queue's part at least. QEMU asks for as many as its `queue-size` says, and yet, since
/// some version between 7.2 and 10.0, tells drivers that rings have room for so many descriptors.
const ENTRIES_MIN: u16 = 1024;
/// The only version there is; zero is a region nobody has used.
const VERSION: u16 = 1;

/// How large a region is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many queues.
    pub(crate) queues: u16,
    /// Descriptors in each.
    pub(crate) entries: u16,
}

impl Shape {
    /// What is cut for a front end that asks for this, if it fits a device with so many queues.
    pub(crate) fn to_cut(asked: &VhostUserInflight, queues: u16) -> Result<Self, VhostError> {
        Ok(Self::of(asked, queues)?.roomy())
    }

    /// How a region is cut that a front end hands back. It repeats what it asked for: one that we
    /// made is known by its size.
    pub(crate) fn as_cut(given: &VhostUserInflight, queues: u16) -> Result<Self, VhostError> {
        let said = Self::of(given, queues)?;
        let ours = said.roomy();
        Ok(if given.mmap_size == to_u64(ours.bytes()) { ours } else { said })
    }

    fn roomy(self) -> Self {
        Self { entries: self.entries.max(ENTRIES_MIN), ..self }
    }

    /// What a front end says, if it fits a device with so many queues.
    fn of(asked: &VhostUserInflight, queues: u16) -> Result<Self, VhostError> {
        let shape = Self { queues: asked.num_queues, entries: asked.queue_size };
        if shape.queues == 0 || shape.queues > queues || shape.entries == 0 {
            let (queue, ring_size) = (shape.queues, shape.entries);
            return Err(VhostError::InflightShape { queue, ring_size });
        }
        Ok(shape)
    }

    fn queue_bytes(self) -> usize {
        (HEADER_BYTES + ENTRY_BYTES * usize::from(self.entries)).next_multiple_of(QUEUE_ALIGN)
    }

    /// Bytes that the whole region needs.
    pub(crate) fn bytes(self) -> usize {
        self.queue_bytes() * usize::from(self.queues)
    }
}

/// A region, mapped.
#[derive(Clone, Debug)]
pub(crate) struct InflightRegion {
    mapping: Arc<SharedMapping>,
    shape: Shape,
}

impl InflightRegion {
    /// A new, empty region in memory that nobody can shrink under us.
    pub(crate) fn create(shape: Shape) -> Result<(File, u64), VhostError> {
        let make = || {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = File::from(rustix::fs::memfd_create("bough-inflight", flags)?);
            file.set_len(to_u64(shape.bytes()))?;
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
            Ok(file)
        };
        let file =
            make().map_err(|source| VhostError::InflightMemory { source: Arc::new(source) })?;
        Ok((file, to_u64(shape.bytes())))
    }

    /// Maps a region that the front end hands back.
    pub(crate) fn adopt(
        file: Arc<File>,
        offset: u64,
        bytes: u64,
        shape: Shape,
    ) -> Result<Self, VhostError> {
        if bytes < to_u64(shape.bytes()) {
            return Err(VhostError::InflightTooSmall { bytes, needed: to_u64(shape.bytes()) });
        }
        let mapping = SharedMapping::new(file, offset, shape.bytes())?;
        Ok(Self { mapping: Arc::new(mapping), shape })
    }

    /// Forgets what is in one queue's part.
    pub(crate) fn clear(&self, index: u16) {
        let base = self.shape.queue_bytes() * usize::from(index);
        let mapping = Arc::clone(&self.mapping);
        let queue = InflightQueue { mapping, base, entries: self.shape.entries, next_counter: 0 };
        queue.store(VERSION_AT, 0u16);
    }

    /// One queue's part, checked, and made ready where it is new. `used_index` is where the
    /// used ring stands.
    pub(crate) fn queue(
        &self,
        index: u16,
        ring_size: u16,
        used_index: u16,
    ) -> Result<InflightQueue, VhostError> {
        if index >= self.shape.queues || ring_size > self.shape.entries {
            return Err(VhostError::InflightShape { queue: index, ring_size });
        }
        let base = self.shape.queue_bytes() * usize::from(index);
        let queue = InflightQueue {
            mapping: Arc::clone(&self.mapping),
            base,
            entries: self.shape.entries,
            next_counter: 0,
        };
        match queue.load::<u16>(VERSION_AT) {
            0 => queue.initialise(used_index),
            VERSION if queue.load::<u16>(COUNT_AT) == self.shape.entries => {}
            version => return Err(VhostError::InflightVersion { queue: index, version }),
        }
        Ok(queue)
    }
}

/// One queue's part of a region.
#[derive(Debug)]
pub(crate) struct InflightQueue {
    mapping: Arc<SharedMapping>,
    base: usize,
    entries: u16,
    next_counter: u64,
}

impl InflightQueue {
    fn initialise(&self, used_index: u16) {
        for head in 0..self.entries {
            self.store(self.entry(head), 0u8);
        }
        self.store(COUNT_AT, self.entries);
        self.store(LAST_BATCH_AT, 0u16);
        self.store(USED_AT, used_index);
        self.store(VERSION_AT, VERSION);
    }

    /// What was taken and not answered, in the order of taking. `used_index` is where the used
    /// ring stands: it is moved by the answer itself, so it knows better than we do whether
    /// the last answer went out.
    pub(crate) fn recover(&mut self, used_index: u16) -> Vec<u16> {
        self.forget_last_batch(used_index);
        let mut taken: Vec<(u64, u16)> = (0..self.entries)
            .filter(|head| self.load::<u8>(self.entry(*head)) != 0)
            .map(|head| (self.load::<u64>(self.entry(head) + COUNTER_AT), head))
            .collect();
        taken.sort_unstable();
        self.next_counter = taken.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        taken.into_iter().map(|(_, head)| head).collect()
    }

    /// Answers that went out without being struck off.
    fn forget_last_batch(&self, used_index: u16) {
        let answered = used_index.wrapping_sub(self.load::<u16>(USED_AT)).min(self.entries);
        let mut head = self.load::<u16>(LAST_BATCH_AT);
        for _ in 0..answered {
            if head >= self.entries {
                break;
            }
            self.store(self.entry(head), 0u8);
            head = self.load::<u16>(self.entry(head) + NEXT_AT);
        }
        self.store(USED_AT, used_index);
    }

    /// A request was taken from the available ring.
    pub(crate) fn taken(&mut self, head: u16) {
        self.store(self.entry(head) + COUNTER_AT, self.next_counter);
        self.next_counter = self.next_counter.wrapping_add(1);
        self.store(self.entry(head), 1u8);
    }

    /// Its answer is about to be published.
    pub(crate) fn finishing(&self, head: u16) {
        let last = self.load::<u16>(LAST_BATCH_AT);
        self.store(self.entry(head) + NEXT_AT, last);
        self.store(LAST_BATCH_AT, head);
    }

    /// Its answer was published; the used ring stands at `used_index`.
    pub(crate) fn finished(&self, head: u16, used_index: u16) {
        self.store(self.entry(head), 0u8);
        self.store(USED_AT, used_index);
    }

    /// Whether the front end took the region away.
    pub(crate) fn vanished(&self) -> bool {
        self.mapping.vanished()
    }

    /// Where an entry lies in the queue's part.
    fn entry(&self, head: u16) -> usize {
        assert!(head < self.entries, "a head beyond the in-flight region");
        HEADER_BYTES + ENTRY_BYTES * usize::from(head)
    }

    fn load<T: AtomicAccess>(&self, at: usize) -> T {
        self.mapping
            .region()
            .as_volatile_slice()
            .load(self.base + at, Ordering::Acquire)
            .unwrap_or_else(|error| unreachable!("inside a checked region: {error}"))
    }

    /// In program order, so a kill at any moment leaves a state that [`Self::recover`] reads.
    fn store<T: AtomicAccess>(&self, at: usize, value: T) {
        self.mapping
            .region()
            .as_volatile_slice()
            .store(value, self.base + at, Ordering::Release)
            .unwrap_or_else(|error| unreachable!("inside a checked region: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { queues: 2, entries: 8 };

    fn region() -> (File, InflightRegion) {
        let (file, bytes) = InflightRegion::create(SHAPE).unwrap();
        let region =
            InflightRegion::adopt(Arc::new(file.try_clone().unwrap()), 0, bytes, SHAPE).unwrap();
        (file, region)
    }

    /// A successor's view of the same memory.
    fn reopened(file: &File, queue: u16, used: u16) -> Vec<u16> {
        let bytes = to_u64(SHAPE.bytes());
        let region =
            InflightRegion::adopt(Arc::new(file.try_clone().unwrap()), 0, bytes, SHAPE).unwrap();
        region.queue(queue, 8, used).unwrap().recover(used)
    }

    #[test]
    fn the_layout_is_the_specifications() {
        assert_eq!(SHAPE.queue_bytes(), 192);
        assert_eq!(SHAPE.bytes(), 384);
        let (file, region) = region();
        let mut queue = region.queue(1, 8, 0).unwrap();
        queue.taken(0);
        queue.taken(3);
        queue.finishing(3);
        let mut bytes = vec![0; SHAPE.bytes()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        assert_eq!(bytes[..192], [0; 192], "the other queue's part is untouched");
        let part = &bytes[192..];
        assert_eq!(part[8..16], [1, 0, 8, 0, 3, 0, 0, 0], "version, entries, last head, used");
        assert_eq!(part[16..32], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(part[64..80], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn unanswered_requests_come_back_in_the_order_of_taking() {
        let (file, region) = region();
        let mut queue = region.queue(0, 8, 0).unwrap();
        for head in [5, 2, 7, 0] {
            queue.taken(head);
        }
        queue.finishing(2);
        queue.finished(2, 1);
        queue.taken(2);
        assert_eq!(reopened(&file, 0, 1), [5, 7, 0, 2]);
        assert!(reopened(&file, 1, 0).is_empty());
    }

    #[test]
    fn a_kill_between_answer_and_note_replays_nothing_answered() {
        let (file, region) = region();
        let mut queue = region.queue(0, 8, 0).unwrap();
        queue.taken(4);
        queue.taken(6);
        queue.finishing(4);
        assert_eq!(reopened(&file, 0, 0), [4, 6], "killed before the used ring moved");
        queue.finishing(4);
        assert_eq!(reopened(&file, 0, 1), [6], "killed after it moved");
    }

    #[test]
    fn order_goes_on_after_recovery() {
        let (_file, region) = region();
        let mut queue = region.queue(0, 8, 0).unwrap();
        queue.taken(4);
        queue.taken(1);
        let mut successor = region.queue(0, 8, 0).unwrap();
        assert_eq!(successor.recover(0), [4, 1]);
        successor.taken(0);
        assert_eq!(region.queue(0, 8, 0).unwrap().recover(0), [4, 1, 0]);
    }

    #[test]
    fn a_ring_may_be_larger_than_the_front_end_said() {
        let asked = VhostUserInflight::new(0, 0, 2, 128);
        let cut = Shape::to_cut(&asked, 2).unwrap();
        let (file, bytes) = InflightRegion::create(cut).unwrap();
        let given = VhostUserInflight::new(bytes, 0, 2, 128);
        assert_eq!(Shape::as_cut(&given, 2).unwrap(), cut);
        let region = InflightRegion::adopt(Arc::new(file), 0, bytes, cut).unwrap();
        let mut queue = region.queue(1, 1024, 0).unwrap();
        queue.taken(1023);
        assert_eq!(region.queue(1, 1024, 0).unwrap().recover(0), [1023]);
    }

    #[test]
    fn a_region_of_another_server_is_as_the_front_end_says() {
        let said = Shape { queues: 2, entries: 128 };
        let given = VhostUserInflight::new(to_u64(said.bytes()), 0, 2, 128);
        assert_eq!(Shape::as_cut(&given, 2).unwrap(), said);
    }

    #[test]
    fn a_region_that_cannot_be_ours_is_refused() {
        let (file, region) = region();
        assert!(region.queue(2, 8, 0).is_err(), "no such queue");
        assert!(region.queue(0, 16, 0).is_err(), "a ring larger than its part");
        let bytes = to_u64(SHAPE.bytes());
        let again = || Arc::new(file.try_clone().unwrap());
        assert!(InflightRegion::adopt(again(), 0, bytes - 1, SHAPE).is_err(), "too small");
        assert!(InflightRegion::adopt(again(), 4096, bytes, SHAPE).is_err(), "past its end");
        std::os::unix::fs::FileExt::write_all_at(&file, &[9], 8).unwrap();
        assert!(region.queue(0, 8, 0).is_err(), "a version from the future");
    }

    #[test]
    fn nonsense_in_the_region_is_survived() {
        let (file, region) = region();
        region.queue(0, 8, 0).unwrap();
        let mut noise = vec![0xff; 192];
        noise[8..12].copy_from_slice(&[1, 0, 8, 0]);
        std::os::unix::fs::FileExt::write_all_at(&file, &noise, 0).unwrap();
        let mut queue = region.queue(0, 8, 7).unwrap();
        assert_eq!(queue.recover(7).len(), 8);
        queue.taken(0);
    }
}
