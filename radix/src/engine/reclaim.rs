//! The reclaimer: frees what deleted versions alone held, one version at a time, in small steps.
//!
//! A step frees blocks and moves the cursor in one commit. The version that began from the victim
//! may be a head that is being written to: its checkpoints and these steps exclude each other.

use bough_blockstore::{BlockAddr, Epoch};
use tokio::sync::oneshot;

use super::hide::queue_reclaim;
use super::{BrokenRule, Engine, EngineError};
use crate::catalogue::{ReclaimRow, RowFault, Rows, VersionId, VersionRow};
use crate::disk0::{Commit, Need as PoolNeed};
use crate::node::Root;
use crate::reclaim::{Reclaim, Step, reclaim_step};
use crate::store::BitChanges;
use crate::tree_error::OnDamage;

const PAGE_ROWS: usize = 64;
/// The shortest run worth giving back to the host: 1 MiB.
const PUNCH_BLOCKS: u64 = 256;

/// What the reclaimer has begun and not finished, of which there is one version at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begun {
    /// Not asked since the store was opened.
    Unknown,
    Nothing,
    Version(VersionId),
}

/// Somebody to reclaim, and who began from it.
struct Victim {
    row: ReclaimRow,
    version: VersionRow,
    child: Option<VersionRow>,
}

impl Engine {
    /// Reclaims whatever is deleted, until the engine closes.
    pub(super) async fn reclaim_forever(&self) {
        let backlog = &self.store().backlog;
        let mut last = 0;
        while let Some(asked) = backlog.next(last).await {
            match self.reclaim_once().await {
                Ok(true) => {
                    backlog.stepped();
                    self.store().runtime.yield_now().await;
                    continue;
                }
                Ok(false) => self.punch_holes().await,
                Err(error) => {
                    tracing::warn!(%error, "reclaiming stops until something else is deleted");
                }
            }
            backlog.answered(asked);
            last = asked;
        }
    }

    /// Reclaims everything that can be reclaimed now and gives it back to the host, step by step:
    /// for who wants to see the space at once. Interrupted, what is left is reclaimed whenever
    /// the store is open.
    ///
    /// # Errors
    /// The first failure.
    pub async fn drain_reclaim(&self) -> Result<(), EngineError> {
        while self.reclaim_once().await? {
            self.punch_in_background().await?;
        }
        // What somebody else's last step freed.
        self.punch_in_background().await
    }

    /// In a task of its own: a caller that goes away leaves no run half way.
    async fn punch_in_background(&self) -> Result<(), EngineError> {
        let (done, waiting) = oneshot::channel();
        let engine = self.clone();
        self.store().runtime.spawn(Box::pin(async move {
            engine.punch_holes().await;
            let _ = done.send(());
        }));
        waiting.await.map_err(|_| EngineError::Closed)
    }

    /// Gives long free runs back to the host. Only large ones: a block written again after that
    /// costs the host an allocation, and the next sync three times what it would.
    async fn punch_holes(&self) {
        loop {
            match self.store().punch(PUNCH_BLOCKS).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "free space is not given back to the host");
                    return;
                }
            }
        }
    }

    /// One step; `false` where there is nothing to do.
    pub(super) async fn reclaim_once(&self) -> Result<bool, EngineError> {
        let mut begun = self.inner.reclaiming.lock().await;
        if *begun == Begun::Unknown {
            *begun = self.find_begun().await?;
        }
        let chosen = match *begun {
            Begun::Version(version) => Some(version),
            _ => self.first_unread().await?,
        };
        let Some(chosen) = chosen else { return Ok(false) };
        // The child's disk first, then the rows again: a checkpoint may have moved its root.
        // Nobody writes to one that is deleted.
        let disk = match self.child_of(chosen).await? {
            Some(child) => self.living_disk(child.disk).await?,
            None => None,
        };
        let _maintenance = match &disk {
            Some(disk) => Some(disk.maintenance.lock().await),
            None => None,
        };
        let Some(victim) = self.victim(chosen).await? else {
            *begun = Begun::Nothing;
            return Ok(true);
        };
        let child_root = match &victim.child {
            Some(child) => Some(self.committed_root(child).await?),
            None => None,
        };
        let parent_epoch = self.epoch_of(victim.version.parent).await?;
        let step = reclaim_step(
            &self.store().cache,
            Reclaim {
                victim: victim.version.root,
                child: child_root,
                parent_epoch,
                cursor: victim.row.cursor,
                budget_blocks: self.store().config.reclaim_step_blocks,
                on_damage: OnDamage::GiveUp,
            },
        )
        .await?;
        for lost in &step.unreadable {
            tracing::error!(position = %lost.position, error = %lost.error, "blocks of a deleted version leak");
        }
        let unfinished = step.next.is_some();
        self.commit_step(&victim, step).await?;
        *begun = if unfinished { Begun::Version(chosen) } else { Begun::Nothing };
        Ok(true)
    }

    /// What an earlier life has begun: looked for among all that is deleted, once.
    async fn find_begun(&self) -> Result<Begun, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let mut from = VersionId(0);
        loop {
            let page = rows.list_reclaims(from, PAGE_ROWS).await?;
            if let Some(begun) = page.iter().find(|row| row.cursor > 0) {
                return Ok(Begun::Version(begun.version));
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.version.0 + 1),
                _ => return Ok(Begun::Nothing),
            }
        }
    }

    /// The first that nobody reads: found at once, but for readers' own snapshots.
    async fn first_unread(&self) -> Result<Option<VersionId>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let mut from = VersionId(0);
        loop {
            let page = rows.list_reclaims(from, PAGE_ROWS).await?;
            for row in &page {
                // A reader's own snapshot may not have a tree yet; a later checkpoint gives it one.
                if !self.pins().contains_key(&row.version)
                    && !rows.version(row.version).await?.pending
                {
                    return Ok(Some(row.version));
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.version.0 + 1),
                _ => return Ok(None),
            }
        }
    }

    async fn child_of(&self, version: VersionId) -> Result<Option<VersionRow>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        Ok(Rows::new(&mut view).first_child(version).await?)
    }

    async fn victim(&self, id: VersionId) -> Result<Option<Victim>, EngineError> {
        let child = self.child_of(id).await?;
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let Some(row) = rows.get_reclaim(id).await? else { return Ok(None) };
        let version = rows.version(id).await?;
        Ok(Some(Victim { row, version, child }))
    }

    /// The tree that holds a version's blocks: its own, or, while it is pending, its disk's.
    async fn committed_root(&self, version: &VersionRow) -> Result<Root, EngineError> {
        if !version.pending {
            return Ok(version.root);
        }
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let disk = rows.get_disk(version.disk).await?.ok_or(RowFault::MissingDisk(version.disk))?;
        Ok(rows.head_of(&disk).await?.root)
    }

    async fn epoch_of(&self, version: Option<VersionId>) -> Result<Epoch, EngineError> {
        let Some(id) = version else { return Ok(Epoch::ZERO) };
        let mut view = self.store().catalogue.read().await;
        Ok(Rows::new(&mut view).version(id).await?.epoch)
    }

    async fn commit_step(&self, victim: &Victim, step: Step) -> Result<(), EngineError> {
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let freed_data = victim.row.freed_data + step.freed_data;
        let all = u64::try_from(step.freed.len()).unwrap_or(u64::MAX);
        let freed_nodes = victim.row.freed_nodes + all.saturating_sub(step.freed_data);
        let mut freed = step.freed;
        if self.store().config.breaks(BrokenRule::FreeBeforeCursor) {
            self.commit_freed(commit, std::mem::take(&mut freed)).await?;
            commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        }
        match step.next {
            Some(cursor) => {
                let row = ReclaimRow { cursor, freed_data, freed_nodes, ..victim.row };
                Rows::new(&mut commit).put_reclaim(&row).await?;
            }
            None => self.bury(&mut commit, victim, freed_data).await?,
        }
        self.commit_freed(commit, freed).await
    }

    async fn commit_freed(
        &self,
        mut commit: Commit<'_>,
        freed: Vec<BlockAddr>,
    ) -> Result<(), EngineError> {
        let changes = BitChanges { set: Vec::new(), clear: freed };
        let pages = self.store().put_bits(&mut commit, &changes).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store().bits_written(&pages);
        self.store().free_committed(&changes.clear);
        Ok(())
    }

    /// The victim's row goes: what it owned and its child still has is the child's from now on.
    async fn bury(
        &self,
        commit: &mut Commit<'_>,
        victim: &Victim,
        freed_data: u64,
    ) -> Result<(), EngineError> {
        let mut rows = Rows::new(commit);
        rows.remove_reclaim(victim.version.id).await?;
        // Its child is asked for again: a snapshot may just have come between the victim and its head.
        if let Some(child) = rows.give_way(&victim.version).await? {
            // What pending snapshots own is counted in their disk's head.
            let disk = if child.pending { rows.get_disk(child.disk).await? } else { None };
            let heir = disk.map_or(child.id, |disk| disk.head);
            let left = victim.version.owned_blocks - i64::try_from(freed_data).unwrap_or(0);
            rows.add_owned(heir, left).await?;
        }
        if let Some(parent) = victim.version.parent {
            queue_reclaim(commit, parent).await?;
        }
        let mut rows = Rows::new(commit);
        let disk = victim.version.disk;
        if rows.get_disk(disk).await?.is_some_and(|row| row.deleting)
            && rows.list_versions(disk, Epoch::ZERO, 1).await?.is_empty()
        {
            rows.remove_disk(disk).await?;
        }
        Ok(())
    }
}
