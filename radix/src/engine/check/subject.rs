//! A version as a check sees it: how it owns, and what it is compared with.

use bough_blockstore::Epoch;

use crate::catalogue::{DiskRow, ReclaimRow, Rows, VersionId, VersionKind, VersionRow};
use crate::disk0::Snapshot;
use crate::engine::EngineError;
use crate::merge::{Ownership, ReclaimedBelow};
use crate::node::Root;
use crate::path::Position;

/// See the module's documentation.
pub(super) struct Subject {
    pub row: VersionRow,
    pub name: String,
    pub ownership: Ownership,
    pub base: Base,
    /// The version that it began from, where that is half reclaimed.
    pub victim: Option<Victim>,
    /// Below it the version itself has been reclaimed: what stands there is void.
    pub void_below: u64,
}

/// The nearest version before another whose whole tree is still there.
pub(super) enum Base {
    /// There is none, and there was none.
    Nothing,
    /// This one, said to refer to so many blocks.
    Version { id: VersionId, root: Root, referenced_blocks: i64 },
}

/// A version half reclaimed into the one that began from it.
pub(super) struct Victim {
    pub id: VersionId,
    /// What it owned and has not been freed: still its own, or its child's.
    pub left_blocks: i128,
}

impl Subject {
    /// None for a pending snapshot, which has no tree of its own: its disk's head stands for it.
    pub async fn new(
        rows: &Rows<'_, Snapshot<'_>>,
        disk: &DiskRow,
        row: VersionRow,
    ) -> Result<Option<Self>, EngineError> {
        if row.pending {
            return Ok(None);
        }
        let mut subject = Self {
            name: name_of(disk, &row),
            ownership: Ownership::after(Epoch::ZERO),
            base: Base::Nothing,
            victim: None,
            void_below: rows.get_reclaim(row.id).await?.map_or(0, |reclaim| reclaim.cursor),
            row,
        };
        if let Some(parent) = parent_in_tree(rows, &subject.row).await? {
            subject.ownership.parent_epoch = parent.epoch;
            match rows.get_reclaim(parent.id).await?.filter(|reclaim| reclaim.cursor > 0) {
                Some(reclaim) => subject.begin_after_victim(rows, &parent, &reclaim).await?,
                None => subject.base = Base::of(&parent),
            }
        }
        Ok(Some(subject))
    }

    async fn begin_after_victim(
        &mut self,
        rows: &Rows<'_, Snapshot<'_>>,
        victim: &VersionRow,
        reclaim: &ReclaimRow,
    ) -> Result<(), EngineError> {
        let mut grandparent_epoch = Epoch::ZERO;
        if let Some(id) = victim.parent {
            let grandparent = rows.version(id).await?;
            grandparent_epoch = grandparent.epoch;
            self.base = Base::of(&grandparent);
        }
        let cursor = reclaim.cursor;
        self.ownership.below = Some(ReclaimedBelow { cursor, grandparent_epoch });
        let left_blocks = i128::from(victim.owned_blocks) - i128::from(reclaim.freed_data);
        self.victim = Some(Victim { id: victim.id, left_blocks });
        Ok(())
    }

    pub fn is_void(&self, position: Position) -> bool {
        position.span().end <= self.void_below
    }

    /// Whether what lies below a position may be the version's though the position is not: the
    /// parent's reclaim cursor stands inside it.
    pub fn is_split(&self, position: Position) -> bool {
        let span = position.span();
        self.ownership
            .below
            .is_some_and(|below| span.start < below.cursor && below.cursor < span.end)
    }
}

impl Base {
    fn of(row: &VersionRow) -> Self {
        Self::Version { id: row.id, root: row.root, referenced_blocks: row.referenced_blocks }
    }
}

/// The nearest version before `row` that has a tree: a head with pending snapshots has the tree
/// of the oldest of them. Ends where epochs do not fall: no store of ours has that.
async fn parent_in_tree(
    rows: &Rows<'_, Snapshot<'_>>,
    row: &VersionRow,
) -> Result<Option<VersionRow>, EngineError> {
    let (mut epoch, mut next) = (row.epoch, row.parent);
    while let Some(id) = next {
        let parent = rows.version(id).await?;
        if !parent.pending || parent.epoch >= epoch {
            return Ok(Some(parent));
        }
        (epoch, next) = (parent.epoch, parent.parent);
    }
    Ok(None)
}

pub(super) fn name_of(disk: &DiskRow, row: &VersionRow) -> String {
    match &row.label {
        Some(label) => format!("{}@{label}", disk.name),
        None if row.kind == VersionKind::Head => disk.name.to_string(),
        None => format!("{}@(deleted)", disk.name),
    }
}
