//! What a deletion would take, and what forbids it. Nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};

use bough_blockstore::{DiskId, Epoch};

use super::find::{disk_row, snapshot_row};
use super::{DeleteOptions, Engine, EngineError, bytes_of};
use crate::btree::Pages;
use crate::catalogue::{DiskRow, Rows, VersionId, VersionKind, VersionRow};
use crate::disk0::CatalogueError;
use crate::info::DeleteReport;
use crate::names::{DiskName, SnapshotName, VersionName};

const PAGE_ROWS: usize = 512;

/// What is to go.
#[derive(Default)]
pub(super) struct Doomed {
    /// Clones before what they were cloned from.
    pub disks: Vec<DoomedDisk>,
    /// Snapshots of disks that stay.
    pub snapshots: Vec<(DiskRow, VersionRow)>,
}

/// A disk that is to go.
pub(super) struct DoomedDisk {
    pub row: DiskRow,
    /// Its snapshots' names, oldest first.
    snapshots: Vec<String>,
    /// What its versions own.
    owned_bytes: u64,
}

/// A disk that is to go, unless something forbids it.
struct Inspected {
    disk: DoomedDisk,
    /// The disks cloned from it.
    dependents: Vec<DiskName>,
    /// What forbids it, with `-r` too.
    obstacle: Option<EngineError>,
}

impl Doomed {
    pub fn report(&self) -> DeleteReport {
        let mut report = DeleteReport::default();
        for (disk, version) in &self.snapshots {
            let label = version.label.as_deref().unwrap_or_default();
            report.deleted.push(format!("{}@{label}", disk.name));
            report.released_bytes += bytes_of(version.owned_blocks);
        }
        for disk in &self.disks {
            report.deleted.extend(disk.snapshots.iter().cloned());
            report.deleted.push(disk.row.name.to_string());
            report.released_bytes += disk.owned_bytes;
        }
        report
    }

    /// Whether the disks still have the snapshots that they had when they were looked at: nothing
    /// else comes or goes without the verbs.
    pub async fn is_all<P: Pages<Error = CatalogueError>>(
        &self,
        rows: &Rows<'_, P>,
    ) -> Result<bool, CatalogueError> {
        for disk in &self.disks {
            let now = rows.get_disk(disk.row.id).await?;
            if now.is_none_or(|row| row.snapshot_count != disk.row.snapshot_count) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_disk(&self, id: DiskId) -> bool {
        self.disks.iter().any(|disk| disk.row.id == id)
    }
}

fn named_disk(target: &VersionName) -> Option<&DiskName> {
    match target {
        VersionName::Head(disk) => Some(disk),
        VersionName::Snapshot(_) => None,
    }
}

impl Engine {
    pub(super) async fn doomed(
        &self,
        targets: &[VersionName],
        options: DeleteOptions,
    ) -> Result<Doomed, EngineError> {
        let (mut doomed, mut named) = (Doomed::default(), BTreeSet::new());
        let disks_named: BTreeSet<&DiskName> = targets.iter().filter_map(named_disk).collect();
        for target in targets {
            match target {
                VersionName::Head(disk) => {
                    let may_go =
                        |clone: &DiskName| options.recursive || disks_named.contains(clone);
                    self.doom_disk(disk, options, may_go, &mut doomed).await?;
                }
                VersionName::Snapshot(name) => {
                    let (disk, version) = self.inspect_snapshot(name).await?;
                    if !named.insert(version.id) {
                        return Err(EngineError::NamedTwice { name: name.to_string() });
                    }
                    doomed.snapshots.push((disk, version));
                }
            }
        }
        let Doomed { disks, snapshots } = &mut doomed;
        // The others go with their disks.
        snapshots.retain(|(disk, _)| !disks.iter().any(|other| other.row.id == disk.id));
        Ok(doomed)
    }

    async fn inspect_snapshot(
        &self,
        name: &SnapshotName,
    ) -> Result<(DiskRow, VersionRow), EngineError> {
        let (disk, version) = {
            let mut view = self.store().catalogue.read().await;
            snapshot_row(&Rows::new(&mut view), name).await?
        };
        if version.sealed {
            return Err(EngineError::Sealed { name: name.to_string() });
        }
        self.check_unpinned(version.id, &name.to_string())?;
        Ok((disk, version))
    }

    /// The disk and everything cloned from it, those first: all of these have to be allowed to
    /// go, too.
    async fn doom_disk(
        &self,
        name: &DiskName,
        options: DeleteOptions,
        may_go: impl Fn(&DiskName) -> bool,
        doomed: &mut Doomed,
    ) -> Result<(), EngineError> {
        let mut waiting = vec![name.clone()];
        let mut found: Vec<DoomedDisk> = Vec::new();
        while let Some(name) = waiting.pop() {
            let Inspected { disk, dependents, obstacle } = self.inspect_disk(&name).await?;
            let row = &disk.row;
            if doomed.has_disk(row.id) || found.iter().any(|other| other.row.id == row.id) {
                continue;
            }
            if !dependents.iter().all(&may_go) {
                let stay = dependents.iter().filter(|name| !may_go(name));
                let dependents = stay.map(ToString::to_string).collect();
                return Err(EngineError::HasDependents { name: name.to_string(), dependents });
            }
            if row.snapshot_count > 0 && !options.recursive {
                let (disk, snapshot_count) = (name.to_string(), row.snapshot_count);
                return Err(EngineError::HasSnapshots { disk, snapshot_count });
            }
            obstacle.map_or(Ok(()), Err)?;
            waiting.extend(dependents);
            found.push(disk);
        }
        doomed.disks.extend(found.into_iter().rev());
        Ok(())
    }

    async fn inspect_disk(&self, name: &DiskName) -> Result<Inspected, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let row = disk_row(&rows, name).await?;
        self.check_unused(&rows, &row).await?;
        let (mut dependents, mut owned_blocks, mut obstacle) = (BTreeMap::new(), 0, None);
        let mut snapshots = Vec::new();
        let mut from = Epoch::ZERO;
        loop {
            let page = rows.list_versions(row.id, from, PAGE_ROWS).await?;
            for version in &page {
                let label = version.label.as_deref().unwrap_or("(head)");
                let full_name = format!("{name}@{label}");
                if let Err(error) = self.check_unpinned(version.id, &full_name) {
                    obstacle.get_or_insert(error);
                }
                if version.sealed {
                    obstacle.get_or_insert(EngineError::Sealed { name: full_name.clone() });
                }
                owned_blocks += version.owned_blocks;
                if version.kind == VersionKind::Snapshot && !version.hidden {
                    snapshots.extend(version.label.as_ref().map(|_| full_name));
                }
                foreign_children(&rows, version, &mut dependents).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = last.epoch.next(),
                _ => break,
            }
        }
        let dependents = dependents.into_values().collect();
        let disk = DoomedDisk { row, snapshots, owned_bytes: bytes_of(owned_blocks) };
        Ok(Inspected { disk, dependents, obstacle })
    }

    async fn check_unused<P: Pages<Error = CatalogueError>>(
        &self,
        rows: &Rows<'_, P>,
        row: &DiskRow,
    ) -> Result<(), EngineError> {
        let name = row.name.to_string();
        let users = match self.disks().get(&row.id) {
            Some(disk) => disk.clients(),
            None => Vec::new(),
        };
        if !users.is_empty() {
            let remedy = "disconnect it first";
            return Err(EngineError::InUse { name, users, remedy });
        }
        if rows.get_attachment(row.id).await?.is_some() {
            let users = vec!["its attachment".to_owned()];
            let remedy = "run `bough detach` first";
            return Err(EngineError::InUse { name, users, remedy });
        }
        Ok(())
    }

    fn check_unpinned(&self, version: VersionId, name: &str) -> Result<(), EngineError> {
        if !self.pins().contains_key(&version) {
            return Ok(());
        }
        let users = vec!["a reader (an export or a comparison)".to_owned()];
        let remedy = "try again when that is done";
        Err(EngineError::InUse { name: name.to_owned(), users, remedy })
    }
}

/// Adds the disks (by number) of the versions that began from `version` and belong to others.
async fn foreign_children<P: Pages<Error = CatalogueError>>(
    rows: &Rows<'_, P>,
    version: &VersionRow,
    dependents: &mut BTreeMap<DiskId, DiskName>,
) -> Result<(), EngineError> {
    let mut from = VersionId(0);
    loop {
        let children = rows.list_children(version.id, from, PAGE_ROWS).await?;
        for child in &children {
            let child = rows.child_listed(version.id, *child).await?;
            if child.disk == version.disk {
                continue;
            }
            if let Some(disk) = rows.get_disk(child.disk).await?.filter(|disk| !disk.deleting) {
                dependents.insert(disk.id, disk.name);
            }
        }
        match children.last() {
            Some(last) if children.len() == PAGE_ROWS => from = VersionId(last.0 + 1),
            _ => return Ok(()),
        }
    }
}
