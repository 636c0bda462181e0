//! What the rows say.

use std::fmt;

use bough_blockstore::{BlockAddr, BlockRun, DiskId, Epoch, Nonce, Sequence};
use uuid::Uuid;

use crate::info::Limits;
use crate::names::DiskName;
use crate::node::Root;

/// Which version; numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VersionId(pub u64);

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskRow {
    /// Its number.
    pub id: DiskId,
    /// Its name; free for another disk once this one is being deleted.
    pub name: DiskName,
    /// Its identity.
    pub uuid: Uuid,
    /// Its writable version.
    pub head: VersionId,
    /// What `clone DISK` clones.
    pub newest_sealed: Option<VersionId>,
    /// When it was made.
    pub created_unix: u64,
    /// Whether it only waits for its blocks to be reclaimed.
    pub deleting: bool,
    /// Snapshots that are not hidden. Kept by [`Rows`](super::Rows); ignored when put.
    pub snapshot_count: u64,
}

/// Head or snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionKind {
    /// A disk's writable version.
    Head,
    /// An immutable version.
    Snapshot,
}

/// A version of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionRow {
    /// Its number.
    pub id: VersionId,
    /// Whose version.
    pub disk: DiskId,
    /// Head or snapshot.
    pub kind: VersionKind,
    /// A snapshot's label, the part after the `@`.
    pub label: Option<String>,
    /// Blocks that it brought were born in this epoch.
    pub epoch: Epoch,
    /// The nearest version still in the tree that it began from.
    pub parent: Option<VersionId>,
    /// Its identity.
    pub uuid: Uuid,
    /// Its parent's identity, kept when the parent goes.
    pub parent_uuid: Option<Uuid>,
    /// The key that it will be encrypted with; 0 is none.
    pub key_id: u32,
    /// The size that a guest sees.
    pub size_bytes: u64,
    /// Its tree.
    pub root: Root,
    /// Whether the root is still to come: the disk's chain holds what the snapshot adds.
    pub pending: bool,
    /// Whether it is protected from deletion.
    pub sealed: bool,
    /// Whether it was deleted, and only waits.
    pub hidden: bool,
    /// When it was made.
    pub created_unix: u64,
    /// Data blocks that its tree reaches.
    pub referenced_blocks: i64,
    /// Data blocks that it brought and its parent does not have.
    pub owned_blocks: i64,
    /// Versions whose parent it is. Kept by [`Rows`](super::Rows); ignored when put.
    pub child_count: u64,
}

impl VersionRow {
    /// Whether it is a snapshot that people can name.
    pub fn is_public_snapshot(&self) -> bool {
        self.kind == VersionKind::Snapshot && !self.hidden
    }
}

/// A disk's right to allocate in a run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentRow {
    /// Where; used blocks inside stay whose they are.
    pub run: BlockRun,
    /// Whose right.
    pub disk: DiskId,
}

/// A disk's active chain: where recovery begins to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainRow {
    /// Whose chain.
    pub disk: DiskId,
    /// Its secret.
    pub nonce: Nonce,
    /// The first record's sequence.
    pub sequence: Sequence,
    /// The first record's header.
    pub at: BlockAddr,
    /// Hash of the header before the first record.
    pub previous_crc: u32,
    /// The epoch in which the chain (from this start) begins.
    pub epoch: Epoch,
    /// The highest record known synced when the row was written.
    pub synced_upto: Sequence,
}

/// A version whose blocks are being reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReclaimRow {
    /// Which.
    pub version: VersionId,
    /// The first of its blocks that was not looked at.
    pub cursor: u64,
    /// Data blocks freed so far.
    pub freed_data: u64,
    /// Nodes freed so far.
    pub freed_nodes: u64,
}

/// A disk offered to guests; remembered across restarts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachmentRow {
    /// Which disk.
    pub disk: DiskId,
    /// Virtqueues offered.
    pub queues: u16,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// How much a disk's guests may ask for; remembered across restarts. A disk without limits has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitsRow {
    /// Which disk.
    pub disk: DiskId,
    /// How much.
    pub limits: Limits,
}
