//! The store's first two blocks: what it is, how large, and where the catalogue begins.
//!
//! Owns the pair's bytes and the order in which they are written. Never reads the catalogue. The
//! invariant: at every moment at least one copy is whole, and the newer whole one names a
//! catalogue that is durable.

use std::sync::Arc;

use crate::addr::{BlockAddr, BlockCount, Epoch};
use crate::chain::ChainStart;
use crate::device::{Device, DeviceError};

/// The format this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Blocks at the start of the store that the pair occupies.
pub const SUPERBLOCK_BLOCKS: u64 = 2;

/// Runs of the catalogue's pool, at most.
pub const MAX_POOL_RUNS: usize = 64;

/// A part of the catalogue's pool: `count` blocks and as many for their second copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRun {
    /// The first copy's first block; what addresses in the catalogue name.
    pub primary: BlockAddr,
    /// The second copy's first block.
    pub mirror: BlockAddr,
    /// Blocks in each.
    pub count: u64,
}

/// What the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The store's own.
    pub uuid: [u8; 16],
    /// Grows by one with each [`write_pair`].
    pub generation: u64,
    /// Blocks of the store; the medium has at least as many.
    pub size: BlockCount,
    /// The catalogue's pool.
    pub pool: Vec<PoolRun>,
    /// The catalogue's committed tree: `radix` knows what these bytes say.
    pub root: [u8; 24],
    /// Blocks in the catalogue's address space.
    pub root_blocks: u64,
    /// Where the catalogue's chain begins.
    pub chain: ChainStart,
    /// The epoch that the catalogue's chain begins with.
    pub epoch: Epoch,
}

/// What reading the pair found.
#[derive(Clone, Debug)]
pub struct SuperblockPair {
    /// The newer whole copy.
    pub superblock: Superblock,
    /// Whether one copy was damaged or left behind by a crash: write the pair again before
    /// anything that the older copy names is reused.
    pub repaired: bool,
}

/// Why a store cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SuperblockError {
    /// Neither copy has ever been a superblock of ours.
    #[error("not a Bough store: nothing in the first two blocks says so")]
    Alien,
    /// Written by a newer program.
    #[error("the store has format {found}; this program reads up to {FORMAT_VERSION}: upgrade it")]
    Newer {
        /// The format found.
        found: u32,
    },
    /// The medium is smaller than the store.
    #[error("truncated: the store has {expected} blocks, its file or device only {found}")]
    Truncated {
        /// Blocks of the store.
        expected: BlockCount,
        /// Blocks of the medium.
        found: BlockCount,
    },
    /// Both copies are damaged.
    #[error("both superblocks are damaged: restore one from a backup")]
    Damaged,
    /// The medium failed.
    #[error("the superblocks could not be read or written")]
    Device(#[from] DeviceError),
}

/// Reads the pair and decides which copy counts.
///
/// # Errors
/// Where the store is not ours, newer, truncated, damaged twice, or its medium fails.
pub async fn read_pair(device: &Arc<dyn Device>) -> Result<SuperblockPair, SuperblockError> {
    let _ = device;
    todo!()
}

/// Makes `superblock` the store's: first copy, sync, second copy, sync. Durable from the first
/// sync on; what the old pair named may be reused when this returns.
///
/// # Errors
/// Where the medium fails; the store must then halt.
pub async fn write_pair(
    device: &Arc<dyn Device>,
    superblock: &Superblock,
) -> Result<(), DeviceError> {
    let _ = (device, superblock);
    todo!()
}
