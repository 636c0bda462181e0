//! The node cache: committed nodes in memory, shared by all disks and threads.
//!
//! I own the budget and the reading of nodes: checksum first, then structure; a second read, then
//! the mirror, before anything is called corrupt. I never write. Invariant: what I hand out is the
//! node that the pointer names, at the position asked for. Nodes are immutable, so nothing here
//! is ever stale; a node whose block was freed and reused is just never asked for again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::{BLOCK_BYTES_U64, BlockBuf, Device, IoFuture, to_u64, to_usize};
use lru::LruCache;
use tokio::sync::OnceCell;

use crate::concurrent::all;
use crate::node::{Entry, Node};
use crate::path::Position;
use crate::tree_error::TreeError;

/// Enough that reactors rarely meet; few enough that a small budget still divides well.
const SHARDS: usize = 16;
/// A node and its share of the list, the map and the reference counts.
const NODE_COST_BYTES: u64 = BLOCK_BYTES_U64 + 192;

/// The position is part of the key: a pointer copied to a wrong place must not be answered from
/// memory with a node that the medium's checksum would have refused.
type Key = (Entry, Position);
type Flight = OnceCell<Arc<Node>>;

struct Shard {
    nodes: LruCache<Key, Arc<Node>>,
    flights: HashMap<Key, Arc<Flight>>,
}

/// Committed nodes in memory, under a byte budget.
pub struct NodeCache {
    device: Arc<dyn Device>,
    shards: [Mutex<Shard>; SHARDS],
    nodes_per_shard: AtomicUsize,
    budget_bytes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
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

impl NodeCache {
    /// An empty cache over `device`. A budget too small for one node a shard counts as that.
    pub fn new(device: Arc<dyn Device>, budget_bytes: u64) -> Self {
        let cache = Self {
            device,
            shards: std::array::from_fn(|_| Mutex::new(Shard::empty())),
            nodes_per_shard: AtomicUsize::new(0),
            budget_bytes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        cache.set_budget(budget_bytes);
        cache
    }

    /// Changes the budget; evicts at once where it shrinks.
    pub fn set_budget(&self, bytes: u64) {
        let nodes = to_usize(bytes / NODE_COST_BYTES / to_u64(SHARDS)).max(1);
        self.budget_bytes.store(bytes, Ordering::Relaxed);
        self.nodes_per_shard.store(nodes, Ordering::Relaxed);
        for shard in &self.shards {
            lock(shard).evict_to(nodes);
        }
    }

    /// How many nodes the budget is good for.
    pub(crate) fn capacity_nodes(&self) -> usize {
        self.nodes_per_shard.load(Ordering::Relaxed) * SHARDS
    }

    /// The node of `position` (level ≥ 1) that `pointer` points at, if it is here.
    pub fn try_get(&self, pointer: &Entry, position: Position) -> Option<Arc<Node>> {
        let found = lock(self.shard(pointer)).nodes.get(&(*pointer, position)).cloned();
        if found.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// The node of `position` (level ≥ 1) that `pointer` points at; concurrent misses share one
    /// read.
    ///
    /// # Errors
    /// Where it cannot be read, or is not the node asked for.
    ///
    /// # Panics
    /// Where `pointer` points at nothing, or at data: a bug of ours.
    pub async fn fetch(&self, pointer: &Entry, position: Position) -> Result<Arc<Node>, TreeError> {
        assert!(pointer.is_data() && position.level > 0, "not a pointer to a node");
        if let Some(node) = self.try_get(pointer, position) {
            return Ok(node);
        }
        let boarded = self.board((*pointer, position));
        let load = || self.load(pointer, position);
        boarded.flight.get_or_try_init(load).await.cloned()
    }

    /// Fetches several nodes at once, to have them here when they are wanted. Failures are kept
    /// for whoever then asks in earnest.
    pub(crate) async fn warm(&self, wanted: &[Key]) {
        let cold = wanted.iter().filter(|(pointer, position)| {
            lock(self.shard(pointer)).nodes.peek(&(*pointer, *position)).is_none()
        });
        all(cold.map(|(pointer, position)| self.fetch(pointer, *position)).collect()).await;
    }

    /// Adds a node that was just written.
    pub fn insert(&self, pointer: &Entry, position: Position, node: Arc<Node>) {
        let mut shard = lock(self.shard(pointer));
        shard.nodes.put((*pointer, position), node);
        shard.evict_to(self.nodes_per_shard.load(Ordering::Relaxed));
    }

    /// What the cache holds and did so far.
    pub fn stats(&self) -> CacheStats {
        let nodes: usize = self.shards.iter().map(|shard| lock(shard).nodes.len()).sum();
        CacheStats {
            held_bytes: to_u64(nodes) * NODE_COST_BYTES,
            budget_bytes: self.budget_bytes.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    fn shard(&self, pointer: &Entry) -> &Mutex<Shard> {
        // Neighbours are often written together: spread them (Fibonacci hashing).
        let mixed = pointer.addr().raw().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[to_usize(mixed >> 60)]
    }

    fn board(&self, key: Key) -> Boarded<'_> {
        let flight = Arc::clone(lock(self.shard(&key.0)).flights.entry(key).or_default());
        Boarded { cache: self, key, flight }
    }

    /// Reads and checks the node; a flight's first passenger gets here, and the next one where
    /// the first was cancelled or failed.
    async fn load(&self, pointer: &Entry, position: Position) -> Result<Arc<Node>, TreeError> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let node = Arc::new(self.read_somewhere(pointer, position).await?);
        self.insert(pointer, position, Arc::clone(&node));
        Ok(node)
    }

    async fn read_somewhere(&self, pointer: &Entry, position: Position) -> Result<Node, TreeError> {
        let at = pointer.addr();
        let first = match read(self.device.read(at, 1), pointer, position).await {
            Ok(node) => return Ok(node),
            Err(error) => error,
        };
        // What went wrong between medium and memory need not go wrong twice.
        if let Ok(node) = read(self.device.read(at, 1), pointer, position).await {
            tracing::warn!(block = at.raw(), %first, "a node could be read only the second time");
            return Ok(node);
        }
        if let Some(mirror) = self.device.read_mirror(at, 1)
            && let Ok(node) = read(mirror, pointer, position).await
        {
            tracing::warn!(block = at.raw(), %first, "a node could be read only in the mirror");
            return Ok(node);
        }
        Err(first)
    }
}

async fn read(
    under_way: IoFuture<BlockBuf>,
    pointer: &Entry,
    position: Position,
) -> Result<Node, TreeError> {
    let block = under_way.await.map_err(|source| TreeError::Device { position, source })?;
    Node::decode(block.block(0), position, pointer).map_err(|fault| TreeError::Corrupt {
        at: pointer.addr(),
        position,
        fault,
    })
}

impl Shard {
    fn empty() -> Self {
        Self { nodes: LruCache::unbounded(), flights: HashMap::new() }
    }

    fn evict_to(&mut self, nodes: usize) {
        while self.nodes.len() > nodes {
            self.nodes.pop_lru();
        }
    }
}

/// A seat on a flight; the last to leave, cancelled or not, clears it away.
struct Boarded<'a> {
    cache: &'a NodeCache,
    key: Key,
    flight: Arc<Flight>,
}

impl Drop for Boarded<'_> {
    fn drop(&mut self) {
        let mut shard = lock(self.cache.shard(&self.key.0));
        // Seats are given out under this lock: the table's and mine are the only ones.
        if Arc::strong_count(&self.flight) == 2 {
            shard.flights.remove(&self.key);
        }
    }
}

/// A panic elsewhere leaves a shard usable: every change to it is complete in itself.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
