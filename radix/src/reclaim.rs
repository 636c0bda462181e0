//! Freeing a version.

use bough_blockstore::{BlockAddr, Epoch};

use crate::cache::NodeCache;
use crate::node::Root;
use crate::tree_error::{OnDamage, TreeError, Unreadable};

/// A version on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reclaim {
    /// Its tree.
    pub victim: Root,
    /// The tree of its only child, as committed together with the cursor; none where it has none.
    pub child: Option<Root>,
    /// The epoch of its parent; [`Epoch::ZERO`] where it has none.
    pub parent_epoch: Epoch,
    /// Where the last committed step ended; 0 at first.
    pub cursor: u64,
    /// About how many blocks to free or look at in this step.
    pub budget_blocks: u64,
    /// What to do about unreadable nodes.
    pub on_damage: OnDamage,
}

/// What a step found. Freed blocks and cursor are committed together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Blocks (data and nodes) that belonged to the victim alone.
    pub freed: Vec<BlockAddr>,
    /// How many of them are data.
    pub freed_data: u64,
    /// The new cursor; none when the victim is done and its row can go.
    pub next: Option<u64>,
    /// Subtrees given up; always empty with [`OnDamage::Fail`].
    pub unreadable: Vec<Unreadable>,
}

/// Finds the next blocks that the victim owns and its child does not point at.
///
/// # Errors
/// Where a node cannot be read and that is not to be tolerated; nothing has changed then.
pub async fn reclaim_step(cache: &NodeCache, reclaim: Reclaim) -> Result<Step, TreeError> {
    let _ = (cache, reclaim);
    todo!()
}
