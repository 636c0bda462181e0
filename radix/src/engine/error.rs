//! Why a verb failed: the object, the cause, and what to do.

use bough_blockstore::{BlockAddr, DeviceError, ScanError, SuperblockError, VirtualBlock};

use crate::disk0::CatalogueError;
use crate::error::{DiskError, ErrorKind};
use crate::info::Limits;
use crate::names::NameError;
use crate::node::NodeFault;
use crate::tree_error::TreeError;

/// Why a verb failed. Nothing has changed then, unless the variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// A bad name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A disk's own trouble.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The catalogue's trouble.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The medium failed.
    #[error("the store cannot be read or written: {0}")]
    Device(#[from] DeviceError),
    /// A chain could not be read back.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A tree could not be read.
    #[error("{version}: {source}")]
    Tree {
        /// Whose tree.
        version: String,
        /// What is wrong.
        source: TreeError,
    },
    /// A tree could not be read while it was being changed.
    #[error(transparent)]
    Node(#[from] TreeError),
    /// A root in the catalogue makes no sense.
    #[error("the catalogue names a tree that cannot be ({0}); run `bough check`")]
    Root(#[from] NodeFault),
    /// No such disk.
    #[error("there is no disk '{name}'; `bough list` shows those there are")]
    NoSuchDisk {
        /// The name given.
        name: String,
    },
    /// No such snapshot.
    #[error("there is no snapshot '{name}'; `bough show` lists the snapshots of a disk")]
    NoSuchSnapshot {
        /// The name given.
        name: String,
    },
    /// The name is taken.
    #[error("'{name}' exists already; choose another name, or delete it first")]
    Exists {
        /// The name given.
        name: String,
    },
    /// One request names the same thing twice.
    #[error("'{name}' is named twice")]
    NamedTwice {
        /// The name given.
        name: String,
    },
    /// `clone DISK` of a disk without sealed snapshots.
    #[error(
        "disk '{disk}' has no sealed snapshot to clone; make one with \
         `bough snapshot {disk}@NAME` and `bough seal {disk}@NAME`, or clone {disk}@NAME itself"
    )]
    NoSealedSnapshot {
        /// The disk.
        disk: String,
    },
    /// A sealed version was to be deleted.
    #[error("'{name}' is sealed; `bough unseal {name}` first")]
    Sealed {
        /// The snapshot.
        name: String,
    },
    /// Something depends on what was to be deleted.
    #[error(
        "'{name}' has dependents: {}; delete them first, or use -r to delete them too",
        dependents.join(", ")
    )]
    HasDependents {
        /// What was to be deleted.
        name: String,
        /// Disks cloned from it.
        dependents: Vec<String>,
    },
    /// A disk with snapshots was to be deleted.
    #[error("disk '{disk}' has snapshots ({snapshot_count}); use -r to delete them too")]
    HasSnapshots {
        /// The disk.
        disk: String,
        /// How many.
        snapshot_count: u64,
    },
    /// Somebody is connected, reading, or the disk is attached.
    #[error("'{name}' is in use by {}; {remedy}", users.join(", "))]
    InUse {
        /// What is in use.
        name: String,
        /// By whom.
        users: Vec<String>,
        /// What to do.
        remedy: &'static str,
    },
    /// A size that cannot be.
    #[error("a disk of {size_bytes} bytes cannot be: sizes are multiples of 512 up to 1 PiB")]
    BadSize {
        /// The size given.
        size_bytes: u64,
    },
    /// A time to save up for that cannot be.
    #[error(
        "limits cannot save up for {seconds} seconds: 1 to {} can be",
        Limits::BURST_SECONDS_MAX
    )]
    BadBurst {
        /// The time given.
        seconds: u32,
    },
    /// A smaller size without permission.
    #[error(
        "disk '{disk}' has {from_bytes} bytes; making it {to_bytes} cuts off data: \
         use --shrink to allow that"
    )]
    WouldShrink {
        /// The disk.
        disk: String,
        /// Its size.
        from_bytes: u64,
        /// The size wanted.
        to_bytes: u64,
    },
    /// A store smaller than it is.
    #[error("the store has {from_bytes} bytes; a store cannot be made smaller")]
    StoreWouldShrink {
        /// Its size.
        from_bytes: u64,
    },
    /// Too small for a store.
    #[error("a store needs at least {min_bytes} bytes; this would have {found_bytes}")]
    StoreTooSmall {
        /// The least.
        min_bytes: u64,
        /// What there is.
        found_bytes: u64,
    },
    /// There is a store already.
    #[error("there is a store here already; nothing was changed")]
    StoreExists,
    /// No room for a checkpoint.
    #[error("the store is full; delete disks or snapshots, or run `bough grow`")]
    StoreFull,
    /// A chain has lost records that were durable.
    #[error(
        "disk '{disk}': its log has lost record {sequence} (block {at}), which was durable; \
         the disk is not served, others are: run `bough check`"
    )]
    LostRecords {
        /// The disk.
        disk: String,
        /// Where the first lost record was.
        at: BlockAddr,
        /// Which it was.
        sequence: u64,
    },
    /// A chain holds what its disk has no place for.
    #[error(
        "disk '{disk}': record {sequence} of its log (block {at}) has data for block {block}, \
         beyond the disk's end; the disk is not served, others are: run `bough check`"
    )]
    BeyondDisk {
        /// The disk.
        disk: String,
        /// Where the record is.
        at: BlockAddr,
        /// Which it is.
        sequence: u64,
        /// Which block it has data for.
        block: VirtualBlock,
    },
    /// A rename across kinds or disks.
    #[error("'{from}' cannot be renamed to '{to}': a snapshot stays with its disk")]
    BadRename {
        /// The old name.
        from: String,
        /// The new one.
        to: String,
    },
    /// The disk is not attached.
    #[error("disk '{disk}' is not attached")]
    NotAttached {
        /// The disk.
        disk: String,
    },
    /// A number of queues that cannot be.
    #[error("{queues} queues cannot be: a disk has 1 to 64")]
    BadQueues {
        /// The number given.
        queues: u16,
    },
    /// A deletion of so much that the catalogue has no room to note it in one commit.
    #[error(
        "the catalogue has no room to delete so much at once, and nothing was deleted; \
         name fewer disks and snapshots, or run `bough grow`"
    )]
    TooMuchAtOnce,
    /// The engine was closed.
    #[error("the store is being closed")]
    Closed,
}

impl From<SuperblockError> for EngineError {
    fn from(error: SuperblockError) -> Self {
        Self::Catalogue(error.into())
    }
}

impl From<crate::catalogue::RowFault> for EngineError {
    fn from(fault: crate::catalogue::RowFault) -> Self {
        Self::Catalogue(fault.into())
    }
}

impl EngineError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_)
            | Self::NamedTwice { .. }
            | Self::BadSize { .. }
            | Self::BadBurst { .. }
            | Self::StoreTooSmall { .. }
            | Self::BadRename { .. }
            | Self::BadQueues { .. } => ErrorKind::Invalid,
            Self::NoSuchDisk { .. } | Self::NoSuchSnapshot { .. } | Self::NotAttached { .. } => {
                ErrorKind::NotFound
            }
            Self::Exists { .. } | Self::StoreExists => ErrorKind::Exists,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::NoSealedSnapshot { .. }
            | Self::Sealed { .. }
            | Self::HasDependents { .. }
            | Self::HasSnapshots { .. }
            | Self::WouldShrink { .. }
            | Self::StoreWouldShrink { .. } => ErrorKind::Refused,
            Self::StoreFull | Self::TooMuchAtOnce => ErrorKind::Full,
            Self::Closed => ErrorKind::Faulted,
            Self::LostRecords { .. }
            | Self::BeyondDisk { .. }
            | Self::Tree { .. }
            | Self::Node(_)
            | Self::Root(_) => ErrorKind::Corrupt,
            Self::Device(_) | Self::Scan(_) => ErrorKind::Io,
            Self::Disk(error) => error.kind(),
            Self::Catalogue(error) => error.kind(),
        }
    }

    /// Whether room would cure it: the store's own, or the host's.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Device(error) => matches!(error.kind, bough_blockstore::DeviceFault::NoSpace),
            error => error.kind() == ErrorKind::Full,
        }
    }
}
