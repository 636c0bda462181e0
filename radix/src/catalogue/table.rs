//! Reading and writing single rows.

use bough_blockstore::{BlockAddr, BlockCount, DiskId, Epoch};

use super::codec::Coded;
use super::keys::{self, Keyed};
use super::rows::{
    AttachmentRow, ChainRow, DiskRow, ExtentRow, LimitsRow, ReclaimRow, VersionId, VersionKind,
    VersionRow,
};
use crate::btree::{self, Counters, Pages, Pair, Totals};

/// What can be wrong with a row, or with what is asked of the rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// A row's bytes make no sense.
    #[error("a {0} row of the catalogue makes no sense; run `bough check`")]
    Malformed(RowKind),
    /// A row stands in another's place.
    #[error("a {0} row of the catalogue is where another should be; run `bough check`")]
    Misplaced(RowKind),
    /// A name under which something else is found.
    #[error("the name '{0}' leads to something else in the catalogue; run `bough check`")]
    WrongName(String),
    /// A disk lists a version that is not its own, or in another's place.
    #[error("disk {disk} of the catalogue lists version {version} wrongly; run `bough check`")]
    WrongVersion {
        /// The disk.
        disk: DiskId,
        /// What it lists.
        version: VersionId,
    },
    /// A version listed among those that began from another, and did not.
    #[error(
        "version {child} of the catalogue did not begin from version {parent}; run `bough check`"
    )]
    WrongChild {
        /// Where it is listed.
        parent: VersionId,
        /// What is listed.
        child: VersionId,
    },
    /// A disk's head that is a snapshot, or another disk's.
    #[error("the head of disk {0} in the catalogue is not that disk's; run `bough check`")]
    WrongHead(DiskId),
    /// A disk larger than what its tree can map.
    #[error("disk {0} of the catalogue is larger than its tree; run `bough check`")]
    LowTree(DiskId),
    /// A row that another one names is not there.
    #[error("version {0} is missing from the catalogue; run `bough check`")]
    MissingVersion(VersionId),
    /// A row that another one names is not there.
    #[error("disk {0} is missing from the catalogue; run `bough check`")]
    MissingDisk(DiskId),
    /// A version that began from a younger one, or from itself.
    #[error("version {0} of the catalogue is younger than what began from it; run `bough check`")]
    YoungerParent(VersionId),
    /// Somebody else has the name. Callers look first; this keeps the index right regardless.
    #[error("the name '{0}' is taken; choose another")]
    NameTaken(String),
    /// All numbers have been given out.
    #[error("the store has no more numbers for disks or versions")]
    NumbersExhausted,
    /// A version with children cannot be removed.
    #[error("version {version} still has {child_count} children")]
    HasChildren {
        /// The version.
        version: VersionId,
        /// Its children.
        child_count: u64,
    },
}

/// The kinds of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// A disk.
    Disk,
    /// A version.
    Version,
    /// An extent.
    Extent,
    /// A chain.
    Chain,
    /// A reclaim cursor.
    Reclaim,
    /// An attachment.
    Attachment,
    /// A disk's limits.
    Limits,
    /// An index entry.
    Index,
}

impl std::fmt::Display for RowKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Version => "version",
            Self::Extent => "extent",
            Self::Chain => "chain",
            Self::Reclaim => "reclaim",
            Self::Attachment => "attachment",
            Self::Limits => "limits",
            Self::Index => "index",
        })
    }
}

/// The catalogue's rows in some pages, seen by one commit. A fault in the middle of a change
/// leaves the pages half changed: drop them, commit nothing.
pub struct Rows<'a, P: Pages> {
    pub(super) pages: &'a mut P,
}

impl<'a, P: Pages> Rows<'a, P>
where
    P::Error: From<RowFault>,
{
    /// The rows in `pages`.
    pub fn new(pages: &'a mut P) -> Self {
        Self { pages }
    }

    /// Makes an empty catalogue; overwrites whatever was there.
    pub fn format(&mut self, counters: Counters) {
        btree::format(self.pages, counters);
    }

    /// The engine's counters.
    pub async fn counters(&self) -> Result<Counters, P::Error> {
        Ok(btree::read_meta(self.pages).await?.counters)
    }

    /// Replaces the engine's counters.
    pub async fn set_counters(&mut self, counters: Counters) -> Result<(), P::Error> {
        let mut meta = btree::read_meta(self.pages).await?;
        meta.counters = counters;
        btree::write_meta(self.pages, &meta);
        Ok(())
    }

    /// How many rows there are of what `status` shows.
    pub async fn totals(&self) -> Result<Totals, P::Error> {
        Ok(btree::read_meta(self.pages).await?.totals)
    }

    /// A number for a new disk.
    pub async fn new_disk_id(&mut self) -> Result<DiskId, P::Error> {
        let mut counters = self.counters().await?;
        let id = DiskId(counters.next_disk);
        counters.next_disk = id.0.checked_add(1).ok_or(RowFault::NumbersExhausted)?;
        self.set_counters(counters).await?;
        Ok(id)
    }

    /// A number for a new version.
    pub async fn new_version_id(&mut self) -> Result<VersionId, P::Error> {
        let mut counters = self.counters().await?;
        let id = VersionId(counters.next_version);
        counters.next_version = id.0.checked_add(1).ok_or(RowFault::NumbersExhausted)?;
        self.set_counters(counters).await?;
        Ok(id)
    }

    /// The disk of that number, deleted or not.
    pub async fn get_disk(&self, id: DiskId) -> Result<Option<DiskRow>, P::Error> {
        self.read(&keys::of_disk(keys::DISK, id)).await
    }

    /// The disk of that name, unless it is being deleted.
    pub async fn find_disk(&self, name: &str) -> Result<Option<DiskRow>, P::Error> {
        match self.read_number(&keys::disk_name(name)).await? {
            Some(id) => self.disk_named(name, id).await.map(Some),
            None => Ok(None),
        }
    }

    /// The disk to which a name leads.
    pub(super) async fn disk_named(&self, name: &str, id: u64) -> Result<DiskRow, P::Error> {
        let id = DiskId(u32::try_from(id).map_err(|_| RowFault::Malformed(RowKind::Index))?);
        let row = self.get_disk(id).await?.ok_or(RowFault::MissingDisk(id))?;
        if row.deleting || row.name.as_str() != name {
            return Err(RowFault::WrongName(name.to_owned()).into());
        }
        Ok(row)
    }

    /// A disk's writable version. No two disks share one, whatever the rows say.
    pub async fn head_of(&self, disk: &DiskRow) -> Result<VersionRow, P::Error> {
        let head = self.version(disk.head).await?;
        if head.disk != disk.id || head.kind != VersionKind::Head {
            return Err(RowFault::WrongHead(disk.id).into());
        }
        if head.root.capacity() < BlockCount::covering(head.size_bytes).0 {
            return Err(RowFault::LowTree(disk.id).into());
        }
        Ok(head)
    }

    /// The version of that number.
    pub async fn get_version(&self, id: VersionId) -> Result<Option<VersionRow>, P::Error> {
        self.read(&keys::of_version(keys::VERSION, id)).await
    }

    /// The version of that number, which must be there.
    pub async fn version(&self, id: VersionId) -> Result<VersionRow, P::Error> {
        Ok(self.get_version(id).await?.ok_or(RowFault::MissingVersion(id))?)
    }

    /// What a version began from. Older than it, so that whoever goes from parent to parent
    /// arrives, whatever the rows say.
    pub async fn parent_of(&self, version: &VersionRow) -> Result<Option<VersionRow>, P::Error> {
        let Some(id) = version.parent else { return Ok(None) };
        let parent = self.version(id).await?;
        if parent.epoch >= version.epoch {
            return Err(RowFault::YoungerParent(id).into());
        }
        Ok(Some(parent))
    }

    /// The snapshot `label` of `disk`, unless it is hidden.
    pub async fn find_snapshot(
        &self,
        disk: DiskId,
        label: &str,
    ) -> Result<Option<VersionRow>, P::Error> {
        let Some(id) = self.read_number(&keys::snapshot_label(disk, label)).await? else {
            return Ok(None);
        };
        let row = self.version(VersionId(id)).await?;
        let is_it = row.disk == disk && row.is_public_snapshot();
        if !is_it || row.label.as_deref() != Some(label) {
            return Err(RowFault::WrongName(label.to_owned()).into());
        }
        Ok(Some(row))
    }

    /// The disk's last version, hidden ones included, whose epoch is less than `epoch`.
    pub async fn version_before(
        &self,
        disk: DiskId,
        epoch: Epoch,
    ) -> Result<Option<VersionRow>, P::Error> {
        let found = btree::last_before(self.pages, &keys::timeline(disk, epoch)).await?;
        match found.filter(|pair| pair.key.starts_with(&keys::of_disk(keys::TIMELINE, disk))) {
            Some(pair) => self.version_listed(disk, &Listed::read(&pair)?).await.map(Some),
            None => Ok(None),
        }
    }

    /// The version that a disk lists, which must be what the list says.
    pub(super) async fn version_listed(
        &self,
        disk: DiskId,
        listed: &Listed,
    ) -> Result<VersionRow, P::Error> {
        let row = self.version(listed.version).await?;
        if row.disk != disk || row.epoch != listed.epoch {
            return Err(RowFault::WrongVersion { disk, version: row.id }.into());
        }
        Ok(row)
    }

    /// Adds or replaces an extent.
    pub async fn put_extent(&mut self, row: &ExtentRow) -> Result<(), P::Error> {
        self.write(&keys::extent(row.run.start), row).await
    }

    /// Removes the extent that begins at `start`; says whether it was there.
    pub async fn remove_extent(&mut self, start: BlockAddr) -> Result<bool, P::Error> {
        self.erase(&keys::extent(start)).await
    }

    /// The disk's active chain.
    pub async fn get_chain(&self, disk: DiskId) -> Result<Option<ChainRow>, P::Error> {
        self.read(&keys::of_disk(keys::CHAIN, disk)).await
    }

    /// Adds or replaces a disk's active chain.
    pub async fn put_chain(&mut self, row: &ChainRow) -> Result<(), P::Error> {
        self.write(&keys::of_disk(keys::CHAIN, row.disk), row).await
    }

    /// Removes a disk's active chain; says whether it was there.
    pub async fn remove_chain(&mut self, disk: DiskId) -> Result<bool, P::Error> {
        self.erase(&keys::of_disk(keys::CHAIN, disk)).await
    }

    /// How far a version's reclaiming has come.
    pub async fn get_reclaim(&self, version: VersionId) -> Result<Option<ReclaimRow>, P::Error> {
        self.read(&keys::of_version(keys::RECLAIM, version)).await
    }

    /// Adds or replaces a reclaim cursor.
    pub async fn put_reclaim(&mut self, row: &ReclaimRow) -> Result<(), P::Error> {
        let key = keys::of_version(keys::RECLAIM, row.version);
        let fresh = btree::get(self.pages, &key).await?.is_none();
        self.write(&key, row).await?;
        self.change_totals(|totals| totals.reclaims = totals.reclaims.saturating_add(fresh.into()))
            .await
    }

    /// Removes a reclaim cursor; says whether it was there.
    pub async fn remove_reclaim(&mut self, version: VersionId) -> Result<bool, P::Error> {
        let gone = self.erase(&keys::of_version(keys::RECLAIM, version)).await?;
        self.change_totals(|totals| {
            totals.reclaims = totals.reclaims.saturating_sub(u64::from(gone));
        })
        .await?;
        Ok(gone)
    }

    /// How a disk is offered to guests.
    pub async fn get_attachment(&self, disk: DiskId) -> Result<Option<AttachmentRow>, P::Error> {
        self.read(&keys::of_disk(keys::ATTACHMENT, disk)).await
    }

    /// Adds or replaces an attachment.
    pub async fn put_attachment(&mut self, row: &AttachmentRow) -> Result<(), P::Error> {
        self.write(&keys::of_disk(keys::ATTACHMENT, row.disk), row).await
    }

    /// Removes an attachment; says whether it was there.
    pub async fn remove_attachment(&mut self, disk: DiskId) -> Result<bool, P::Error> {
        self.erase(&keys::of_disk(keys::ATTACHMENT, disk)).await
    }

    /// How much a disk's guests may ask for.
    pub async fn get_limits(&self, disk: DiskId) -> Result<Option<LimitsRow>, P::Error> {
        self.read(&keys::of_disk(keys::LIMITS, disk)).await
    }

    /// Adds or replaces a disk's limits.
    pub async fn put_limits(&mut self, row: &LimitsRow) -> Result<(), P::Error> {
        self.write(&keys::of_disk(keys::LIMITS, row.disk), row).await
    }

    /// Removes a disk's limits; says whether there were any.
    pub async fn remove_limits(&mut self, disk: DiskId) -> Result<bool, P::Error> {
        self.erase(&keys::of_disk(keys::LIMITS, disk)).await
    }

    async fn read<R: Coded + Keyed>(&self, key: &[u8]) -> Result<Option<R>, P::Error> {
        match btree::get(self.pages, key).await? {
            Some(value) => Ok(Some(decode_at(key, &value)?)),
            None => Ok(None),
        }
    }

    pub(super) async fn read_number(&self, key: &[u8]) -> Result<Option<u64>, P::Error> {
        match btree::get(self.pages, key).await? {
            Some(value) => Ok(Some(u64::decode(&value)?)),
            None => Ok(None),
        }
    }

    pub(super) async fn write<R: Coded>(&mut self, key: &[u8], row: &R) -> Result<(), P::Error> {
        btree::put(self.pages, key, &row.encode()).await
    }

    pub(super) async fn erase(&mut self, key: &[u8]) -> Result<bool, P::Error> {
        Ok(btree::remove(self.pages, key).await?.is_some())
    }

    pub(super) async fn change_totals(
        &mut self,
        change: impl FnOnce(&mut Totals),
    ) -> Result<(), P::Error> {
        let mut meta = btree::read_meta(self.pages).await?;
        let before = meta.totals;
        change(&mut meta.totals);
        if meta.totals != before {
            btree::write_meta(self.pages, &meta);
        }
        Ok(())
    }
}

/// The row at `key`, which must say that it is there.
pub(super) fn decode_at<R: Coded + Keyed>(key: &[u8], value: &[u8]) -> Result<R, RowFault> {
    let row = R::decode(value)?;
    if row.key() == key { Ok(row) } else { Err(RowFault::Misplaced(R::KIND)) }
}

/// An entry of a disk's list of versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The version's place.
    pub epoch: Epoch,
    /// The version.
    pub version: VersionId,
}

impl Listed {
    pub(super) fn read(pair: &Pair) -> Result<Self, RowFault> {
        let malformed = RowFault::Malformed(RowKind::Index);
        let epoch = keys::last_number(&pair.key).and_then(Epoch::new);
        let epoch = epoch.filter(|epoch| *epoch < Epoch::MAX).ok_or(malformed)?;
        Ok(Self { epoch, version: VersionId(u64::decode(&pair.value)?) })
    }
}
