//! The node cache.

use std::sync::Arc;

use bough_blockstore::Device;

use crate::node::{Entry, Node};
use crate::path::Position;
use crate::tree_error::TreeError;

/// Committed nodes in memory, under a byte budget; shared by all disks and threads.
pub struct NodeCache {
    device: Arc<dyn Device>,
}

impl NodeCache {
    /// An empty cache over `device`.
    pub fn new(device: Arc<dyn Device>, budget_bytes: u64) -> Self {
        let _ = budget_bytes;
        Self { device }
    }

    /// Changes the budget; evicts at once where it shrinks.
    pub fn set_budget(&self, bytes: u64) {
        let _ = bytes;
        todo!()
    }

    /// The node that `pointer` (a data entry of `position`, level ≥ 1) points at, if it is here.
    pub fn try_get(&self, pointer: &Entry) -> Option<Arc<Node>> {
        let _ = pointer;
        todo!()
    }

    /// The node that `pointer` points at; concurrent misses share one read.
    ///
    /// # Errors
    /// Where it cannot be read, or is not the node asked for.
    pub async fn fetch(&self, pointer: &Entry, position: Position) -> Result<Arc<Node>, TreeError> {
        let _ = (pointer, position, &self.device);
        todo!()
    }

    /// Adds a node that was just written.
    pub fn insert(&self, pointer: &Entry, node: Arc<Node>) {
        let _ = (pointer, node);
        todo!()
    }

    /// What the cache did so far.
    pub fn stats(&self) -> CacheStats {
        todo!()
    }
}

/// What a cache holds and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Bytes held now.
    pub held_bytes: u64,
    /// Bytes it may hold.
    pub budget_bytes: u64,
    /// Answers from memory.
    pub hits: u64,
    /// Reads from the medium.
    pub misses: u64,
}
