//! Reading rows in order, a bounded number at a time: no list is ever loaded whole.

use bough_blockstore::{BlockAddr, DiskId, Epoch};

use super::codec::Coded;
use super::keys::{self, Keyed};
use super::rows::{AttachmentRow, ChainRow, DiskRow, ExtentRow, ReclaimRow, VersionId, VersionRow};
use super::table::{Listed, RowFault, RowKind, Rows, decode_at};
use crate::btree::{self, Pages, Pair};

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
        for Pair { key, value } in btree::scan(self.pages, &[keys::DISK_NAME], &from, limit).await?
        {
            let name = std::str::from_utf8(&key[1..]);
            let name = name.map_err(|_| RowFault::Malformed(RowKind::Index))?;
            disks.push(self.disk_named(name, u64::decode(&value)?).await?);
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
        let mut versions = Vec::new();
        for listed in self.list_claimed(disk, from, limit).await? {
            versions.push(self.version_listed(disk, &listed).await?);
        }
        Ok(versions)
    }

    /// What a disk says its versions are, from epoch `from` on, true or not: for who checks.
    pub async fn list_claimed(
        &self,
        disk: DiskId,
        from: Epoch,
        limit: usize,
    ) -> Result<Vec<Listed>, P::Error> {
        let prefix = keys::of_disk(keys::TIMELINE, disk);
        let pairs = btree::scan(self.pages, &prefix, &keys::timeline(disk, from), limit).await?;
        let listed: Result<Vec<Listed>, RowFault> = pairs.iter().map(Listed::read).collect();
        Ok(listed?)
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
        let pairs = btree::scan(self.pages, &prefix, &keys::child(parent, from), limit).await?;
        let ids = pairs.iter().map(|pair| keys::last_number(&pair.key).map(VersionId));
        let ids: Option<Vec<VersionId>> = ids.collect();
        Ok(ids.ok_or(RowFault::Malformed(RowKind::Index))?)
    }

    /// The first of the versions whose parent is `parent`.
    pub async fn first_child(&self, parent: VersionId) -> Result<Option<VersionRow>, P::Error> {
        match self.list_children(parent, VersionId(0), 1).await?.first() {
            Some(child) => self.child_listed(parent, *child).await.map(Some),
            None => Ok(None),
        }
    }

    /// A version that is listed among those that began from `parent`, which it must have done.
    pub async fn child_listed(
        &self,
        parent: VersionId,
        child: VersionId,
    ) -> Result<VersionRow, P::Error> {
        let row = self.version(child).await?;
        if row.parent != Some(parent) {
            return Err(RowFault::WrongChild { parent, child }.into());
        }
        Ok(row)
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

    async fn rows<R: Coded + Keyed>(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<R>, P::Error> {
        let pairs = btree::scan(self.pages, prefix, from, limit).await?;
        let rows: Result<Vec<R>, RowFault> =
            pairs.iter().map(|pair| decode_at(&pair.key, &pair.value)).collect();
        Ok(rows?)
    }
}
