//! Large discards: cleared from the tree piece by piece, ahead of the checkpoint they belong to.
//!
//! A piece is one commit: the head's new root, its counts, the bits of what that frees. Its size
//! is bounded, so memory, the catalogue and the allocator never see a large discard at once, and
//! whoever waits for the disk (the reclaimer, a verb) comes between two pieces. The chain keeps
//! the discard, synced before the first piece, until the checkpoint: after a crash it is merged
//! once more, and finds holes. Only what the oldest version without a tree of its own has
//! discarded can be cleared ahead; nobody else reads its tree, but through an overlay that has
//! the discard already.

use std::sync::Arc;

use bough_blockstore::{BlockAddr, VirtualRange};

use super::checkpoint::{Frozen, lock};
use super::merge_layers::{TreeSink, ownership_of};
use super::{Disk, Slot};
use crate::catalogue::Rows;
use crate::disk0::Need as PoolNeed;
use crate::engine::EngineError;
use crate::merge::{Cleared, MergeContext, Merged, clear};
use crate::overlay::{Change, Overlay};
use crate::store::BitChanges;

/// What is left to clear of a large discard.
pub(crate) struct Clearing {
    ranges: Vec<VirtualRange>,
    next: u64,
}

impl Clearing {
    /// None where a checkpoint would free no more than one piece anyway.
    fn of(frozen: &Frozen, piece_blocks: u64) -> Option<Self> {
        if frozen.overlay.zeroed_blocks() < piece_blocks {
            return None;
        }
        let oldest = frozen.overlay.layers(&frozen.epochs()).into_iter().next()?;
        let zeros = oldest.changes.into_iter().filter_map(|change| match change {
            Change::Zero(range) => Some(range),
            Change::Data(..) => None,
        });
        let ranges: Vec<VirtualRange> = zeros.collect();
        let next = ranges.first()?.start;
        Some(Self { ranges, next })
    }
}

impl Disk {
    /// Clears a piece, waiting for the disk and letting go of it again; `false` where there is
    /// none.
    pub(super) async fn clear_between(self: &Arc<Self>) -> Result<bool, EngineError> {
        let _maintenance = self.maintenance.lock().await;
        let (chain, plan) = {
            let state = self.lock();
            let Slot::Live(chain) = &state.slot else { return Ok(false) };
            if state.plan.is_none() && !self.is_large_discard(&state.active) {
                return Ok(false);
            }
            (Arc::clone(chain), state.plan.clone())
        };
        let plan = plan.or_else(|| self.freeze(&chain).0);
        match plan {
            Some(frozen) => self.clear_piece(&frozen).await,
            None => Ok(false),
        }
    }

    fn is_large_discard(&self, overlay: &Overlay) -> bool {
        overlay.zeroed_blocks() >= self.store.config.reclaim_step_blocks
    }

    /// Clears the next piece; `false` where there is none. The caller has the disk to itself.
    pub(super) async fn clear_piece(&self, frozen: &Frozen) -> Result<bool, EngineError> {
        let piece_blocks = self.store.config.reclaim_step_blocks;
        let asked = lock(&frozen.clearing).take();
        let clearing = asked.unwrap_or_else(|| Clearing::of(frozen, piece_blocks));
        let Some(clearing) = clearing else {
            *lock(&frozen.clearing) = Some(None);
            return Ok(false);
        };
        let mut sink = TreeSink::new(&self.store, self.id, frozen.take_promise());
        match self.clear_into(frozen, &clearing, &mut sink).await {
            Ok(Cleared { merged, next }) => {
                let committed = self.commit_cleared(frozen, merged, &sink.nodes).await;
                let promised = match &committed {
                    Ok(()) => sink.renew(),
                    // The catalogue had no room: asked for before anything else changed.
                    Err(error) if error.is_no_space() => sink.undo().await,
                    Err(_) => 0,
                };
                *lock(&frozen.promised_nodes) = promised;
                committed?;
                *lock(&frozen.clearing) = Some(next.map(|next| Clearing { next, ..clearing }));
                Ok(next.is_some())
            }
            Err(error) => {
                *lock(&frozen.promised_nodes) = sink.undo().await;
                Err(error)
            }
        }
    }

    async fn clear_into(
        &self,
        frozen: &Frozen,
        clearing: &Clearing,
        sink: &mut TreeSink,
    ) -> Result<Cleared, EngineError> {
        let base = self.lock().base;
        let ownership = ownership_of(&self.store, &self.oldest_row(frozen).await?).await?;
        let birth = frozen.epochs()[0];
        let context = MergeContext { birth, ownership, on_damage: frozen.on_damage() };
        let (cache, budget) = (&self.store.cache, self.store.config.reclaim_step_blocks);
        let cleared = clear(cache, sink, base, &clearing.ranges, clearing.next, budget, context);
        let cleared = cleared.await.inspect_err(|error| frozen.note_failure(error))?;
        sink.finish().await?;
        // The discard itself, too: no tree may be ahead of what a power cut leaves of a log.
        self.store.device.sync().await.map_err(EngineError::Device)?;
        Ok(cleared)
    }

    async fn commit_cleared(
        &self,
        frozen: &Frozen,
        merged: Merged,
        nodes: &[BlockAddr],
    ) -> Result<(), EngineError> {
        let (head_id, base) = {
            let state = self.lock();
            (state.head, state.base)
        };
        if merged.root == base {
            return Ok(());
        }
        let bits = BitChanges { set: nodes.to_vec(), clear: merged.freed };
        let mut commit = self.store.catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        // It has the tree, and the counts, of the oldest version without one of its own.
        let mut head = rows.version(head_id).await?;
        head.epoch = head.epoch.max(frozen.epochs()[0]);
        head.root = merged.root;
        head.referenced_blocks = head.referenced_blocks.saturating_add(merged.referenced_delta);
        head.owned_blocks = head.owned_blocks.saturating_add(merged.owned_delta);
        rows.put_version(&head).await?;
        let pages = self.store.put_bits(&mut commit, &bits).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store.bits_written(&pages);
        self.mourn(&merged.unreadable);
        self.lock().base = merged.root;
        self.store.free_committed(&bits.clear);
        Ok(())
    }
}
