//! Changing the catalogue: pages are gathered, staged as one group, and made durable.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bough_blockstore::{DiskId, Group, Sequence, Superblock, Ticket, VirtualBlock};
use tokio::sync::RwLockWriteGuard;

use super::{CatalogueError, Disk0};
use crate::btree::{Page, Pages};

/// How much of the pool a commit may leave free: the last blocks are kept for what frees others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// New rows: disks, snapshots, clones.
    Ordinary,
    /// Deletes, reclaim, checkpoints: what makes room.
    Release,
    /// What [`Need::Release`] had room for a moment ago, when it was built to find that out.
    TriedOut,
}

/// A change being built. Nothing of it exists for anybody else until it is staged; dropping it
/// forgets it.
pub struct Commit<'a> {
    disk0: &'a Disk0,
    guard: RwLockWriteGuard<'a, Superblock>,
    dirty: BTreeMap<u64, Arc<Page>>,
    need: Need,
}

/// A change that readers see, on its way to being durable.
#[must_use = "a staged commit is not durable before `durable` says so"]
pub struct Staged<'a> {
    disk0: &'a Disk0,
    ticket: Option<Ticket>,
}

impl Disk0 {
    /// Begins a change; others wait until it is staged or dropped.
    pub async fn begin(&self, need: Need) -> Result<Commit<'_>, CatalogueError> {
        let mut guard = self.writer.write().await;
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        if self.wants_checkpoint() {
            self.make_room(&mut guard).await?;
        }
        Ok(Commit { disk0: self, guard, dirty: BTreeMap::new(), need })
    }

    /// The chain is kept to an eighth of the pool.
    fn wants_checkpoint(&self) -> bool {
        let total = self.pool.total();
        let chain_blocks = self.chain.stats().bytes / 4096;
        chain_blocks > total / 8 || self.pool.free_count() < total / 3
    }

    /// Boxed: rare, and large; no commit should carry its state along.
    fn make_room<'s>(
        &'s self,
        superblock: &'s mut Superblock,
    ) -> Pin<Box<dyn Future<Output = Result<(), CatalogueError>> + 's>> {
        Box::pin(async {
            self.checkpoint(superblock).await?;
            // What it freed may still be read.
            self.gate.drained().await;
            Ok(())
        })
    }

    fn floor(&self, need: Need) -> u64 {
        match need {
            Need::Ordinary => self.pool.total() / 4,
            Need::Release => self.pool.total() / 8,
            Need::TriedOut => self.pool.total() / 16,
        }
    }
}

impl<'a> Commit<'a> {
    /// Makes the change visible and sends it on its way. `requires`: the records that other
    /// disks' chains must hold for the change to count after a crash.
    ///
    /// # Errors
    /// Where the pool has no room (nothing has changed then), or the store has halted.
    pub async fn stage(
        mut self,
        requires: &[(DiskId, Sequence)],
    ) -> Result<Staged<'a>, CatalogueError> {
        let disk0 = self.disk0;
        if self.dirty.is_empty() {
            return Ok(Staged { disk0, ticket: None });
        }
        self.make_room(requires.len()).await?;
        let blocks: Vec<(VirtualBlock, &[u8; 4096])> = self
            .dirty
            .iter()
            .map(|(&page, content)| (VirtualBlock::of(page), &***content))
            .collect();
        {
            let mut view = disk0.view.lock();
            for (&page, content) in &self.dirty {
                let crc = crc32fast::hash(&content[..]);
                view.unpublished.insert(page, (crc, Arc::clone(content)));
                view.pages.put(page, Arc::clone(content));
            }
        }
        let group = Group { zeros: &[], blocks: &blocks, requires };
        let ticket = disk0.chain.stage_group(&group)?;
        Ok(Staged { disk0, ticket: Some(ticket) })
    }

    /// Sees to it that `more` pages or requirements fit besides what is there already. Who has to
    /// change other state before staging asks first. Nobody is refused while a checkpoint of the
    /// catalogue could make room.
    ///
    /// # Errors
    /// [`CatalogueError::Full`]; nothing has changed.
    pub async fn make_room(&mut self, more: usize) -> Result<(), CatalogueError> {
        if self.has_room(more) {
            return Ok(());
        }
        self.disk0.make_room(&mut self.guard).await?;
        if self.has_room(more) {
            return Ok(());
        }
        Err(CatalogueError::Full { total_bytes: self.disk0.pool.total() * 4096 })
    }

    /// Whether anything was changed.
    pub fn is_changed(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether `more` pages or requirements fit besides what is there already, as things are.
    pub fn has_room(&self, more: usize) -> bool {
        let entries = self.dirty.len() + more;
        let needed = u64::try_from(entries + entries / 128 + 4).unwrap_or(u64::MAX);
        let floor = self.disk0.floor(self.need);
        self.disk0.pool.free_count() >= needed.saturating_add(floor)
    }
}

impl Pages for Commit<'_> {
    type Error = CatalogueError;

    async fn get(&self, page: VirtualBlock) -> Result<Arc<Page>, CatalogueError> {
        match self.dirty.get(&page.raw()) {
            Some(content) => Ok(Arc::clone(content)),
            None => self.disk0.page(page).await,
        }
    }

    fn put(&mut self, page: VirtualBlock, content: Page) {
        self.dirty.insert(page.raw(), Arc::new(content));
    }
}

impl Staged<'_> {
    /// Waits until the change survives a power cut.
    ///
    /// # Errors
    /// Where the store halted: whether the change counts is decided when it is opened again.
    pub async fn durable(self) -> Result<(), CatalogueError> {
        if let Some(ticket) = self.ticket {
            self.disk0.chain.durable(ticket).await?;
        }
        Ok(())
    }
}
