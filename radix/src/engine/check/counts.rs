//! The numbers that commits keep: of versions, of disks, of the store.
//!
//! They are shown without a walk, and decided by: what a delete releases, when a hidden version
//! may be reclaimed, whether the store is full, which number comes next.

use super::subject::{Base, Subject, name_of};
use super::tally::{Mend, Tally};
use crate::btree::Totals;
use crate::catalogue::{DiskRow, ReclaimRow, Rows, VersionId, VersionRow};
use crate::disk0::Snapshot;
use crate::engine::EngineError;
use crate::info::Severity;

const PAGE_ROWS: usize = 256;
const OWN: &str = "blocks of its own";

/// What a walk has found of one version.
#[derive(Default)]
pub(super) struct OfVersion {
    /// Data blocks that are its own.
    pub owned: i128,
    /// How many more it refers to than its base does; none where that could not be compared.
    pub more_than_base: Option<i128>,
    /// Something of it could not be counted.
    pub is_partial: bool,
}

/// What is found of the store as a whole.
#[derive(Default)]
pub(super) struct OfStore {
    totals: Totals,
    disks_end: u64,
    versions_end: u64,
    epochs_end: u64,
    /// The version being reclaimed, with what it still owns where that could be counted.
    victim: Option<(VersionId, Option<i128>)>,
}

impl OfStore {
    pub fn note_disk(&mut self, disk: &DiskRow, snapshots: u64) {
        self.totals.disks += u64::from(!disk.deleting);
        self.totals.snapshots += snapshots;
        self.disks_end = self.disks_end.max(u64::from(disk.id.0) + 1);
    }

    pub fn note_version(&mut self, row: &VersionRow) {
        self.versions_end = self.versions_end.max(row.id.0.saturating_add(1));
        self.epochs_end = self.epochs_end.max(row.epoch.raw().saturating_add(1));
    }

    /// Holds a version's row against what was found of its tree.
    pub fn compare_version(&mut self, subject: &Subject, found: &OfVersion, tally: &mut Tally) {
        tally.partial |= found.is_partial;
        let row = &subject.row;
        if subject.void_below > 0 {
            self.victim = Some((row.id, (!found.is_partial).then_some(found.owned)));
            return;
        }
        if found.is_partial {
            return;
        }
        if let Some(owned) = self.owned_in_row(subject, found) {
            compare_own(&subject.name, row, owned, tally);
        }
        if let Some(referenced) = referenced(subject, found, tally) {
            let kept = i128::from(row.referenced_blocks);
            let is_wrong =
                tally.compare(Some(&subject.name), "blocks referred to", kept, referenced);
            if is_wrong && let Ok(blocks) = i64::try_from(referenced) {
                tally.mends.push(Mend::Referenced(row.id, blocks));
            }
            tally.remember_wrong(row.id, kept - referenced);
        }
    }

    /// What the row has to say that the version owns. What it has got from a parent half
    /// reclaimed is added only when that is done: until then the two own what they own together.
    fn owned_in_row(&self, subject: &Subject, found: &OfVersion) -> Option<i128> {
        let Some(victim) = &subject.victim else { return Some(found.owned) };
        match self.victim {
            Some((id, owned)) if id == victim.id => Some(found.owned + owned? - victim.left_blocks),
            _ => None,
        }
    }

    /// Counts what is being reclaimed.
    pub async fn count_reclaims(
        &mut self,
        rows: &Rows<'_, Snapshot<'_>>,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let mut from = VersionId(0);
        loop {
            let page = rows.list_reclaims(from, PAGE_ROWS).await?;
            for reclaim in &page {
                self.totals.reclaims += 1;
                self.compare_last_of_its_kind(rows, reclaim, tally).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => {
                    from = VersionId(last.version.0.saturating_add(1));
                }
                _ => return Ok(()),
            }
        }
    }

    /// A version half reclaimed from which nothing began owns what it owned, less what is freed.
    async fn compare_last_of_its_kind(
        &self,
        rows: &Rows<'_, Snapshot<'_>>,
        reclaim: &ReclaimRow,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let Some(row) = rows.get_version(reclaim.version).await? else {
            let message = format!("version {} is to be reclaimed, and gone", reclaim.version);
            tally.find(Severity::Corruption, None, None, message);
            return Ok(());
        };
        let Some((id, Some(owned))) = self.victim else { return Ok(()) };
        if id != row.id || row.child_count > 0 {
            return Ok(());
        }
        if let Some(disk) = rows.get_disk(row.disk).await? {
            let found = owned + i128::from(reclaim.freed_data);
            compare_own(&name_of(&disk, &row), &row, found, tally);
        }
        Ok(())
    }

    /// Holds page 0 of the catalogue against all rows.
    pub async fn compare_page(
        &self,
        rows: &Rows<'_, Snapshot<'_>>,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let (kept, counters) = (rows.totals().await?, rows.counters().await?);
        let found = self.totals;
        tally.compare(None, "disks", kept.disks, found.disks);
        tally.compare(None, "snapshots", kept.snapshots, found.snapshots);
        tally.compare(None, "versions being reclaimed", kept.reclaims, found.reclaims);
        if kept != found {
            tally.mends.push(Mend::Totals(found));
        }
        tally.compare_next("numbers of disks", counters.next_disk.into(), self.disks_end);
        tally.compare_next("numbers of versions", counters.next_version, self.versions_end);
        tally.compare_next("epochs", counters.epoch_lease_end.raw(), self.epochs_end);
        let used_end = tally.used_end();
        tally.compare_next("blocks never granted", counters.virgin_from.raw(), used_end);
        tally.mends.push(Mend::Next {
            disk: self.disks_end,
            version: self.versions_end,
            epoch: self.epochs_end,
            block: used_end,
        });
        Ok(())
    }
}

/// What a version refers to: what its base does, and what differs.
fn referenced(subject: &Subject, found: &OfVersion, tally: &Tally) -> Option<i128> {
    let before = match subject.base {
        Base::Nothing if subject.victim.is_none() => return Some(found.owned),
        Base::Nothing => 0,
        Base::Version { id, referenced_blocks, .. } => {
            i128::from(referenced_blocks) - tally.wrong_by(id)
        }
    };
    found.more_than_base.map(|more| before + more)
}

/// Holds a version's count of children against those that name it as their parent; and looks for
/// it among its own parent's.
pub(super) async fn compare_children(
    rows: &Rows<'_, Snapshot<'_>>,
    disk: &DiskRow,
    row: &VersionRow,
    tally: &mut Tally,
) -> Result<(), EngineError> {
    let name = name_of(disk, row);
    if !rows.is_listed_as_child(row).await? {
        let message = "is missing from the list of what began from its parent".to_owned();
        tally.find(Severity::Corruption, Some(&name), None, message);
    }
    if !rows.is_found_by_label(row).await? {
        let message = "is not found by its name".to_owned();
        tally.find(Severity::Corruption, Some(&name), None, message);
    }
    let (mut from, mut found) = (VersionId(0), 0_u64);
    loop {
        let page = rows.list_children(row.id, from, PAGE_ROWS).await?;
        for child in &page {
            let child = rows.get_version(*child).await?;
            found += u64::from(child.is_some_and(|child| child.parent == Some(row.id)));
        }
        match page.last() {
            Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.0.saturating_add(1)),
            _ => break,
        }
    }
    if tally.compare(Some(&name), "versions that began from it", row.child_count, found) {
        tally.mends.push(Mend::Children(row.id, found));
    }
    Ok(())
}

fn compare_own(name: &str, row: &VersionRow, found: i128, tally: &mut Tally) {
    let is_wrong = tally.compare(Some(name), OWN, row.owned_blocks, found);
    if is_wrong && let Ok(blocks) = i64::try_from(found) {
        tally.mends.push(Mend::Owned(row.id, blocks));
    }
}

/// Holds the count of used blocks against `bits_set` in the bitmaps. Where those are wrong they
/// have been told of bit by bit, and the count may still be that of the trees.
pub(super) async fn compare_used(
    rows: &Rows<'_, Snapshot<'_>>,
    bits_set: u64,
    mended_bits_set: u64,
    tally: &mut Tally,
) -> Result<(), EngineError> {
    let kept = rows.counters().await?.used_blocks;
    if kept != mended_bits_set {
        tally.mends.push(Mend::Used(mended_bits_set));
    }
    let is_that_of_trees = !tally.partial && kept == tally.used_blocks;
    if !is_that_of_trees {
        tally.compare(None, "blocks used", kept, bits_set);
    }
    Ok(())
}
