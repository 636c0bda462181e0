//! Reading rows in order, a bounded number at a time: no list is ever loaded whole.

use bough_blockstore::{BlockAddr, DiskId, Epoch};

use super::codec::Coded;
use super::keys;
use super::rows::{AttachmentRow, ChainRow, DiskRow, ExtentRow, ReclaimRow, VersionId, VersionRow};
use super::table::{RowFault, Rows};
use crate::btree::{self, Pages};

impl<P: Pages> Rows<'_, P>
where
    P::Error: From<RowFault>,
{
    /// Disks by name, from the first after `after` on, without those being deleted.
    pub async fn list_disks(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DiskRow>, P::Error> {
        let mut from = keys::disk_name(after.unwrap_or_default());
        from.extend(after.map(|_| 0)); // the least key greater than that name's
        let mut disks = Vec::new();
        for id in self.rows::<u64>(&[keys::DISK_NAME], &from, limit).await? {
            disks.push(self.disk_named_by_index(id).await?);
        }
        Ok(disks)
    }

    /// Disks by number from `from` on, with those being deleted.
    pub async fn list_all_disks(
        &self,
        from: DiskId,
        limit: usize,
    ) -> Result<Vec<DiskRow>, P::Error> {
        self.rows(&[keys::DISK], &keys::of_disk(keys::DISK, from), limit).await
    }

    /// All versions of a disk, oldest first, from epoch `from` on: snapshots, hidden ones, head.
    pub async fn list_versions(
        &self,
        disk: DiskId,
        from: Epoch,
        limit: usize,
    ) -> Result<Vec<VersionRow>, P::Error> {
        let prefix = keys::of_disk(keys::TIMELINE, disk);
        let mut versions = Vec::new();
        for id in self.rows::<u64>(&prefix, &keys::timeline(disk, from), limit).await? {
            versions.push(self.version(VersionId(id)).await?);
        }
        Ok(versions)
    }

    /// All versions of all disks by number, from `from` on.
    pub async fn list_all_versions(
        &self,
        from: VersionId,
        limit: usize,
    ) -> Result<Vec<VersionRow>, P::Error> {
        self.rows(&[keys::VERSION], &keys::of_version(keys::VERSION, from), limit).await
    }

    /// The versions whose parent is `parent`, by number from `from` on.
    pub async fn list_children(
        &self,
        parent: VersionId,
        from: VersionId,
        limit: usize,
    ) -> Result<Vec<VersionId>, P::Error> {
        let prefix = keys::of_version(keys::CHILD, parent);
        let ids = self.rows::<u64>(&prefix, &keys::child(parent, from), limit).await?;
        Ok(ids.into_iter().map(VersionId).collect())
    }

    /// Extents by address, from `from` on.
    pub async fn list_extents(
        &self,
        from: BlockAddr,
        limit: usize,
    ) -> Result<Vec<ExtentRow>, P::Error> {
        self.rows(&[keys::EXTENT], &keys::extent(from), limit).await
    }

    /// Active chains by disk, from `from` on.
    pub async fn list_chains(&self, from: DiskId, limit: usize) -> Result<Vec<ChainRow>, P::Error> {
        self.rows(&[keys::CHAIN], &keys::of_disk(keys::CHAIN, from), limit).await
    }

    /// Reclaim cursors by version, from `from` on.
    pub async fn list_reclaims(
        &self,
        from: VersionId,
        limit: usize,
    ) -> Result<Vec<ReclaimRow>, P::Error> {
        self.rows(&[keys::RECLAIM], &keys::of_version(keys::RECLAIM, from), limit).await
    }

    /// Attachments by disk, from `from` on.
    pub async fn list_attachments(
        &self,
        from: DiskId,
        limit: usize,
    ) -> Result<Vec<AttachmentRow>, P::Error> {
        self.rows(&[keys::ATTACHMENT], &keys::of_disk(keys::ATTACHMENT, from), limit).await
    }

    async fn rows<R: Coded>(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<R>, P::Error> {
        let pairs = btree::scan(self.pages, prefix, from, limit).await?;
        let rows: Result<Vec<R>, RowFault> =
            pairs.iter().map(|pair| R::decode(&pair.value)).collect();
        Ok(rows?)
    }
}
