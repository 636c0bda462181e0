//! Verifying both copies of everything that the catalogue consists of, and mending one from the
//! other.
//!
//! Never changes what a block says: a damaged copy is written again with the bytes that its
//! checksum promises, so a crash in the middle leaves at worst what there was.

use bough_blockstore::{BlockAddr, BlockBuf, BlockRun, PoolRun, Superblock, read_pair, write_pair};
use tokio::sync::RwLockWriteGuard;

use super::{CatalogueError, Disk0};
use crate::node::{Entry, Node};
use crate::path::Position;
use crate::walk::{Found, Onward, walk};

/// A copy that was not what it should have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedCopy {
    /// Its block; none for a superblock.
    pub block: Option<BlockAddr>,
    /// What has become of it.
    pub outcome: Outcome,
}

/// Whether damaged copies are written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// From the other one.
    Mend,
    /// Only told of.
    Leave,
}

/// What has become of a damaged copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was written again from the other copy.
    Mended,
    /// The other copy is damaged as well.
    Lost,
}

/// Verified bytes of one copy, if they are that.
type Whole = Option<BlockBuf>;

impl Disk0 {
    /// Reads both copies of everything. Commits wait meanwhile.
    pub async fn scrub(&self, copies: Copies) -> Result<Vec<DamagedCopy>, CatalogueError> {
        let mut superblock = self.writer.write().await;
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        // With an empty chain the tree is all there is.
        self.checkpoint(&mut superblock).await?;
        let mut found = Vec::new();
        self.scrub_superblocks(&mut superblock, &mut found).await?;
        let superblock = RwLockWriteGuard::downgrade(superblock);
        for (position, entry) in self.everything().await {
            self.scrub_block(&superblock.pool, position, entry, copies, &mut found).await?;
        }
        self.raw_device.sync().await?;
        Ok(found)
    }

    async fn scrub_superblocks(
        &self,
        superblock: &mut Superblock,
        found: &mut Vec<DamagedCopy>,
    ) -> Result<(), CatalogueError> {
        let whole = read_pair(&self.raw_device).await.is_ok_and(|pair| !pair.repaired);
        if !whole {
            write_pair(&self.raw_device, superblock).await?;
            superblock.generation += 1;
            found.push(DamagedCopy { block: None, outcome: Outcome::Mended });
        }
        Ok(())
    }

    /// The tree's nodes and pages; what lies below an unreadable node is not among them.
    async fn everything(&self) -> Vec<(Position, Entry)> {
        let root = self.view.lock().root;
        let mut all = Vec::new();
        walk(&self.cache, root, |found| {
            if let Found::Entry { position, entry } = found {
                all.push((position, entry));
            }
            Onward::Down
        })
        .await;
        all
    }

    async fn scrub_block(
        &self,
        pool: &[PoolRun],
        position: Position,
        entry: Entry,
        copies: Copies,
        found: &mut Vec<DamagedCopy>,
    ) -> Result<(), CatalogueError> {
        let Some(primary) = entry.pointer() else { return Ok(()) };
        let mirror = mirror_of(pool, primary).ok_or(CatalogueError::Misused { addr: primary })?;
        let first = self.verified(primary, position, &entry).await;
        let second = self.verified(mirror, position, &entry).await;
        let (damaged, whole) = match (first, second) {
            (Some(_), Some(_)) => return Ok(()),
            (None, Some(whole)) => (primary, whole),
            (Some(whole), None) => (mirror, whole),
            (None, None) => {
                found.push(DamagedCopy { block: Some(primary), outcome: Outcome::Lost });
                return Ok(());
            }
        };
        if copies == Copies::Mend {
            self.raw_device.write(damaged, whole.share()).await?;
        }
        found.push(DamagedCopy { block: Some(damaged), outcome: Outcome::Mended });
        Ok(())
    }

    async fn verified(&self, at: BlockAddr, position: Position, entry: &Entry) -> Whole {
        let read = self.raw_device.read(at, 1).await.ok()?;
        let good = match position.level {
            0 => crc32fast::hash(read.block(0)) == entry.crc(),
            _ => Node::decode(read.block(0), position, entry).is_ok(),
        };
        good.then_some(read)
    }
}

fn mirror_of(pool: &[PoolRun], block: BlockAddr) -> Option<BlockAddr> {
    let inside = |run: &&PoolRun| BlockRun { start: run.primary, count: run.count }.contains(block);
    pool.iter().find(inside).map(|run| run.mirror.plus(block.raw() - run.primary.raw()))
}
