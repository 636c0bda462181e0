//! A disk: reads, writes, discards and flushes of its head; knows no virtio and no other disk.
//!
//! Owns the overlay, the chain and the committed root of one head. The invariants: a write is
//! answered only when its record and all before it are on the device; a read never returns bytes
//! that were not written there.
//!
//! Locks, outermost first: `maintenance`, `starting`, the chain's own, `state`, the allocator's.

mod checkpoint;
mod clear;
mod clients;
mod lifecycle;
mod merge_layers;
mod publish;
mod read;
mod recover;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::{Chain, ChainFault, DiskId, Epoch, Sequence};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::catalogue::{DiskRow, VersionId, VersionRow};
use crate::error::DiskError;
use crate::names::DiskName;
use crate::node::Root;
use crate::overlay::Overlay;
use crate::range_lock::RangeLock;
use crate::store::Store;

pub use clients::{Access, Connection};
pub use read::Piece;

pub(crate) use checkpoint::{Mode, remove_extents};
pub(crate) use merge_layers::{TreeSink, ownership_of};
pub(crate) use read::{ByteRange, deliver, source_of};
pub(crate) use recover::scan_chain_from;

/// Sector grain that guests may use, in bytes.
const SECTOR_BYTES: u64 = 512;

/// A disk's head, live.
pub struct Disk {
    pub(crate) id: DiskId,
    pub(crate) uuid: Uuid,
    pub(crate) store: Arc<Store>,
    state: Mutex<DiskState>,
    /// Checkpoints, reclaim into this disk, resize, rollback: one at a time.
    pub(crate) maintenance: tokio::sync::Mutex<()>,
    starting: tokio::sync::Mutex<()>,
    changed: Notify,
    rmw: RangeLock,
    size: watch::Sender<u64>,
    clients: Mutex<clients::Clients>,
}

/// What a lock protects; see [`Disk`].
pub(crate) struct DiskState {
    pub name: DiskName,
    pub head: VersionId,
    /// The head's epoch: what is sealed from now on is born in it.
    pub epoch: Epoch,
    /// The committed tree of the oldest version not yet materialised, or of the head.
    pub base: Root,
    pub active: Overlay,
    /// Nodes promised to the checkpoint of `active` and of requests under way...
    pub promised_nodes: u64,
    /// ...of which these are the latter's.
    pub nodes_under_way: u64,
    /// What a checkpoint under way (or one that failed for want of space) is merging.
    pub frozen: Option<Arc<Overlay>>,
    pub plan: Option<Arc<checkpoint::Frozen>>,
    /// Snapshots taken since the last checkpoint, oldest first.
    pub pending: Vec<Pending>,
    pub slot: Slot,
    /// Whether a checkpoint has been asked for and not yet begun.
    pub checkpoint_queued: bool,
}

/// A snapshot without a tree of its own yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub version: VersionId,
    pub epoch: Epoch,
    /// The last record that belongs to it.
    pub cut: Sequence,
}

/// The chain, or why there is none.
pub(crate) enum Slot {
    /// Not written since it was opened: the first write begins a chain.
    Idle,
    Live(Arc<Chain>),
    /// Being checkpointed for the last time: writers wait.
    Closing,
    Halted(String),
    Gone,
}

impl Disk {
    /// A disk whose tree is all there is: nothing in a chain.
    pub(crate) fn new(store: Arc<Store>, row: &DiskRow, head: &VersionRow) -> Arc<Self> {
        let state = DiskState {
            name: row.name.clone(),
            head: head.id,
            epoch: head.epoch,
            base: head.root,
            active: Overlay::default(),
            promised_nodes: 0,
            nodes_under_way: 0,
            frozen: None,
            plan: None,
            pending: Vec::new(),
            slot: Slot::Idle,
            checkpoint_queued: false,
        };
        Arc::new(Self {
            id: row.id,
            uuid: row.uuid,
            store,
            state: Mutex::new(state),
            maintenance: tokio::sync::Mutex::new(()),
            starting: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            rmw: RangeLock::default(),
            size: watch::Sender::new(head.size_bytes),
            clients: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk's name, as of now.
    pub fn name(&self) -> DiskName {
        self.lock().name.clone()
    }

    /// Its number in the store.
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its size, as of now.
    pub fn size_bytes(&self) -> u64 {
        *self.size.borrow()
    }

    /// Tells of every change of the size.
    pub fn on_resize(&self) -> watch::Receiver<u64> {
        self.size.subscribe()
    }

    pub(crate) fn set_size(&self, size_bytes: u64) {
        self.size.send_replace(size_bytes);
    }

    /// Why the disk does not serve, if it does not.
    pub fn fault(&self) -> Option<String> {
        match &self.lock().slot {
            Slot::Halted(cause) => Some(cause.clone()),
            Slot::Live(chain) => match chain.fault()? {
                ChainFault::Broken(_) | ChainFault::Full | ChainFault::Stopped => None,
                fault => Some(fault.to_string()),
            },
            Slot::Idle | Slot::Closing | Slot::Gone => None,
        }
    }

    /// Stops serving: what is committed stays, and is looked at again when the store is opened.
    pub(crate) fn halt(&self, cause: String) {
        tracing::error!(disk = %self.name(), %cause, "disk halted");
        self.lock().slot = Slot::Halted(cause);
        self.changed.notify_waiters();
    }

    fn check_range(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), DiskError> {
        let size_bytes = self.size_bytes();
        let aligned =
            offset_bytes.is_multiple_of(SECTOR_BYTES) && length_bytes.is_multiple_of(SECTOR_BYTES);
        let inside = offset_bytes.checked_add(length_bytes).is_some_and(|end| end <= size_bytes);
        if aligned && inside {
            return Ok(());
        }
        let disk = self.name().to_string();
        Err(DiskError::OutOfRange { disk, offset_bytes, length_bytes, size_bytes })
    }

    pub(crate) fn chain_error(&self, fault: ChainFault) -> DiskError {
        let disk = self.name().to_string();
        match fault {
            ChainFault::Full => DiskError::NoSpace { disk },
            ChainFault::Broken(_) => DiskError::HostFull { disk },
            fault => DiskError::Halted { disk, cause: error_chain(&fault) },
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
