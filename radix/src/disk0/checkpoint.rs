//! Merging disk 0's overlay into its tree, and naming the new root in the superblock pair.

use bough_blockstore::{
    BlockAddr, BlockBuf, BlockCount, Device, Epoch, PoolRun, Superblock, write_pair,
};

use super::open::reserve_pool;
use super::view::EPOCH;
use super::{CatalogueError, Disk0, Pool};
use crate::cache::NodeCache;
use crate::gate::ReadGate;
use crate::merge::{MergeContext, Merged, NodeSink, Ownership, merge};
use crate::node::{Node, Root};
use crate::overlay::Overlay;
use crate::path::Position;
use crate::tree_error::OnDamage;
use crate::updates::updates_of;

/// Writes disk 0's nodes into the pool.
pub(super) struct PoolSink<'a> {
    pub pool: &'a Pool,
    pub device: &'a dyn Device,
}

impl NodeSink for PoolSink<'_> {
    type Error = CatalogueError;

    async fn put(&mut self, _: Position, node: &Node) -> Result<BlockAddr, CatalogueError> {
        let full = || CatalogueError::Full { total_bytes: self.pool.total() * 4096 };
        let at = self.pool.take(None, 1).ok_or_else(full)?[0].start;
        let mut buf = BlockBuf::stale(1);
        buf.copy_from_slice(node.bytes());
        self.device.write(at, buf.share()).await?;
        Ok(at)
    }
}

/// Merges everything in `overlay` into `root`; gives the merge and the blocks nobody sees.
pub(super) async fn merge_overlay(
    cache: &NodeCache,
    sink: &mut PoolSink<'_>,
    root: Root,
    overlay: &Overlay,
) -> Result<(Merged, Vec<BlockAddr>), CatalogueError> {
    let layer = overlay.layers(&[EPOCH]).pop().unwrap_or_default();
    let context = MergeContext {
        birth: EPOCH,
        ownership: Ownership::after(Epoch::ZERO),
        on_damage: OnDamage::Fail,
    };
    let merged = merge(cache, sink, root, updates_of(&layer.changes), context).await?;
    Ok((merged, layer.dropped))
}

impl Disk0 {
    /// Crash ordering: (1) every commit so far is durable, (2) the new nodes are, (3) the
    /// superblock pair names them and cuts the chain; only then (4) is anything replaced used
    /// again. The caller holds the writer's lock, so no record is under way meanwhile.
    pub(super) async fn checkpoint(
        &self,
        superblock: &mut Superblock,
    ) -> Result<(), CatalogueError> {
        let done = self.merge_and_name(superblock).await;
        if let Err(error) = &done {
            // What the device kept of the superblocks is unknown: only reopening can tell.
            let _ = self.halted.set(error.clone());
        }
        done
    }

    async fn merge_and_name(&self, superblock: &mut Superblock) -> Result<(), CatalogueError> {
        self.chain.flush().await?;
        // A copy: readers need the overlay for as long as the merge takes.
        let (root, overlay) = {
            let view = self.view.lock();
            (view.root, view.overlay.clone())
        };
        if overlay.is_empty() {
            return Ok(());
        }
        let mut sink = PoolSink { pool: &self.pool, device: &*self.device };
        let (merged, dropped) = merge_overlay(&self.cache, &mut sink, root, &overlay).await?;
        self.device.sync().await?;
        let start = self.chain.with_published(|start| start);
        superblock.root = merged.root.encode();
        superblock.chain = start;
        write_pair(&self.raw_device, superblock).await?;
        superblock.generation += 1;
        {
            let mut view = self.view.lock();
            view.root = merged.root;
            view.overlay = Overlay::default();
        }
        self.chain.truncate(&start);
        free(&self.gate, &[&merged.freed, &dropped]);
        Ok(())
    }

    /// Makes the store larger: `size` blocks in all, `run` more for the catalogue.
    pub async fn grow(&self, size: BlockCount, run: Option<PoolRun>) -> Result<(), CatalogueError> {
        let mut superblock = self.writer.write().await;
        self.checkpoint(&mut superblock).await?;
        if let Some(run) = run {
            reserve_pool(&self.raw_device, run).await?;
        }
        let mut grown = superblock.clone();
        grown.size = size;
        grown.pool.extend(run);
        write_pair(&self.raw_device, &grown).await?;
        grown.generation += 1;
        *superblock = grown;
        if let Some(run) = run {
            self.mirror.add_run(run);
            self.pool.add_run(run);
        }
        Ok(())
    }
}

fn free(gate: &ReadGate, lists: &[&[BlockAddr]]) {
    for list in lists {
        gate.defer(list);
    }
}
