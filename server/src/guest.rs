//! Guest memory as requests see it: runs of guest addresses, and copying *out of* them.
//!
//! I never write guest memory: that is [`crate::complete`]'s alone. Every run in a
//! [`Segments`] was found inside the memory map when its request was parsed.

use smallvec::SmallVec;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestRegionCollection};

use bough_blockstore::{to_u64, to_usize};

use crate::vhost::SharedRegion;

/// What a front end has shared with us. Frozen: a change of the map makes a new one, and
/// requests under way keep the one that they were parsed against.
pub(crate) type Memory = GuestRegionCollection<SharedRegion>;

/// A run of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) address: GuestAddress,
    pub(crate) bytes: u64,
}

/// Runs of guest memory that together are one buffer, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segments {
    runs: SmallVec<[Segment; 4]>,
    bytes: u64,
}

impl Segments {
    /// Appends a run; empty ones vanish.
    pub(crate) fn push(&mut self, address: GuestAddress, bytes: u32) {
        if bytes > 0 {
            self.runs.push(Segment { address, bytes: u64::from(bytes) });
            self.bytes += u64::from(bytes);
        }
    }

    /// How long the buffer is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many runs it is made of.
    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Drops the first `count` bytes. `false`, with nothing done, where there are fewer.
    pub(crate) fn drop_front(&mut self, count: u64) -> bool {
        if count > self.bytes {
            return false;
        }
        let mut left = count;
        let whole = self
            .runs
            .iter()
            .take_while(|run| {
                let all_of_it = run.bytes <= left;
                left -= if all_of_it { run.bytes } else { 0 };
                all_of_it
            })
            .count();
        self.runs.drain(..whole);
        if let (Some(first), true) = (self.runs.first_mut(), left > 0) {
            first.address.0 += left;
            first.bytes -= left;
        }
        self.bytes -= count;
        true
    }

    /// Takes the last byte off and says where it is.
    pub(crate) fn pop_last_byte(&mut self) -> Option<GuestAddress> {
        let last = self.runs.last_mut()?;
        last.bytes -= 1;
        let address = GuestAddress(last.address.0 + last.bytes);
        if last.bytes == 0 {
            self.runs.pop();
        }
        self.bytes -= 1;
        Some(address)
    }

    /// The runs that make up `length` bytes from `at` on. Shorter where the buffer is.
    pub(crate) fn part(&self, at: usize, length: usize) -> impl Iterator<Item = Segment> + '_ {
        let (from, to) = (to_u64(at), to_u64(at) + to_u64(length));
        let mut start = 0;
        self.runs.iter().filter_map(move |run| {
            let (begin, end) = (start, start + run.bytes);
            start = end;
            let (low, high) = (from.max(begin), to.min(end));
            (low < high).then(|| Segment {
                address: GuestAddress(run.address.0 + (low - begin)),
                bytes: high - low,
            })
        })
    }

    /// Copies the bytes from `at` on out of the guest, as many as `out` holds.
    pub(crate) fn copy_out(
        &self,
        memory: &Memory,
        at: usize,
        out: &mut [u8],
    ) -> Result<(), GuestMemoryError> {
        let mut rest = out;
        for run in self.part(at, rest.len()) {
            let (piece, after) = rest.split_at_mut(to_usize(run.bytes));
            memory.read_slice(piece, run.address)?;
            rest = after;
        }
        Ok(())
    }
}

/// Private memory from guest address zero on, for tests.
#[cfg(test)]
pub(crate) fn memory_of(bytes: usize) -> Memory {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::memfd_create("guest", flags).unwrap());
    file.set_len(to_u64(bytes)).unwrap();
    let mapping = crate::vhost::SharedMapping::new(file.into(), 0, bytes).unwrap();
    let region = SharedRegion::new(mapping, GuestAddress(0)).unwrap();
    Memory::from_regions(vec![region]).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(runs: &[(u64, u32)]) -> Segments {
        let mut all = Segments::default();
        runs.iter().for_each(|(address, bytes)| all.push(GuestAddress(*address), *bytes));
        all
    }

    #[test]
    fn a_part_covers_exactly_the_bytes_asked_for() {
        let all = segments(&[(100, 10), (0, 0), (200, 5), (300, 10)]);
        let part: Vec<_> = all.part(8, 9).map(|run| (run.address.0, run.bytes)).collect();
        assert_eq!(part, [(108, 2), (200, 5), (300, 2)]);
        assert_eq!(all.part(25, 4).count(), 0);
    }

    #[test]
    fn dropping_the_front_may_cut_a_run_in_two() {
        let mut all = segments(&[(100, 10), (200, 5)]);
        assert!(all.drop_front(12));
        assert_eq!(all, segments(&[(202, 3)]));
        assert!(!all.drop_front(4));
        assert!(all.drop_front(3));
        assert_eq!(all.bytes(), 0);
        assert_eq!(all.pop_last_byte(), None);
    }

    #[test]
    fn the_last_byte_may_be_a_run_of_its_own() {
        let mut all = segments(&[(100, 10), (200, 1)]);
        assert_eq!(all.pop_last_byte(), Some(GuestAddress(200)));
        assert_eq!(all.pop_last_byte(), Some(GuestAddress(109)));
        assert_eq!(all, segments(&[(100, 9)]));
    }

    #[test]
    fn bytes_are_gathered_across_runs() {
        let memory = memory_of(0x1000);
        memory.write_slice(b"hello", GuestAddress(0x100)).unwrap();
        memory.write_slice(b"world", GuestAddress(0x200)).unwrap();
        let mut out = [0; 7];
        segments(&[(0x100, 5), (0x200, 5)]).copy_out(&memory, 2, &mut out).unwrap();
        assert_eq!(&out, b"lloworl");
    }
}
