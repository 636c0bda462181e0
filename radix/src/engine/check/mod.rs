//! Checking: what all trees use, added up, must be what the space bitmaps say; and every number
//! that commits keep must be what is there.
//!
//! Each version is asked for what it owns alone; what it shares is its ancestors' to show, and
//! must be what its parent has at the same place. What it refers to is what its parent refers to
//! and what differs, so that no tree is walked twice. Nothing stops at the first fault.

mod counts;
mod subject;
mod tally;

use bough_blockstore::{BlockAddr, BlockCount, DiskId, Epoch, VirtualBlock};

use super::{Engine, EngineError, Progress, lock};
use crate::btree::Pages;
use crate::catalogue::{DiskRow, Rows, VersionId, VersionKind, VersionRow};
use crate::diff::diff;
use crate::disk0::{CatalogueError, Snapshot};
use crate::info::{CheckReport, Finding, Severity};
use crate::node::{Entry, Root};
use crate::path::Position;
use crate::space::{PAGE_BLOCKS, bitmap_page_of};
use crate::walk::{Found, Onward, walk};

use counts::{OfStore, OfVersion};
use subject::{Base, Subject, name_of};
use tally::is_set;

pub(super) use tally::{Mend, Tally};

const PAGE_ROWS: usize = 256;

/// What to do about a page of the space bitmap of which no copy is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LostPages {
    /// Stop with the error that names it.
    Fail,
    /// Say what should be in it.
    Replace,
}

impl Engine {
    /// Walks every version, and compares with the space bitmaps and with all numbers that are
    /// kept. Commits wait meanwhile; reads and writes of guests go on.
    ///
    /// # Errors
    /// Where the catalogue cannot be read: what is wrong with disks is in the report.
    pub async fn check(&self) -> Result<CheckReport, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let mut tally = self.survey(&mut view, LostPages::Fail, &mut |_| {}).await?;
        self.add_faults(&mut tally);
        Ok(tally.finish())
    }

    /// As [`Engine::check`], with what a repair needs to know.
    pub(super) async fn survey(
        &self,
        view: &mut Snapshot<'_>,
        lost_pages: LostPages,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Tally, EngineError> {
        let mut tally = Tally::default();
        let mut store = OfStore::default();
        let mut from = DiskId(0);
        // A version comes after the one that it began from: disks are numbered as they are made,
        // and epochs grow along every path.
        loop {
            let page = Rows::new(view).list_all_disks(from, PAGE_ROWS).await?;
            for disk in &page {
                self.check_disk(view, disk, &mut store, &mut tally).await?;
                let total_bytes = self.store().space().counts().used * 4096;
                let done_bytes = (tally.used_blocks * 4096).min(total_bytes);
                progress(Progress { done_bytes, total_bytes });
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = DiskId(last.id.0 + 1),
                _ => break,
            }
        }
        self.check_unlisted(view, &mut store, &mut tally).await?;
        let rows = Rows::new(view);
        store.count_reclaims(&rows, &mut tally).await?;
        store.compare_page(&rows, &mut tally).await?;
        self.compare_bitmaps(view, lost_pages, &mut tally).await?;
        Ok(tally)
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
        if tally.compare(Some(disk.name.as_str()), "snapshots", disk.snapshot_count, snapshots) {
            tally.mends.push(Mend::Snapshots(disk.id, snapshots));
        }
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
        lost_pages: LostPages,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let total = self.store().space().counts().total;
        let (mut bits_set, mut mended_bits_set) = (0, 0);
        // What hangs below a node that cannot be read is in use, and nobody knows what that is.
        let may_clear = !tally.partial && !tally.is_torn;
        for index in 0..total.div_ceil(PAGE_BLOCKS) {
            let first = BlockAddr::of(index * PAGE_BLOCKS);
            let used = tally.take_page(index);
            let page = match view.get(bitmap_page_of(first)).await {
                Ok(page) => Box::new(**page),
                Err(CatalogueError::Damaged { addr, .. })
                    if lost_pages == LostPages::Replace && may_clear =>
                {
                    let message = format!("the only two copies of what is used from block {first}");
                    tally.find_mendable(Severity::Corruption, None, Some(addr), message);
                    tally.mends.push(Mend::Bits { index, page: used.clone() });
                    mended_bits_set += ones(&used);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            bits_set += ones(&page);
            let mended = compare_bits(first, &used, &page, may_clear, tally);
            mended_bits_set += ones(&mended);
            if mended != page {
                tally.mends.push(Mend::Bits { index, page: mended });
            }
        }
        counts::compare_used(&Rows::new(view), bits_set, mended_bits_set, tally).await
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
    if subject.is_void(position) {
        return Onward::Past;
    }
    let Some(addr) = entry.pointer() else {
        let blocks = BlockCount::covering(subject.row.size_bytes).0;
        tally.note_lost(&subject.name, &position.span(), blocks);
        return Onward::Past;
    };
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

/// One page of the bitmap, of the blocks from `first` on; what it should be. `may_clear`: every
/// block in use is known.
fn compare_bits(
    first: BlockAddr,
    used: &[u8; 4096],
    page: &[u8; 4096],
    may_clear: bool,
    tally: &mut Tally,
) -> Box<[u8; 4096]> {
    if used == page {
        return Box::new(*page);
    }
    for bit in 0..PAGE_BLOCKS {
        let at = Some(first.plus(bit));
        match (is_set(used, bit), is_set(page, bit)) {
            (true, false) => {
                let message = "used by a version, and marked free".to_owned();
                tally.find_mendable(Severity::Corruption, None, at, message);
            }
            (false, true) => {
                let message = "marked used, and used by nobody".to_owned();
                match may_clear {
                    true => tally.find_mendable(Severity::Leak, None, at, message),
                    false => tally.find(Severity::Leak, None, at, message),
                }
            }
            _ => {}
        }
    }
    let mut mended = Box::new(*used);
    if !may_clear {
        mended.iter_mut().zip(page).for_each(|(byte, kept)| *byte |= kept);
    }
    mended
}

fn ones(page: &[u8; 4096]) -> u64 {
    page.iter().map(|byte| u64::from(byte.count_ones())).sum()
}
