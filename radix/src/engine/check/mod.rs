//! Checking: what all trees use, added up, must be what the space bitmaps say; and every number
//! that commits keep must be what is there.
//!
//! Each version is asked for what it owns alone; what it shares is its ancestors' to show, and
//! must be what its parent has at the same place. What it refers to is what its parent refers to
//! and what differs, so that no tree is walked twice. Nothing stops at the first fault.

mod counts;
mod subject;
mod tally;

use bough_blockstore::{BlockAddr, DiskId, Epoch, VirtualBlock};

use super::{Engine, EngineError, lock};
use crate::btree::Pages;
use crate::catalogue::{DiskRow, Rows, VersionId, VersionKind, VersionRow};
use crate::diff::diff;
use crate::disk0::Snapshot;
use crate::info::{CheckReport, Finding, Severity};
use crate::node::{Entry, Root};
use crate::path::Position;
use crate::space::bitmap_page_of;
use crate::walk::{Found, Onward, walk};

use counts::{OfStore, OfVersion};
use subject::{Base, Subject, name_of};
use tally::{PAGE_BLOCKS, Tally, is_set};

const PAGE_ROWS: usize = 256;

impl Engine {
    /// Walks every version, and compares with the space bitmaps and with all numbers that are
    /// kept. Commits wait meanwhile; reads and writes of guests go on.
    ///
    /// # Errors
    /// Where the catalogue cannot be read: what is wrong with disks is in the report.
    pub async fn check(&self) -> Result<CheckReport, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let mut tally = Tally::default();
        let mut store = OfStore::default();
        let mut from = DiskId(0);
        // A version comes after the one that it began from: disks are numbered as they are made,
        // and epochs grow along every path.
        loop {
            let page = Rows::new(&mut view).list_all_disks(from, PAGE_ROWS).await?;
            for disk in &page {
                self.check_disk(&mut view, disk, &mut store, &mut tally).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = DiskId(last.id.0 + 1),
                _ => break,
            }
        }
        self.check_unlisted(&mut view, &mut store, &mut tally).await?;
        let rows = Rows::new(&mut view);
        store.count_reclaims(&rows, &mut tally).await?;
        store.compare_page(&rows, &mut tally).await?;
        self.compare_bitmaps(&mut view, &mut tally).await?;
        self.add_faults(&mut tally);
        Ok(tally.finish())
    }

    /// All versions of a disk, oldest first.
    async fn check_disk(
        &self,
        view: &mut Snapshot<'_>,
        disk: &DiskRow,
        store: &mut OfStore,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let (mut from, mut snapshots) = (Epoch::ZERO, 0);
        loop {
            let page = Rows::new(view).list_claimed(disk.id, from, PAGE_ROWS).await?;
            for listed in &page {
                let row = Rows::new(view).get_version(listed.version).await?;
                // One that is not what the list says is told of as unlisted.
                let is_it = |row: &VersionRow| row.disk == disk.id && row.epoch == listed.epoch;
                let Some(row) = row.filter(is_it) else { continue };
                snapshots += u64::from(row.is_public_snapshot());
                self.check_version(view, disk, &row, store, tally).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = last.epoch.next(),
                _ => break,
            }
        }
        check_names(&Rows::new(view), disk, tally).await?;
        tally.compare(Some(disk.name.as_str()), "snapshots", disk.snapshot_count, snapshots);
        store.note_disk(disk, snapshots);
        Ok(())
    }

    /// Versions that no disk lists: their blocks are theirs all the same.
    async fn check_unlisted(
        &self,
        view: &mut Snapshot<'_>,
        store: &mut OfStore,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let mut from = VersionId(0);
        loop {
            let page = Rows::new(view).list_all_versions(from, PAGE_ROWS).await?;
            for row in &page {
                let rows = Rows::new(view);
                let is_listed = rows.is_listed(row).await?;
                match rows.get_disk(row.disk).await? {
                    Some(_) if is_listed => {}
                    Some(disk) => {
                        let message = "is missing from its disk's list of versions".to_owned();
                        let name = name_of(&disk, row);
                        tally.find(Severity::Corruption, Some(&name), None, message);
                        self.check_version(view, &disk, row, store, tally).await?;
                    }
                    None => {
                        let message = format!("version {} is of no disk", row.id);
                        tally.find(Severity::Corruption, None, None, message);
                    }
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.id.0 + 1),
                _ => return Ok(()),
            }
        }
    }

    async fn check_version(
        &self,
        view: &mut Snapshot<'_>,
        disk: &DiskRow,
        row: &VersionRow,
        store: &mut OfStore,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        tally.report.versions += 1;
        store.note_version(row);
        let rows = Rows::new(view);
        counts::compare_children(&rows, disk, row, tally).await?;
        let Some(subject) = Subject::new(&rows, disk, row.clone()).await? else { return Ok(()) };
        let mut counts = OfVersion::default();
        walk(&self.store().cache, subject.row.root, |found| match found {
            Found::Entry { position, entry } => meet(&subject, position, entry, &mut counts, tally),
            Found::Unreadable { position, entry, error } => {
                if !subject.is_void(position) {
                    counts.is_partial = true;
                    let message = format!("its node at {position} cannot be read: {error}");
                    tally.find(Severity::Corruption, Some(&subject.name), entry.pointer(), message);
                }
                Onward::Past
            }
        })
        .await;
        self.compare_with_base(&subject, &mut counts, tally).await;
        store.compare_version(&subject, &counts, tally);
        Ok(())
    }

    /// What differs from the parent must be the version's own; and how many more blocks that
    /// makes is counted.
    async fn compare_with_base(
        &self,
        subject: &Subject,
        counts: &mut OfVersion,
        tally: &mut Tally,
    ) {
        let base = match &subject.base {
            _ if subject.void_below > 0 => return,
            // All that it refers to is its own, and has been counted.
            Base::Nothing if subject.victim.is_none() => return,
            Base::Nothing => Root::empty(0),
            Base::Version { root, .. } => *root,
        };
        let root = subject.row.root;
        let blocks = 0..base.capacity().max(root.capacity());
        let mut more = 0;
        let compared = diff(&self.store().cache, base, root, blocks, |difference| {
            let entry = difference.after;
            more += i128::from(entry.is_data()) - i128::from(difference.before.is_data());
            let position = Position::leaf(VirtualBlock::of(difference.range.start));
            let shared = entry.is_data() && !subject.ownership.owns(position, &entry);
            if shared && subject.victim.is_none() {
                let block = difference.range.start;
                let message = format!("its block {block} is shared with nobody that it may be");
                tally.find(Severity::Corruption, Some(&subject.name), entry.pointer(), message);
            }
            std::ops::ControlFlow::Continue(())
        })
        .await;
        // A node that cannot be read has been found by the walk already.
        counts.more_than_base = compared.is_ok().then_some(more);
    }

    async fn compare_bitmaps(
        &self,
        view: &mut Snapshot<'_>,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let total = self.store().space().counts().total;
        let mut bits_set = 0;
        for index in 0..total.div_ceil(PAGE_BLOCKS) {
            let first = BlockAddr::of(index * PAGE_BLOCKS);
            let page = view.get(bitmap_page_of(first)).await?;
            bits_set += page.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            compare_bits(first, &tally.take_page(index), &page, tally);
        }
        counts::compare_used(&Rows::new(view), bits_set, tally).await
    }

    fn add_faults(&self, tally: &mut Tally) {
        for (id, disk) in self.disks().iter() {
            if let Some(message) = disk.fault() {
                let opening = lock(&self.inner.faults);
                tally.report.findings.push(Finding {
                    severity: Severity::Corruption,
                    version: Some(disk.name().to_string()),
                    block: opening.get(id).and_then(|fault| fault.block).map(BlockAddr::raw),
                    message,
                });
            }
        }
    }
}

/// A disk has its head, and is found by its name.
async fn check_names(
    rows: &Rows<'_, Snapshot<'_>>,
    disk: &DiskRow,
    tally: &mut Tally,
) -> Result<(), EngineError> {
    // One that is being deleted has lost its name, and may have lost its head.
    if disk.deleting {
        return Ok(());
    }
    let head = rows.get_version(disk.head).await?;
    if !head.is_some_and(|head| head.disk == disk.id && head.kind == VersionKind::Head) {
        let message = "has a head that is not its own".to_owned();
        tally.find(Severity::Corruption, Some(disk.name.as_str()), None, message);
    }
    if !rows.is_found_by_name(disk).await? {
        let message = "is not found by its name".to_owned();
        tally.find(Severity::Corruption, Some(disk.name.as_str()), None, message);
    }
    Ok(())
}

/// What a version's walk comes upon.
fn meet(
    subject: &Subject,
    position: Position,
    entry: Entry,
    counts: &mut OfVersion,
    tally: &mut Tally,
) -> Onward {
    let Some(addr) = entry.pointer() else { return Onward::Past };
    if subject.is_void(position) {
        return Onward::Past;
    }
    if !subject.ownership.owns(position, &entry) {
        return if subject.is_split(position) { Onward::Down } else { Onward::Past };
    }
    if position.level == 0 {
        tally.report.blocks += 1;
        counts.owned += 1;
    } else {
        tally.report.nodes += 1;
    }
    if tally.mark(addr) {
        return Onward::Down;
    }
    counts.is_partial |= position.level > 0;
    let message = format!("its block at {position} is used twice");
    tally.find(Severity::Corruption, Some(&subject.name), Some(addr), message);
    Onward::Past
}

/// One page of the bitmap, of the blocks from `first` on.
fn compare_bits(first: BlockAddr, used: &[u8; 4096], page: &[u8; 4096], tally: &mut Tally) {
    if used == page {
        return;
    }
    for bit in 0..PAGE_BLOCKS {
        let (severity, message) = match (is_set(used, bit), is_set(page, bit)) {
            (true, false) => (Severity::Corruption, "used by a version, and marked free"),
            (false, true) => (Severity::Leak, "marked used, and used by nobody"),
            _ => continue,
        };
        tally.find(severity, None, Some(first.plus(bit)), message.to_owned());
    }
}
