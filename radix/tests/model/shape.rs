//! What kind of history a seed makes: the store's size, the engine's bounds, what goes wrong.

use std::time::Duration;

use bough_blockstore::sim::SimRng;
use bough_blockstore::{BlockCount, ChainConfig};
use bough_radix::EngineConfig;

/// What the history has to put up with, crashes aside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    None,
    /// The store is filled up to its last free block before anything else happens.
    FullStore,
    /// The host's file system is full from time to time.
    FullHost,
    /// A write or a sync fails in some lives.
    Failures,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Shape {
    pub trouble: Trouble,
    pub store: BlockCount,
    pub config: EngineConfig,
    /// Whether anything outlives the process in memory.
    pub keeps_memory: bool,
    pub clients: u64,
    pub used_before: bool,
}

impl Shape {
    /// Of twenty histories three meet a full store, one a full host, two failures.
    pub fn of(seed: u64, rng: &mut SimRng) -> Self {
        let trouble = match seed % 20 {
            3 | 10 | 17 => Trouble::FullStore,
            5 => Trouble::FullHost,
            8 | 15 => Trouble::Failures,
            _ => Trouble::None,
        };
        let store = match trouble {
            Trouble::FullStore => 2048,
            _ => [4096, 6144, 8192][pick(rng, 3)],
        };
        Self {
            trouble,
            store: BlockCount(store),
            config: config(rng),
            keeps_memory: seed % 2 == 1,
            clients: 1 + rng.below(5),
            used_before: rng.chance(1, 3),
        }
    }
}

fn config(rng: &mut SimRng) -> EngineConfig {
    let mut config = any_config(rng);
    // Many records in flight where records are small, too: more can come in between.
    config.chain.small_inflight = if config.chain.record_blocks < 248 { 8 } else { 2 };
    config
}

fn any_config(rng: &mut SimRng) -> EngineConfig {
    EngineConfig {
        cache_bytes: [64 << 10, 1 << 20, 16 << 20][pick(rng, 3)],
        overlay_entries: [8, 64, 512][pick(rng, 3)],
        chain_bytes: [256 << 10, 1 << 20, 64 << 20][pick(rng, 3)],
        checkpoint_every: Duration::from_millis([5, 100, 10_000][pick(rng, 3)]),
        // So small that a version, or a discard, takes many steps, and crashes fall between them.
        reclaim_step_blocks: [2, 32, 8192, 8192][pick(rng, 4)],
        chain: ChainConfig {
            max_inflight: [1, 2, 8][pick(rng, 3)],
            record_blocks: [4, 32, 248][pick(rng, 3)],
            sync_after: Duration::from_millis([2, 1000][pick(rng, 2)]),
            sync_bytes: [256 << 10, 64 << 20][pick(rng, 2)],
            ..ChainConfig::default()
        },
        ..EngineConfig::default()
    }
}

/// A random index below `count`.
pub fn pick(rng: &mut SimRng, count: usize) -> usize {
    usize::try_from(rng.below(u64::try_from(count).unwrap())).unwrap()
}
