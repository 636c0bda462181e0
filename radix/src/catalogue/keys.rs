//! The rows' keys: a letter, then big-endian numbers, so that byte order is the order we list in.

use bough_blockstore::{BlockAddr, DiskId, Epoch};

use super::rows::{
    AttachmentRow, ChainRow, DiskRow, ExtentRow, LimitsRow, ReclaimRow, VersionId, VersionRow,
};

pub(super) const DISK: u8 = b'D';
pub(super) const DISK_NAME: u8 = b'N';
pub(super) const VERSION: u8 = b'V';
pub(super) const SNAPSHOT_LABEL: u8 = b'S';
pub(super) const TIMELINE: u8 = b'T';
pub(super) const CHILD: u8 = b'K';
pub(super) const EXTENT: u8 = b'E';
pub(super) const CHAIN: u8 = b'C';
pub(super) const RECLAIM: u8 = b'R';
pub(super) const ATTACHMENT: u8 = b'A';
pub(super) const LIMITS: u8 = b'Q';

/// A row that says in its value what its key is.
pub(super) trait Keyed {
    fn key(&self) -> Vec<u8>;
}

impl Keyed for DiskRow {
    fn key(&self) -> Vec<u8> {
        of_disk(DISK, self.id)
    }
}

impl Keyed for VersionRow {
    fn key(&self) -> Vec<u8> {
        of_version(VERSION, self.id)
    }
}

impl Keyed for ExtentRow {
    fn key(&self) -> Vec<u8> {
        extent(self.run.start)
    }
}

impl Keyed for ChainRow {
    fn key(&self) -> Vec<u8> {
        of_disk(CHAIN, self.disk)
    }
}

impl Keyed for ReclaimRow {
    fn key(&self) -> Vec<u8> {
        of_version(RECLAIM, self.version)
    }
}

impl Keyed for AttachmentRow {
    fn key(&self) -> Vec<u8> {
        of_disk(ATTACHMENT, self.disk)
    }
}

impl Keyed for LimitsRow {
    fn key(&self) -> Vec<u8> {
        of_disk(LIMITS, self.disk)
    }
}

/// The number that a key ends with.
pub(super) fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk().copied().map(u64::from_be_bytes)
}

fn key(letter: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![letter];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// Rows that a disk has one of: `D`, `C`, `A`, `Q`.
pub(super) fn of_disk(letter: u8, disk: DiskId) -> Vec<u8> {
    key(letter, &[&disk.0.to_be_bytes()])
}

/// Rows that a version has one of: `V`, `R`; and the prefix of its children, `K`.
pub(super) fn of_version(letter: u8, version: VersionId) -> Vec<u8> {
    key(letter, &[&version.0.to_be_bytes()])
}

/// `N` name → disk.
pub(super) fn disk_name(name: &str) -> Vec<u8> {
    key(DISK_NAME, &[name.as_bytes()])
}

/// `S` disk, label → version.
pub(super) fn snapshot_label(disk: DiskId, label: &str) -> Vec<u8> {
    key(SNAPSHOT_LABEL, &[&disk.0.to_be_bytes(), label.as_bytes()])
}

/// `T` disk, epoch → version.
pub(super) fn timeline(disk: DiskId, epoch: Epoch) -> Vec<u8> {
    key(TIMELINE, &[&disk.0.to_be_bytes(), &epoch.raw().to_be_bytes()])
}

/// `K` parent, child → nothing.
pub(super) fn child(parent: VersionId, child: VersionId) -> Vec<u8> {
    key(CHILD, &[&parent.0.to_be_bytes(), &child.0.to_be_bytes()])
}

/// `E` first block → extent.
pub(super) fn extent(start: BlockAddr) -> Vec<u8> {
    key(EXTENT, &[&start.raw().to_be_bytes()])
}
