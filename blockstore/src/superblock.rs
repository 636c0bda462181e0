//! The store's first two blocks: what it is, how large, and where the catalogue begins.
//!
//! Owns the pair's bytes and the order in which they are written. Never reads the catalogue. The
//! invariant: at every moment at least one copy is whole, and the newer whole one names a
//! catalogue that is durable.

use std::mem::{offset_of, size_of};
use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{BLOCK_BYTES, BlockAddr, BlockCount, Epoch, Nonce, Sequence};
use crate::buffer::{BlockBuf, BlockSlice};
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
}

/// Marks a superblock: `BOUGHSB` and a byte that text mode would mangle.
const MAGIC: [u8; 8] = *b"BOUGHSB\x1a";

/// A part of the pool as it lies on the store.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawPoolRun {
    primary: U64,
    mirror: U64,
    count: U64,
}

/// A superblock as it lies on the store. Magic, version and CRC keep their places in every
/// version to come, so that an old program can tell a newer store from a damaged one.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    version: U32,
    pool_count: U32,
    uuid: [u8; 16],
    generation: U64,
    size: U64,
    root_blocks: U64,
    root: [u8; 24],
    chain_nonce: [u8; 16],
    chain_sequence: U64,
    chain_at: U64,
    chain_previous_crc: U32,
    reserved_crc_pad: U32,
    epoch: U64,
    pool: [RawPoolRun; MAX_POOL_RUNS],
    reserved: [u8; 2424],
    reserved_tail: U32,
    crc: U32,
}

const CRC_OFFSET: usize = BLOCK_BYTES - 4;
/// No store is written that often; from below it counting never overflows.
const GENERATION_END: u64 = 1 << 63;
const _: () = assert!(size_of::<RawSuperblock>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(RawSuperblock, version) == 8);
const _: () = assert!(offset_of!(RawSuperblock, pool) == 128);
const _: () = assert!(offset_of!(RawSuperblock, crc) == CRC_OFFSET);

/// Why one copy does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyFault {
    Alien,
    Newer(u32),
    Damaged,
}

/// The places of the two copies.
const COPIES: [BlockAddr; 2] = [BlockAddr::ZERO, BlockAddr::of(1)];

/// Reads the pair and decides which copy counts.
///
/// # Errors
/// Where the store is not ours, newer, truncated, damaged twice, or its medium fails.
pub async fn read_pair(device: &Arc<dyn Device>) -> Result<SuperblockPair, SuperblockError> {
    let first = read_copy(device, COPIES[0]).await;
    let second = read_copy(device, COPIES[1]).await;
    let pair = choose(first, second)?;
    let (expected, found) = (pair.superblock.size, device.block_count());
    if found < expected {
        return Err(SuperblockError::Truncated { expected, found });
    }
    Ok(pair)
}

/// One copy; one that cannot be read is a damaged one.
async fn read_copy(device: &Arc<dyn Device>, at: BlockAddr) -> Result<Superblock, CopyFault> {
    if at.raw() >= device.block_count().0 {
        return Err(CopyFault::Alien);
    }
    match device.read(at, 1).await {
        Ok(buf) => decode(buf.block(0)),
        Err(error) => {
            tracing::warn!(%error, "a superblock cannot be read");
            Err(CopyFault::Damaged)
        }
    }
}

fn choose(
    first: Result<Superblock, CopyFault>,
    second: Result<Superblock, CopyFault>,
) -> Result<SuperblockPair, SuperblockError> {
    match (first, second) {
        // A whole copy of a newer format: somebody upgraded the store, perhaps half way.
        (Err(CopyFault::Newer(found)), _) | (_, Err(CopyFault::Newer(found))) => {
            Err(SuperblockError::Newer { found })
        }
        (Ok(first), Ok(second)) => {
            let repaired = first != second;
            let newer = if second.generation > first.generation { second } else { first };
            Ok(SuperblockPair { superblock: newer, repaired })
        }
        (Ok(superblock), Err(_)) | (Err(_), Ok(superblock)) => {
            Ok(SuperblockPair { superblock, repaired: true })
        }
        (Err(CopyFault::Alien), Err(CopyFault::Alien)) => Err(SuperblockError::Alien),
        (Err(_), Err(_)) => Err(SuperblockError::Damaged),
    }
}

/// Makes `superblock` the store's: first copy, sync, second copy, sync. Durable from the first
/// sync on, as far as no rot befalls the first copy: only when this returns may what the old pair
/// named be reused, and anybody be answered on the strength of the new one.
///
/// # Errors
/// Where the medium fails; the store must then halt.
pub async fn write_pair(
    device: &Arc<dyn Device>,
    superblock: &Superblock,
) -> Result<(), DeviceError> {
    let block = encode(superblock);
    for at in COPIES {
        device.write(at, block.clone()).await?;
        device.sync().await?;
    }
    Ok(())
}

fn encode(superblock: &Superblock) -> BlockSlice {
    assert!(superblock.pool.len() <= MAX_POOL_RUNS, "more pool runs than the superblock holds");
    let none = RawPoolRun { primary: U64::ZERO, mirror: U64::ZERO, count: U64::ZERO };
    let mut pool = [none; MAX_POOL_RUNS];
    for (raw, run) in pool.iter_mut().zip(&superblock.pool) {
        raw.primary = run.primary.raw().into();
        raw.mirror = run.mirror.raw().into();
        raw.count = run.count.into();
    }
    let raw = RawSuperblock {
        magic: MAGIC,
        version: FORMAT_VERSION.into(),
        pool_count: u32::try_from(superblock.pool.len()).expect("at most 64").into(),
        uuid: superblock.uuid,
        generation: superblock.generation.into(),
        size: superblock.size.0.into(),
        root_blocks: superblock.root_blocks.into(),
        root: superblock.root,
        chain_nonce: superblock.chain.nonce.0,
        chain_sequence: superblock.chain.sequence.0.into(),
        chain_at: superblock.chain.at.raw().into(),
        chain_previous_crc: superblock.chain.previous_crc.into(),
        reserved_crc_pad: U32::ZERO,
        epoch: superblock.epoch.raw().into(),
        pool,
        reserved: [0; 2424],
        reserved_tail: U32::ZERO,
        crc: U32::ZERO,
    };
    let mut buf = BlockBuf::zeroed(1);
    let block = buf.block_mut(0);
    block.copy_from_slice(raw.as_bytes());
    let crc = crc32fast::hash(&block[..CRC_OFFSET]);
    block[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    buf.share()
}

fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Superblock, CopyFault> {
    let raw: &RawSuperblock = zerocopy::transmute_ref!(block);
    if raw.magic != MAGIC {
        return Err(CopyFault::Alien);
    }
    // The checksum first: a version that rot made up is no newer format.
    if crc32fast::hash(&block[..CRC_OFFSET]) != raw.crc.get() {
        return Err(CopyFault::Damaged);
    }
    if raw.version.get() > FORMAT_VERSION {
        return Err(CopyFault::Newer(raw.version.get()));
    }
    fields(raw).ok_or(CopyFault::Damaged)
}

/// `None` where a field is out of its bounds or a reserved byte is set.
fn fields(raw: &RawSuperblock) -> Option<Superblock> {
    let count = usize::try_from(raw.pool_count.get()).ok()?;
    let (used, unused) = raw.pool.split_at_checked(count)?;
    let reserved = [unused.as_bytes(), &raw.reserved, raw.reserved_tail.as_bytes()];
    let zero = reserved.iter().all(|bytes| bytes.iter().all(|byte| *byte == 0));
    if !zero || raw.reserved_crc_pad.get() != 0 || raw.version.get() != FORMAT_VERSION {
        return None;
    }
    let size = raw.size.get();
    let (sequence, at) = (raw.chain_sequence.get(), raw.chain_at.get());
    if sequence == 0 || sequence >= 1 << 48 || at >= size {
        return None;
    }
    if raw.generation.get() >= GENERATION_END {
        return None;
    }
    let pool = used.iter().map(|run| pool_run(run, size)).collect::<Option<Vec<_>>>()?;
    if overlap(&pool) {
        return None;
    }
    Some(Superblock {
        uuid: raw.uuid,
        generation: raw.generation.get(),
        size: BlockCount(size),
        pool,
        root: raw.root,
        root_blocks: raw.root_blocks.get(),
        chain: ChainStart {
            nonce: Nonce(raw.chain_nonce),
            sequence: Sequence(sequence),
            at: BlockAddr::new(at)?,
            previous_crc: raw.chain_previous_crc.get(),
        },
        epoch: Epoch::new(raw.epoch.get())?,
    })
}

/// A run that lies inside the store, behind the superblocks.
fn pool_run(raw: &RawPoolRun, size: u64) -> Option<PoolRun> {
    let count = raw.count.get();
    let inside = |start: U64| {
        let end = start.get().checked_add(count)?;
        let fits = start.get() >= SUPERBLOCK_BLOCKS && end <= size && count > 0;
        if fits { BlockAddr::new(start.get()) } else { None }
    };
    Some(PoolRun { primary: inside(raw.primary)?, mirror: inside(raw.mirror)?, count })
}

/// Whether some block would be two blocks of the pool.
fn overlap(pool: &[PoolRun]) -> bool {
    let copies = pool.iter().flat_map(|run| [(run.primary, run.count), (run.mirror, run.count)]);
    let mut starts: Vec<(u64, u64)> = copies.map(|(start, count)| (start.raw(), count)).collect();
    starts.sort_unstable();
    starts.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
}

#[cfg(test)]
mod tests;
