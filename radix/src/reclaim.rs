//! Freeing a version, in steps.
//!
//! I find the blocks that a deleted version owns (born after its parent) and that its only child
//! does not point at; committing them, together with the cursor, is the caller's business. Time is
//! proportional to the difference. Why this frees each block exactly once:
//!
//! - An entry is no younger than the node that holds it, so a node born no later than the parent
//!   has nothing of the victim's below it; and equal pointers share all that is below.
//! - A position is dealt with when the cursor passes the end of its span, a node's own block
//!   therefore after all that is below it. What the child still points at then is the child's:
//!   from that commit on it judges positions before the cursor by the grandparent's epoch
//!   ([`Ownership`](crate::Ownership)).
//! - A cursor inside a node's span means that the child has another node there (a shared one would
//!   have been passed whole), which is the child's own by any measure. So no subtree is
//!   judged by two epochs at once.
//!
//! Neighbouring versions must not be reclaimed at once: the child's pointers are what saves blocks.

use std::sync::Arc;

use bough_blockstore::{BlockAddr, Epoch, to_u64};

use crate::cache::NodeCache;
use crate::node::{Entry, Node, Root};
use crate::path::{FAN_OUT, Position};
use crate::read_ahead::warm_slots;
use crate::side::{At, Below, at_height};
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

/// Finds the next blocks that the victim owns and its child does not point at. Every step makes
/// progress, however small its budget.
///
/// # Errors
/// Where a node cannot be read and that is not to be tolerated; nothing has changed then.
pub async fn reclaim_step(cache: &NodeCache, reclaim: Reclaim) -> Result<Step, TreeError> {
    let mut sweep =
        Sweep { cache, reclaim, open: Vec::new(), nodes_read: 0, step: Step::default() };
    let position = Position::top(reclaim.victim.height);
    if let Some(child) = sweep.child_at_top(position).await? {
        sweep.visit(position, reclaim.victim.top, child).await?;
    }
    sweep.step.next = sweep.run().await?;
    Ok(sweep.step)
}

/// A node of the victim's being swept, beside what the child has there.
struct Swept {
    position: Position,
    pointer: Entry,
    victim: Arc<Node>,
    child: Below,
    next_slot: usize,
}

struct Sweep<'a> {
    cache: &'a NodeCache,
    reclaim: Reclaim,
    open: Vec<Swept>,
    nodes_read: u64,
    step: Step,
}

impl Sweep<'_> {
    /// Sweeps until the budget is used up (then where to go on) or all is done.
    async fn run(&mut self) -> Result<Option<u64>, TreeError> {
        while let Some(mut node) = self.open.pop() {
            if node.next_slot == FAN_OUT {
                // The cursor passes its end.
                self.step.freed.push(node.pointer.addr());
                continue;
            }
            // Asked only here, with every node freed that ends at the cursor: one left open would
            // be taken for freed by the next step.
            let position = node.position.child(node.next_slot);
            let cursor = position.span().start;
            if self.is_used_up() && cursor > self.reclaim.cursor {
                return Ok(Some(cursor));
            }
            self.warm(&node).await;
            node.next_slot += 1;
            let (entry, child) = (node.victim.entry(position.slot()), node.child.at(position));
            self.open.push(node);
            self.visit(position, entry, child).await?;
        }
        Ok(None)
    }

    async fn warm(&self, node: &Swept) {
        let wanted = |position: Position| {
            let (entry, child) = (node.victim.entry(position.slot()), node.child.at(position));
            match self.is_victims_alone(&entry, child) {
                true => [Some(entry), child.pointer()],
                false => [None, None],
            }
        };
        warm_slots(self.cache, node.position, node.next_slot, wanted).await;
    }

    /// Frees a block, opens a node, or passes by what is not the victim's alone.
    async fn visit(
        &mut self,
        position: Position,
        entry: Entry,
        child: At,
    ) -> Result<(), TreeError> {
        let passed = position.span().end <= self.reclaim.cursor;
        if passed || !self.is_victims_alone(&entry, child) {
            return Ok(());
        }
        if position.level == 0 {
            self.step.freed.push(entry.addr());
            self.step.freed_data += 1;
            return Ok(());
        }
        self.open(position, entry, child).await
    }

    /// Compared by address: never free what the child points at, whatever else it says of it.
    fn is_victims_alone(&self, entry: &Entry, child: At) -> bool {
        entry.is_data()
            && entry.birth() > self.reclaim.parent_epoch
            && child.pointer().is_none_or(|kept| kept.addr() != entry.addr())
    }

    async fn open(&mut self, position: Position, entry: Entry, child: At) -> Result<(), TreeError> {
        let opened = self.open_both(position, entry, child).await;
        if let Some((victim, child)) = self.tolerate(position, opened)? {
            let next_slot = self.first_slot(position);
            self.open.push(Swept { position, pointer: entry, victim, child, next_slot });
        }
        Ok(())
    }

    async fn open_both(
        &mut self,
        position: Position,
        entry: Entry,
        child: At,
    ) -> Result<(Arc<Node>, Below), TreeError> {
        self.nodes_read += 1;
        let victim = self.cache.fetch(&entry, position).await?;
        let child = child.open(self.cache, position).await?;
        Ok((victim, child))
    }

    /// Where the last step ended inside this node, the slots before are done.
    fn first_slot(&self, position: Position) -> usize {
        if self.reclaim.cursor > position.span().start {
            position.slot_of(self.reclaim.cursor)
        } else {
            0
        }
    }

    async fn child_at_top(&mut self, position: Position) -> Result<Option<At>, TreeError> {
        let Some(root) = self.reclaim.child else { return Ok(Some(At::Entry(Entry::HOLE))) };
        let at = at_height(self.cache, root, position.level).await;
        self.tolerate(position, at)
    }

    /// What cannot be compared cannot be freed.
    fn tolerate<T>(
        &mut self,
        position: Position,
        result: Result<T, TreeError>,
    ) -> Result<Option<T>, TreeError> {
        match result {
            Err(error) if self.reclaim.on_damage.gives_up(&error) => {
                self.step.unreadable.push(Unreadable { position, error });
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn is_used_up(&self) -> bool {
        self.nodes_read + to_u64(self.step.freed.len()) >= self.reclaim.budget_blocks
    }
}
