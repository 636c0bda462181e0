//! What can go wrong, each with the object it concerns and what to do about it.

use bough_blockstore::{BlockAddr, DeviceError};

/// Kinds of failure: what an exit code or an HTTP status is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such disk or snapshot.
    NotFound,
    /// The name is taken.
    Exists,
    /// Somebody is using it.
    InUse,
    /// The request makes no sense.
    Invalid,
    /// The store has no room.
    Full,
    /// The disk or the store has halted after a failure.
    Faulted,
    /// Bytes on the store are not what was written.
    Corrupt,
    /// Refused to protect data; another option or order of steps is needed.
    Refused,
    /// The medium failed.
    Io,
}

/// Why an I/O on a disk failed. One such failure never touches another disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskError {
    /// Not inside the disk, or not on 512-byte borders.
    #[error(
        "{length_bytes} bytes at byte {offset_bytes} are not inside disk '{disk}' \
         ({size_bytes} bytes) on 512-byte borders"
    )]
    OutOfRange {
        /// The disk.
        disk: String,
        /// Where it was to begin.
        offset_bytes: u64,
        /// How long it was to be.
        length_bytes: u64,
        /// The disk's size.
        size_bytes: u64,
    },
    /// A write through a read-only connection.
    #[error("disk '{disk}' is connected read-only; connect it for writing")]
    ReadOnly {
        /// The disk.
        disk: String,
    },
    /// Somebody else writes to the disk.
    #[error("disk '{disk}' is in use by {holder}; disconnect that client first")]
    InUse {
        /// The disk.
        disk: String,
        /// Who.
        holder: String,
    },
    /// No room for this write.
    #[error(
        "the store is full: a write to disk '{disk}' was refused; delete disks or snapshots, \
         discard unused data, or run `bough grow`"
    )]
    NoSpace {
        /// The disk.
        disk: String,
    },
    /// The store may be larger than what the host has room for.
    #[error(
        "the file system that the store is on is full: a write to disk '{disk}' was refused; free \
         space there, or delete disks or snapshots"
    )]
    HostFull {
        /// The disk.
        disk: String,
    },
    /// A block is not what was written.
    #[error(
        "disk '{disk}': block {virtual_block} (block {addr} of the store) is damaged and was not \
         returned; restore it from a snapshot or backup"
    )]
    Corrupt {
        /// The disk or version.
        disk: String,
        /// Which of its blocks.
        virtual_block: u64,
        /// Where it lies.
        addr: BlockAddr,
    },
    /// A block that was given up, since a node of the tree that led to it was damaged.
    #[error(
        "disk '{disk}': block {virtual_block} was lost with a damaged part of the disk's tree; \
         write it anew, or restore it from a snapshot or backup"
    )]
    Lost {
        /// The disk or version.
        disk: String,
        /// Which of its blocks.
        virtual_block: u64,
    },
    /// A failed write or sync has halted the disk or the store.
    #[error("disk '{disk}' has halted ({cause}); restart the server to recover it")]
    Halted {
        /// The disk.
        disk: String,
        /// What happened.
        cause: String,
    },
    /// The disk was deleted or rolled back meanwhile.
    #[error("disk '{disk}' no longer exists")]
    Gone {
        /// The disk.
        disk: String,
    },
    /// A read failed.
    #[error("disk '{disk}': {source}")]
    Device {
        /// The disk.
        disk: String,
        /// What the device said.
        source: DeviceError,
    },
    /// A tree could not be read.
    #[error("disk '{disk}': {source}")]
    Tree {
        /// The disk.
        disk: String,
        /// What is wrong with it.
        source: crate::TreeError,
    },
}

impl DiskError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OutOfRange { .. } => ErrorKind::Invalid,
            Self::ReadOnly { .. } => ErrorKind::Refused,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::NoSpace { .. } | Self::HostFull { .. } => ErrorKind::Full,
            Self::Corrupt { .. } | Self::Lost { .. } => ErrorKind::Corrupt,
            Self::Halted { .. } => ErrorKind::Faulted,
            Self::Gone { .. } => ErrorKind::NotFound,
            Self::Device { .. } => ErrorKind::Io,
            Self::Tree { source, .. } => match source {
                crate::TreeError::Corrupt { .. } => ErrorKind::Corrupt,
                crate::TreeError::Device { .. } => ErrorKind::Io,
            },
        }
    }
}
