//! A chain's bounds, and what it reports about itself.

use std::time::Duration;

/// Bounds of a live chain.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Records on their way to the device at once.
    pub max_inflight: usize,
    /// Of these, small ones. While so many are, what is staged waits and grows: a record costs
    /// the device and us much the same whatever its size.
    pub small_inflight: usize,
    /// A record of so many data blocks is not small.
    pub large_blocks: usize,
    /// Data blocks in one record, at most.
    pub record_blocks: usize,
    /// A background sync starts when something has been unsynced for this long...
    pub sync_after: Duration,
    /// ...or when this many bytes are.
    pub sync_bytes: u64,
    /// A rule to break, so that the crash tests can prove that they would notice.
    #[cfg(any(test, feature = "sim"))]
    pub sabotage: Sabotage,
}

/// Rules of the chain that a crash test must catch being broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Keep them all.
    #[default]
    None,
    /// Reuse a replaced block after its replacement's own sync.
    ReuseAfterOneSync,
    /// Answer a record when it has completed, whatever became of those before it.
    AnswerOutOfOrder,
    /// Answer a flush without a sync.
    SkipSync,
}

impl ChainConfig {
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sabotage(&self) -> Sabotage {
        self.sabotage
    }

    #[cfg(not(any(test, feature = "sim")))]
    pub(super) fn sabotage(&self) -> Sabotage {
        Sabotage::None
    }
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            max_inflight: 8,
            small_inflight: 2,
            large_blocks: 16,
            record_blocks: 248,
            sync_after: Duration::from_secs(1),
            sync_bytes: 64 << 20,
            #[cfg(any(test, feature = "sim"))]
            sabotage: Sabotage::None,
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
