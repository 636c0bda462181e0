//! An engine's bounds.

use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::ChainConfig;

use crate::tails::Tails;

/// Bounds of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// For node and page caches, in bytes.
    pub cache_bytes: u64,
    /// Entries of all overlays at which the largest are merged; at twice as many writers wait.
    pub overlay_entries: usize,
    /// Bytes of a disk's chain at which it is checkpointed.
    pub chain_bytes: u64,
    /// A disk with something in its chain is checkpointed this long after its last one.
    pub checkpoint_every: Duration,
    /// Blocks freed or looked at in one step of the reclaimer, or for one piece of a large discard.
    pub reclaim_step_blocks: u64,
    /// Bounds of each chain.
    pub chain: ChainConfig,
    /// What is to be known of chains after this process, and was left by the one before.
    pub tails: Option<Arc<dyn Tails>>,
    /// A rule to break, so that the model test can prove that it would notice.
    #[cfg(any(test, feature = "sim"))]
    pub broken_rule: BrokenRule,
}

/// Rules of the engine that the model test must catch being broken. Those of chains are
/// [`bough_blockstore::Sabotage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokenRule {
    /// Keep them all.
    #[default]
    None,
    /// All chains have the same nonce.
    OneNonce,
    /// A head owns what was born in its own epoch, instead of what was born after its parent.
    OwnershipByOwnEpoch,
    /// What the reclaimer frees is committed before its cursor is.
    FreeBeforeCursor,
    /// A replay does not look beyond the end of a chain.
    RotEndsReplay,
    /// Checksums of data are not looked at.
    UnverifiedReads,
}

impl EngineConfig {
    /// Half of `memory_bytes` for caches, a quarter for overlays (the rest is buffers').
    pub fn with_memory(memory_bytes: u64) -> Self {
        let entries = usize::try_from(memory_bytes / 4 / 128).unwrap_or(usize::MAX);
        Self {
            cache_bytes: memory_bytes / 2,
            overlay_entries: entries.clamp(1024, 1 << 18),
            chain_bytes: 1 << 30,
            checkpoint_every: Duration::from_secs(10),
            reclaim_step_blocks: 8192,
            chain: ChainConfig::default(),
            tails: None,
            #[cfg(any(test, feature = "sim"))]
            broken_rule: BrokenRule::None,
        }
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn breaks(&self, rule: BrokenRule) -> bool {
        self.broken_rule == rule
    }

    #[cfg(not(any(test, feature = "sim")))]
    pub(crate) fn breaks(&self, _: BrokenRule) -> bool {
        false
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self::with_memory(64 << 20)
    }
}
