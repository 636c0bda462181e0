//! Disk and version rows with their secondary keys and counts: the one place that keeps them in
//! step.
//!
//! A disk has a name entry unless it is being deleted. A version has a timeline entry, a child
//! entry under its parent, and, where it is a snapshot with a label and not hidden, a label entry.

use bough_blockstore::DiskId;

use super::keys;
use super::rows::{DiskRow, VersionId, VersionRow};
use super::table::{RowFault, Rows};
use crate::btree::Pages;

impl<P: Pages> Rows<'_, P>
where
    P::Error: From<RowFault>,
{
    /// Adds or replaces a disk. `snapshot_count` is kept as it was.
    pub async fn put_disk(&mut self, row: &DiskRow) -> Result<(), P::Error> {
        let old = self.get_disk(row.id).await?;
        let (old_name, new_name) = (old.as_ref().and_then(public_name), public_name(row));
        self.move_index(old_name, new_name, u64::from(row.id.0)).await?;
        let (was, is) = (old.as_ref().is_some_and(|old| !old.deleting), !row.deleting);
        let snapshot_count = old.map_or(0, |old| old.snapshot_count);
        let row = DiskRow { snapshot_count, ..row.clone() };
        self.write(&keys::of_disk(keys::DISK, row.id), &row).await?;
        self.change_totals(|totals| totals.disks = adjusted(totals.disks, was, is)).await
    }

    /// Removes a disk, whose versions must be gone; says whether it was there.
    pub async fn remove_disk(&mut self, id: DiskId) -> Result<bool, P::Error> {
        let Some(old) = self.get_disk(id).await? else { return Ok(false) };
        if let Some(name) = public_name(&old) {
            self.erase(&name.key).await?;
        }
        self.erase(&keys::of_disk(keys::DISK, id)).await?;
        self.change_totals(|totals| totals.disks = adjusted(totals.disks, !old.deleting, false))
            .await?;
        Ok(true)
    }

    /// Adds or replaces a version, whose disk and parent must exist (the head of a new disk goes
    /// in after the disk's row). `child_count` is kept as it was.
    pub async fn put_version(&mut self, row: &VersionRow) -> Result<(), P::Error> {
        let old = self.get_version(row.id).await?;
        let label = old.as_ref().and_then(public_label);
        self.move_index(label, public_label(row), row.id.0).await?;
        self.move_timeline(old.as_ref(), row).await?;
        let parent = old.as_ref().and_then(|old| old.parent);
        self.move_child(row.id, parent, row.parent).await?;
        let was = old.as_ref().filter(|old| old.is_public_snapshot()).map(|old| old.disk);
        self.count_snapshot(was, Some(row.disk).filter(|_| row.is_public_snapshot())).await?;
        let child_count = old.map_or(0, |old| old.child_count);
        let row = VersionRow { child_count, ..row.clone() };
        self.write(&keys::of_version(keys::VERSION, row.id), &row).await
    }

    /// Removes a version without children; says whether it was there.
    pub async fn remove_version(&mut self, id: VersionId) -> Result<bool, P::Error> {
        let Some(old) = self.get_version(id).await? else { return Ok(false) };
        if old.child_count > 0 {
            let child_count = old.child_count;
            return Err(RowFault::HasChildren { version: id, child_count }.into());
        }
        self.move_child(id, old.parent, None).await?;
        self.forget(&old).await?;
        Ok(true)
    }

    /// Removes a version that is nobody's parent and nobody's child any more.
    async fn forget(&mut self, old: &VersionRow) -> Result<(), P::Error> {
        if let Some(label) = public_label(old) {
            self.erase(&label.key).await?;
        }
        self.leave_timeline(old).await?;
        self.count_snapshot(Some(old.disk).filter(|_| old.is_public_snapshot()), None).await?;
        self.erase(&keys::of_version(keys::VERSION, old.id)).await.map(drop)
    }

    /// Removes a version that at most one other began from, which takes its place: it begins from
    /// what that one began from, if from anything, and their parent has as many children as before.
    /// Gives the one that took the place, if there is one.
    pub async fn give_way(&mut self, old: &VersionRow) -> Result<Option<VersionRow>, P::Error> {
        let Some(mut heir) = self.first_child(old.id).await? else {
            self.remove_version(old.id).await?;
            return Ok(None);
        };
        let child_count = self.version(old.id).await?.child_count;
        if child_count != 1 {
            return Err(RowFault::HasChildren { version: old.id, child_count }.into());
        }
        self.erase(&keys::child(old.id, heir.id)).await?;
        if let Some(parent) = old.parent {
            self.write(&keys::child(parent, heir.id), &heir.id.0).await?;
            self.erase(&keys::child(parent, old.id)).await?;
        }
        heir.parent = old.parent;
        self.write(&keys::of_version(keys::VERSION, heir.id), &heir).await?;
        self.forget(old).await?;
        Ok(Some(heir))
    }

    /// Adds to what a version owns.
    pub async fn add_owned(&mut self, id: VersionId, blocks: i64) -> Result<(), P::Error> {
        let mut row = self.version(id).await?;
        row.owned_blocks = row.owned_blocks.saturating_add(blocks);
        self.write(&keys::of_version(keys::VERSION, id), &row).await
    }

    /// Whether a disk's name leads to it, where it has one.
    pub async fn is_found_by_name(&self, row: &DiskRow) -> Result<bool, P::Error> {
        let Some(name) = public_name(row) else { return Ok(true) };
        Ok(self.read_number(&name.key).await? == Some(u64::from(row.id.0)))
    }

    /// Whether a snapshot's label leads to it, where it has one.
    pub async fn is_found_by_label(&self, row: &VersionRow) -> Result<bool, P::Error> {
        let Some(label) = public_label(row) else { return Ok(true) };
        Ok(self.read_number(&label.key).await? == Some(row.id.0))
    }

    /// Whether a version's disk lists it, by its epoch.
    pub async fn is_listed(&self, row: &VersionRow) -> Result<bool, P::Error> {
        Ok(self.read_number(&keys::timeline(row.disk, row.epoch)).await? == Some(row.id.0))
    }

    /// Whether a version's parent lists it, where it has one.
    pub async fn is_listed_as_child(&self, row: &VersionRow) -> Result<bool, P::Error> {
        let Some(parent) = row.parent else { return Ok(true) };
        Ok(self.read_number(&keys::child(parent, row.id)).await? == Some(row.id.0))
    }

    /// Moves a unique name from one key to another.
    async fn move_index(
        &mut self,
        from: Option<Name>,
        to: Option<Name>,
        owner: u64,
    ) -> Result<(), P::Error> {
        if from == to {
            return Ok(());
        }
        if let Some(name) = to {
            if self.read_number(&name.key).await?.is_some_and(|other| other != owner) {
                return Err(RowFault::NameTaken(name.text).into());
            }
            self.write(&name.key, &owner).await?;
        }
        match from {
            Some(name) => self.erase(&name.key).await.map(drop),
            None => Ok(()),
        }
    }

    async fn move_timeline(
        &mut self,
        old: Option<&VersionRow>,
        row: &VersionRow,
    ) -> Result<(), P::Error> {
        let place = keys::timeline(row.disk, row.epoch);
        if let Some(old) = old
            && keys::timeline(old.disk, old.epoch) != place
        {
            self.leave_timeline(old).await?;
        }
        if self.read_number(&place).await? != Some(row.id.0) {
            self.write(&place, &row.id.0).await?;
        }
        Ok(())
    }

    /// Erases a version's timeline entry, unless the place is another's by now: a snapshot may
    /// take over its head's epoch before the head moves on.
    async fn leave_timeline(&mut self, row: &VersionRow) -> Result<(), P::Error> {
        let place = keys::timeline(row.disk, row.epoch);
        if self.read_number(&place).await? == Some(row.id.0) {
            self.erase(&place).await?;
        }
        Ok(())
    }

    async fn move_child(
        &mut self,
        child: VersionId,
        from: Option<VersionId>,
        to: Option<VersionId>,
    ) -> Result<(), P::Error> {
        if from == to {
            return Ok(());
        }
        if let Some(parent) = to {
            self.write(&keys::child(parent, child), &child.0).await?;
            self.count_child(parent, false, true).await?;
        }
        if let Some(parent) = from {
            self.erase(&keys::child(parent, child)).await?;
            self.count_child(parent, true, false).await?;
        }
        Ok(())
    }

    async fn count_child(
        &mut self,
        parent: VersionId,
        was: bool,
        is: bool,
    ) -> Result<(), P::Error> {
        let mut row = self.version(parent).await?;
        row.child_count = adjusted(row.child_count, was, is);
        self.write(&keys::of_version(keys::VERSION, parent), &row).await
    }

    async fn count_snapshot(
        &mut self,
        was: Option<DiskId>,
        is: Option<DiskId>,
    ) -> Result<(), P::Error> {
        if was == is {
            return Ok(());
        }
        for (disk, gone) in [(was, true), (is, false)] {
            let Some(disk) = disk else { continue };
            let mut row = self.get_disk(disk).await?.ok_or(RowFault::MissingDisk(disk))?;
            row.snapshot_count = adjusted(row.snapshot_count, gone, !gone);
            self.write(&keys::of_disk(keys::DISK, disk), &row).await?;
        }
        self.change_totals(|totals| {
            totals.snapshots = adjusted(totals.snapshots, was.is_some(), is.is_some());
        })
        .await
    }
}

/// A unique name as its key and as people know it.
#[derive(PartialEq, Eq)]
struct Name {
    key: Vec<u8>,
    text: String,
}

fn public_name(row: &DiskRow) -> Option<Name> {
    let text = row.name.as_str();
    (!row.deleting).then(|| Name { key: keys::disk_name(text), text: text.to_owned() })
}

fn public_label(row: &VersionRow) -> Option<Name> {
    let text = row.label.as_ref().filter(|_| row.is_public_snapshot())?;
    Some(Name { key: keys::snapshot_label(row.disk, text), text: text.clone() })
}

/// A count from which one thing may have gone and to which one may have come. A count too low
/// comes from a forged store; `check` says so, we only refuse to wrap.
fn adjusted(count: u64, was: bool, is: bool) -> u64 {
    count.saturating_add(is.into()).saturating_sub(was.into())
}
