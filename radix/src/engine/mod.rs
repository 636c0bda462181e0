//! The engine: every verb that a person, a guest or a tool may ask of a store.
//!
//! Owns the disks that are open and the order of verbs against each other. The invariant: a verb
//! is one commit (or none): after a crash it has happened or it has not.

mod attach;
mod check;
mod clone;
mod config;
mod create;
mod delete;
mod diff;
mod doomed;
mod error;
mod find;
mod grow;
mod hide;
mod limits;
mod open;
mod reader;
mod reclaim;
#[cfg(test)]
mod reclaim_tests;
mod rename;
mod repair;
mod report;
mod resize;
mod rollback;
mod salvage;
mod scrub;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::{BlockAddr, BlockCount, DiskId, Epoch};
use uuid::Uuid;

use crate::catalogue::{RowFault, Rows, VersionId};
use crate::disk::Disk;
use crate::disk0::{CatalogueError, Need as PoolNeed};
use crate::store::Store;

pub use config::{BrokenRule, EngineConfig};
pub use delete::DeleteOptions;
pub use diff::Differences;
pub use error::EngineError;
pub use reader::Reader;
pub use repair::RepairMode;
pub use scrub::{Progress, ScrubOptions};

/// Epochs leased from the catalogue at a time.
const LEASE: u64 = 1 << 20;

/// A store, open. Cheap to clone; its futures stay on the reactor that polls them.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    uuid: Uuid,
    /// Whoever waits holds this no longer: it is locked under the catalogue's lock, too.
    disks: Mutex<BTreeMap<DiskId, Arc<Disk>>>,
    /// Verbs that look first and commit later exclude each other; snapshots and I/O do not wait.
    verbs: tokio::sync::Mutex<()>,
    /// One version is reclaimed at a time, one step at a time.
    reclaiming: tokio::sync::Mutex<reclaim::Begun>,
    epochs: Mutex<Epochs>,
    /// Versions that somebody is reading.
    pins: Mutex<BTreeMap<VersionId, usize>>,
    closing: AtomicBool,
    /// Findings of the opening: disks that are not served.
    faults: Mutex<BTreeMap<DiskId, OpeningFault>>,
}

/// Why a disk was not recovered.
#[derive(Clone, Debug)]
struct OpeningFault {
    message: String,
    /// Where the damage is, if that can be told.
    block: Option<BlockAddr>,
}

struct Epochs {
    next: Epoch,
    end: Epoch,
}

impl Engine {
    fn store(&self) -> &Arc<Store> {
        &self.inner.store
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<DiskId, Arc<Disk>>> {
        lock(&self.inner.disks)
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<VersionId, usize>> {
        self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers that no version has had. Durably leased, so that no crash brings them back.
    async fn new_epochs(&self, count: u64) -> Result<Epoch, CatalogueError> {
        loop {
            {
                let mut epochs = lock(&self.inner.epochs);
                if epochs.end.raw() - epochs.next.raw() >= count {
                    let first = epochs.next;
                    epochs.next = first.plus(count);
                    return Ok(first);
                }
            }
            self.lease_epochs(count).await?;
        }
    }

    async fn lease_epochs(&self, count: u64) -> Result<(), CatalogueError> {
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let mut counters = rows.counters().await?;
        let start = counters.epoch_lease_end;
        let end = start.raw().checked_add(LEASE.max(count)).and_then(Epoch::new);
        let end = end.ok_or(RowFault::NumbersExhausted)?;
        counters.epoch_lease_end = end;
        rows.set_counters(counters).await?;
        commit.stage(&[]).await?.durable().await?;
        *lock(&self.inner.epochs) = Epochs { next: start, end };
        Ok(())
    }

    fn new_uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.store().runtime.random()).into_uuid()
    }
}

/// Blocks counted in a row, in bytes; a count is never negative but in a forged store.
fn bytes_of(blocks: i64) -> u64 {
    BlockCount(u64::try_from(blocks).unwrap_or(0)).bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
