//! Merging an overlay into trees: one for each snapshot taken meanwhile, and one for the head.

use std::sync::Arc;

use bough_blockstore::{BlockAddr, BlockBuf, DiskId, Epoch, IoFuture, to_u64};

use crate::catalogue::{Rows, VersionRow};
use crate::disk0::CatalogueError;
use crate::engine::{BrokenRule, EngineError};
use crate::merge::{MergeContext, NodeSink, Ownership, ReclaimedBelow, merge};
use crate::node::{Node, Root};
use crate::overlay::{Change, Overlay};
use crate::path::Position;
use crate::space::Need;
use crate::store::{BitChanges, Store};
use crate::tree_error::{OnDamage, Unreadable};
use crate::updates::updates_of;

/// Node writes under way at once.
const WRITES_AT_ONCE: usize = 32;
/// Blocks asked for when a checkpoint runs out of them.
const GRANT_BLOCKS: u64 = 64;

/// Writes a disk's new nodes into its extents.
pub(crate) struct TreeSink {
    store: Arc<Store>,
    disk: DiskId,
    writes: Vec<IoFuture<()>>,
    /// Blocks taken for nodes.
    pub nodes: Vec<BlockAddr>,
    /// Promised nodes not yet taken.
    promised: u64,
}

impl TreeSink {
    /// `promised`: how many nodes have been promised to this merge.
    pub fn new(store: &Arc<Store>, disk: DiskId, promised: u64) -> Self {
        let store = Arc::clone(store);
        Self { store, disk, writes: Vec::new(), nodes: Vec::new(), promised }
    }

    /// Waits for all writes under way.
    pub async fn finish(&mut self) -> Result<(), EngineError> {
        let mut failure = None;
        for write in self.writes.drain(..) {
            if let Err(error) = write.await {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), |error| Err(EngineError::Device(error)))
    }

    /// Promises as much again as was taken, as far as there is room: what has been put is
    /// committed, and more is to come. The promise as it is then.
    pub fn renew(self) -> u64 {
        let again = to_u64(self.nodes.len());
        match self.store.space().promise(self.disk, Need::Checkpoint, again) {
            Ok(()) => self.promised + again,
            Err(_) => self.promised,
        }
    }

    /// Gives back what a failed merge took, which nobody else has read: the promise is what it
    /// was, for the next attempt.
    pub async fn undo(mut self) -> u64 {
        let _ = self.finish().await;
        let mut space = self.store.space();
        space.give_back(&self.nodes);
        let again = to_u64(self.nodes.len());
        // There is room: these very blocks.
        match space.promise(self.disk, Need::Checkpoint, again) {
            Ok(()) => self.promised + again,
            Err(_) => self.promised,
        }
    }

    /// Ends the promise, the merge needing no more nodes, but for at most `others`; how much that
    /// is.
    pub fn settle_but(&mut self, others: u64) -> u64 {
        let kept = self.promised.min(others);
        self.store.space().settle(self.disk, self.promised - kept);
        self.promised = 0;
        kept
    }

    async fn take(&mut self) -> Result<BlockAddr, EngineError> {
        if self.promised == 0 {
            // Not foreseen: only what has been promised to nobody.
            let promise = self.store.space().promise(self.disk, Need::Checkpoint, 1);
            promise.map_err(|_| EngineError::StoreFull)?;
            self.promised = 1;
        }
        let near = self.nodes.last().map(|last| last.next());
        loop {
            if let Some(taken) = self.store.take_promised(self.disk, near) {
                self.promised -= 1;
                return Ok(taken);
            }
            if !self.store.grant(self.disk, GRANT_BLOCKS, Need::Checkpoint).await?
                && !self.store.grant(self.disk, 1, Need::Checkpoint).await?
            {
                return Err(EngineError::StoreFull);
            }
        }
    }
}

impl NodeSink for TreeSink {
    type Error = EngineError;

    async fn put(&mut self, _: Position, node: &Node) -> Result<BlockAddr, EngineError> {
        let at = self.take().await?;
        self.nodes.push(at);
        let mut buf = BlockBuf::stale(1);
        buf.copy_from_slice(node.bytes());
        self.writes.push(self.store.device.write(at, buf.share()));
        if self.writes.len() >= WRITES_AT_ONCE {
            self.finish().await?;
        }
        Ok(at)
    }
}

/// One version's part of a merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergedVersion {
    pub root: Root,
    pub referenced_delta: i64,
    pub owned_delta: i64,
}

/// What a checkpoint has to commit.
#[derive(Default)]
pub(crate) struct MergedLayers {
    /// Oldest first; the last one is the head's, or the oldest version still incomplete.
    pub versions: Vec<MergedVersion>,
    pub bits: BitChanges,
    /// Data that no surviving version sees: never in a tree.
    pub dropped: Vec<BlockAddr>,
    /// What was below nodes that could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// Where a merge begins: the tree, how its oldest version owns, what becomes of damaged nodes.
#[derive(Clone, Copy)]
pub(crate) struct Base {
    pub root: Root,
    pub ownership: Ownership,
    pub on_damage: OnDamage,
}

/// Merges `overlay` for versions of these `epochs` (the last takes everything newer).
pub(crate) async fn merge_layers(
    store: &Store,
    sink: &mut TreeSink,
    base: Base,
    overlay: &Overlay,
    epochs: &[Epoch],
) -> Result<MergedLayers, EngineError> {
    let mut merged = MergedLayers::default();
    let Base { mut root, mut ownership, on_damage } = base;
    for (layer, &epoch) in overlay.layers(epochs).into_iter().zip(epochs) {
        let context = MergeContext { birth: epoch, ownership, on_damage };
        let result = merge(&store.cache, sink, root, updates_of(&layer.changes), context).await?;
        // The next version's merge reads what this one wrote.
        sink.finish().await?;
        root = result.root;
        merged.versions.push(MergedVersion {
            root,
            referenced_delta: result.referenced_delta,
            owned_delta: result.owned_delta,
        });
        merged.bits.set.extend(layer.changes.iter().filter_map(|change| match change {
            Change::Data(_, point) => Some(point.addr),
            Change::Zero(_) => None,
        }));
        merged.bits.clear.extend(result.freed);
        merged.unreadable.extend(result.unreadable);
        merged.dropped.extend(layer.dropped);
        ownership = Ownership::after(epoch);
    }
    merged.bits.set.extend(&sink.nodes);
    Ok(merged)
}

/// How `version` owns its blocks: judged by its parent, or, below the cursor of a parent that is
/// being reclaimed, by its grandparent.
pub(crate) async fn ownership_of(
    store: &Store,
    version: &VersionRow,
) -> Result<Ownership, CatalogueError> {
    if store.config.breaks(BrokenRule::OwnershipByOwnEpoch) {
        return Ok(Ownership::after(Epoch::of(version.epoch.raw() - 1)));
    }
    let mut view = store.catalogue.read().await;
    let rows = Rows::new(&mut view);
    let Some(parent) = version.parent else { return Ok(Ownership::after(Epoch::ZERO)) };
    let parent = rows.version(parent).await?;
    let mut ownership = Ownership::after(parent.epoch);
    if let Some(reclaim) = rows.get_reclaim(parent.id).await?
        && reclaim.cursor > 0
    {
        let grandparent_epoch = match parent.parent {
            Some(id) => rows.version(id).await?.epoch,
            None => Epoch::ZERO,
        };
        ownership.below = Some(ReclaimedBelow { cursor: reclaim.cursor, grandparent_epoch });
    }
    Ok(ownership)
}
