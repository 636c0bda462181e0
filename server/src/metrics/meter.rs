//! One disk's counters.
//!
//! A disk is served by one reactor, so each number has one writer, and adding to it is a load and a
//! store: no locked instruction. Whoever reads meanwhile sees each number as it was a moment ago.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::activity::{DiskActivity, LatencyBucket, OperationActivity};
use super::latency::{BUCKETS, bucket_of, end_of};
use crate::execute::Outcome;
use crate::request::{Operation, Request, SECTOR_BYTES, Status};

/// A number that one thread writes.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted of one sort of request.
#[derive(Debug)]
struct Counter {
    failed: Cell,
    bytes: Cell,
    nanos: Cell,
    buckets: [Cell; BUCKETS],
}

impl Default for Counter {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| Cell::default());
        Self { failed: Cell::default(), bytes: Cell::default(), nanos: Cell::default(), buckets }
    }
}

/// What is counted of one disk. Alone on its cache lines: its neighbour may be another reactor's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Meter {
    read: Counter,
    write: Counter,
    flush: Counter,
    discard: Counter,
    write_zeroes: Counter,
    other: Counter,
}

impl Meter {
    /// Counts a request that has been carried out; to be called before it is answered, so that
    /// whoever has the answer finds it counted. By the disk's own reactor only.
    pub(crate) fn count(&self, request: &Request, outcome: Outcome, took: Duration) {
        let (counter, bytes) = match &request.operation {
            Operation::Read(_) => (&self.read, request.data.bytes()),
            Operation::Write(_) => (&self.write, request.data.bytes()),
            Operation::Flush => (&self.flush, 0),
            Operation::Discard(ranges) => (&self.discard, bytes_of(ranges)),
            Operation::WriteZeroes(ranges) => (&self.write_zeroes, bytes_of(ranges)),
            Operation::GetId | Operation::Refused(_) => (&self.other, 0),
        };
        if outcome.status == Status::Ok {
            counter.bytes.add(bytes);
        } else {
            counter.failed.add(1);
        }
        counter.nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        counter.buckets[bucket_of(took)].add(1);
    }

    /// All numbers as they are now.
    fn read(&self, name: &str) -> DiskActivity {
        DiskActivity {
            name: name.to_owned(),
            waiting: 0,
            read: self.read.read(),
            write: self.write.read(),
            flush: self.flush.read(),
            discard: self.discard.read(),
            write_zeroes: self.write_zeroes.read(),
            other: self.other.read(),
        }
    }
}

impl Counter {
    fn read(&self) -> OperationActivity {
        let counts = self.buckets.iter().map(Cell::get).enumerate();
        let latency: Vec<_> = counts
            .filter(|(_, requests)| *requests > 0)
            .map(|(bucket, requests)| LatencyBucket { upto_ns: end_of(bucket), requests })
            .collect();
        OperationActivity {
            requests: latency.iter().map(|bucket| bucket.requests).sum(),
            failed: self.failed.get(),
            bytes: self.bytes.get(),
            total_ns: self.nanos.get(),
            latency,
        }
    }
}

fn bytes_of(ranges: &[crate::request::SectorRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count) * SECTOR_BYTES).sum()
}

/// The meters of all disks that are offered, by name.
#[derive(Debug, Default)]
pub struct Meters {
    all: Mutex<BTreeMap<String, Arc<Meter>>>,
}

impl Meters {
    /// A meter for a disk, from zero.
    pub(crate) fn begin(&self, disk: &str) -> Arc<Meter> {
        let meter = Arc::<Meter>::default();
        self.lock().insert(disk.to_owned(), Arc::clone(&meter));
        meter
    }

    /// The disk is not offered any more.
    pub(crate) fn end(&self, disk: &str) {
        self.lock().remove(disk);
    }

    /// What all of them say, by name.
    pub fn read(&self) -> Vec<DiskActivity> {
        self.lock().iter().map(|(name, meter)| meter.read(name)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Meter>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
