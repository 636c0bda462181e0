//! A chain's bounds, and what it reports about itself.

use std::time::Duration;

/// Bounds of a live chain.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Records on their way to the device at once.
    pub max_inflight: usize,
    /// Data blocks in one record, at most.
    pub record_blocks: usize,
    /// A background sync starts when something has been unsynced for this long...
    pub sync_after: Duration,
    /// ...or when this many bytes are.
    pub sync_bytes: u64,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            max_inflight: 8,
            record_blocks: 248,
            sync_after: Duration::from_secs(1),
            sync_bytes: 64 << 20,
        }
    }
}

/// How long and how busy a chain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainStats {
    /// Published records since the chain's start.
    pub records: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Records sealed and not yet published.
    pub inflight: usize,
    /// Published bytes not yet synced.
    pub unsynced_bytes: u64,
    /// Blocks that wait for the reuse rule.
    pub retired_blocks: u64,
}
