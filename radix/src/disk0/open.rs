//! Making a store, and opening one: disk 0 is walked, its chain replayed, cut and begun anew.
//!
//! Crash ordering of an opening: (1) what the chain holds is synced, (2) new nodes go to blocks
//! that neither tree nor chain uses, (3) they are synced, (4) the superblock pair names the new
//! root and a chain with a fresh nonce. A crash before (4) finds the old chain untouched.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use bough_blockstore::{
    BlockAddr, BlockBuf, BlockCount, BlockRun, Chain, ChainConfig, ChainEntry, ChainStart, Device,
    DiskId, Mirrored, Nonce, PoolRun, Runtime, SUPERBLOCK_BLOCKS, Scan, ScanEnd, ScanLimits,
    ScannedRecord, Sequence, Superblock, VirtualBlock, read_pair, scan, write_pair,
};
use tokio::sync::RwLock;

use super::checkpoint::{PoolSink, merge_overlay};
use super::view::{EPOCH, View};
use super::{CatalogueError, Disk0, Pool, PoolSpace};
use crate::beyond::{Beyond, first_beyond};
use crate::btree::{Counters, Page, Pages};
use crate::cache::NodeCache;
use crate::catalogue::Rows;
use crate::gate::ReadGate;
use crate::node::Root;
use crate::overlay::{Overlay, Point};
use crate::space::CATALOGUE_BLOCKS;
use crate::walk::{Found, Onward, walk};

/// The smallest store: room for a pool that can do its work, and for some data.
pub const MIN_STORE_BLOCKS: u64 = 2048;

/// What a new store is to be.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// The store's identity.
    pub uuid: [u8; 16],
}

/// A record that another chain must hold for a commit to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Whose chain.
    pub disk: DiskId,
    /// Up to which record.
    pub sequence: Sequence,
}

/// Disk 0 as its chain left it, before anything was written: rows can be read.
pub struct Recovered {
    disk0: Disk0,
    superblock: Superblock,
    scan: Scan,
}

/// Disk 0, ready for commits.
pub struct Opened {
    /// Disk 0.
    pub disk0: Disk0,
    /// What the superblock says.
    pub superblock: Superblock,
}

/// Blocks of each copy of the pool in a store of `blocks`.
pub fn pool_blocks(blocks: u64) -> u64 {
    (blocks / 128).clamp(128, 1 << 16)
}

/// Writes an empty store. The superblocks go last: a crash leaves no store, or a whole one.
pub async fn format(
    device: &Arc<dyn Device>,
    runtime: &Arc<dyn Runtime>,
    options: FormatOptions,
) -> Result<(), CatalogueError> {
    let size = device.block_count();
    let count = pool_blocks(size.0);
    let primary = BlockAddr::of(SUPERBLOCK_BLOCKS);
    let run = PoolRun { primary, mirror: primary.plus(count), count };
    reserve_pool(device, run).await?;
    let mirrored: Arc<dyn Device> = Mirrored::new(Arc::clone(device), vec![run]);
    let pool = Pool::new(&[run]);
    let virgin_from = BlockAddr::of(SUPERBLOCK_BLOCKS + 2 * count);
    let overlay = write_first_pages(&mirrored, &pool, virgin_from).await?;
    let cache = NodeCache::new(Arc::clone(&mirrored), 1 << 20);
    let mut sink = PoolSink { pool: &pool, device: &*mirrored };
    let empty = Root::for_blocks(CATALOGUE_BLOCKS);
    let (merged, _) = merge_overlay(&cache, &mut sink, empty, &overlay).await?;
    mirrored.sync().await?;
    let superblock = Superblock {
        uuid: options.uuid,
        generation: 1,
        size,
        pool: vec![run],
        root: merged.root.encode(),
        root_blocks: CATALOGUE_BLOCKS,
        chain: fresh_chain(&**runtime, &pool)?,
        epoch: EPOCH,
    };
    write_pair(device, &superblock).await?;
    Ok(())
}

/// A full host must not keep deletes from being committed: they make the room.
pub(super) async fn reserve_pool(
    device: &Arc<dyn Device>,
    run: PoolRun,
) -> Result<(), CatalogueError> {
    for start in [run.primary, run.mirror] {
        device.reserve(BlockRun { start, count: run.count }).await?;
    }
    Ok(())
}

fn fresh_chain(runtime: &dyn Runtime, pool: &Pool) -> Result<ChainStart, CatalogueError> {
    let full = CatalogueError::Full { total_bytes: pool.total() * 4096 };
    let at = pool.take(None, 1).ok_or(full)?[0].start;
    let nonce = Nonce(runtime.random());
    Ok(ChainStart { nonce, sequence: Sequence(1), at, previous_crc: 0 })
}

/// The rows of an empty catalogue.
async fn write_first_pages(
    device: &Arc<dyn Device>,
    pool: &Pool,
    virgin_from: BlockAddr,
) -> Result<Overlay, CatalogueError> {
    let mut first = FirstPages::default();
    Rows::new(&mut first).format(Counters {
        next_disk: 1,
        next_version: 1,
        epoch_lease_end: EPOCH.next(),
        used_blocks: 0,
        virgin_from,
    });
    let mut overlay = Overlay::default();
    for (page, content) in first.0 {
        let full = CatalogueError::Full { total_bytes: pool.total() * 4096 };
        let addr = pool.take(None, 1).ok_or(full)?[0].start;
        let mut buf = BlockBuf::zeroed(1);
        buf.copy_from_slice(&content[..]);
        device.write(addr, buf.share()).await?;
        overlay.put(page, Point { addr, crc: crc32fast::hash(&content[..]), epoch: EPOCH });
    }
    Ok(overlay)
}

/// The pages of a store in the making.
#[derive(Default)]
struct FirstPages(std::collections::BTreeMap<u64, Arc<Page>>);

impl Pages for FirstPages {
    type Error = CatalogueError;

    async fn get(&self, page: VirtualBlock) -> Result<Arc<Page>, CatalogueError> {
        Ok(self.0.get(&page.raw()).cloned().unwrap_or_else(|| Arc::new(Page::zeroed())))
    }

    fn put(&mut self, page: VirtualBlock, content: Page) {
        self.0.insert(page.raw(), Arc::new(content));
    }
}

impl Recovered {
    /// Reads the superblocks, walks disk 0, and reads its chain back. Writes nothing but a
    /// superblock copy that was damaged.
    pub async fn read(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
        gate_for: impl FnOnce(Arc<Pool>) -> Arc<ReadGate>,
        memory_bytes: u64,
    ) -> Result<Self, CatalogueError> {
        let pair = read_pair(&device).await?;
        if pair.repaired {
            tracing::warn!("one superblock was damaged or behind; it is written again");
            write_pair(&device, &pair.superblock).await?;
        }
        let superblock = pair.superblock;
        let mirror = Mirrored::new(Arc::clone(&device), superblock.pool.clone());
        let mirrored: Arc<dyn Device> = Arc::clone(&mirror) as Arc<dyn Device>;
        let pool = Arc::new(Pool::new(&superblock.pool));
        let gate = gate_for(Arc::clone(&pool));
        let root = Root::decode(&superblock.root)
            .ok()
            .filter(|root| root.height == Root::for_blocks(CATALOGUE_BLOCKS).height)
            .ok_or(CatalogueError::Misused { addr: BlockAddr::ZERO })?;
        let pages = usize::try_from(memory_bytes / 2 / 4096).unwrap_or(usize::MAX).max(64);
        let view = View::new(root, NonZeroUsize::new(pages).unwrap_or(NonZeroUsize::MIN));
        let cache = NodeCache::new(Arc::clone(&mirrored), memory_bytes / 2);
        claim_tree(&cache, &pool, root).await?;
        let extents: Vec<BlockRun> = superblock
            .pool
            .iter()
            .map(|run| BlockRun { start: run.primary, count: run.count })
            .collect();
        let found = scan(&mirrored, &superblock.chain, ScanLimits::default(), &extents).await?;
        if let ScanEnd::Damaged { at, sequence } = found.end {
            return Err(CatalogueError::LostRecords { at, sequence: sequence.0 });
        }
        if let Some(Beyond { sequence, at, block }) = first_beyond(&found, root.capacity()) {
            let sequence = sequence.0;
            return Err(CatalogueError::BeyondCatalogue { at, sequence, page: block });
        }
        let space = Arc::new(PoolSpace { pool: Arc::clone(&pool), gate: Arc::clone(&gate) });
        // A stand-in until `open` begins the chain that commits go to: nothing is staged on it.
        let chain = Chain::new(
            Arc::clone(&mirrored),
            Arc::clone(&runtime),
            superblock.chain,
            EPOCH,
            space,
            Arc::clone(&view) as _,
            ChainConfig::default(),
        );
        let disk0 = Disk0 {
            device: mirrored,
            raw_device: device,
            mirror,
            runtime,
            pool,
            gate,
            cache,
            view,
            chain,
            halted: OnceLock::new(),
            writer: RwLock::new(superblock.clone()),
        };
        Ok(Self { disk0, superblock, scan: found })
    }

    /// Applies the chain's commits one by one. A commit not known to be durable whose
    /// requirements are not met ends the chain: nobody was told of it or of anything after it.
    ///
    /// `met` is asked with the catalogue as it was before that commit.
    pub async fn replay(
        &mut self,
        met: impl AsyncFn(&Disk0, &[Requirement]) -> Result<bool, CatalogueError>,
    ) -> Result<(), CatalogueError> {
        let mut group_start = 0;
        for index in 0..self.scan.records.len() {
            if self.scan.records[index].continues {
                continue;
            }
            let group = group_start..index + 1;
            group_start = index + 1;
            let records = &self.scan.records[group.clone()];
            let requirements = requirements_of(records);
            let known = self.scan.records[index].sequence <= self.scan.known_synced;
            if !known && !requirements.is_empty() && !met(&self.disk0, &requirements).await? {
                tracing::warn!("a group snapshot was cut short by a crash and is forgotten");
                break;
            }
            let mut view = self.disk0.view.lock();
            for record in records {
                view.apply(&record.entries);
            }
            view.pages.clear();
        }
        Ok(())
    }

    /// Writes down what was replayed and begins a new chain.
    pub async fn open(self) -> Result<Opened, CatalogueError> {
        let Self { mut disk0, mut superblock, scan } = self;
        disk0.raw_device.sync().await?;
        let stale = claim_chain(&disk0.pool, &superblock.chain, &scan);
        let overlay = std::mem::take(&mut disk0.view.lock().overlay);
        let root = disk0.view.lock().root;
        disk0.write_both_copies(&overlay).await?;
        let mut sink = PoolSink { pool: &disk0.pool, device: &*disk0.device };
        let (merged, _) = merge_overlay(&disk0.cache, &mut sink, root, &overlay).await?;
        disk0.device.sync().await?;
        superblock.root = merged.root.encode();
        superblock.chain = fresh_chain(&*disk0.runtime, &disk0.pool)?;
        write_pair(&disk0.raw_device, &superblock).await?;
        superblock.generation += 1;
        disk0.view.lock().root = merged.root;
        // What the old chain used and the new tree does not, and what the old tree used alone.
        let live: BTreeSet<BlockAddr> = overlay.addresses().collect();
        let unused: Vec<BlockAddr> = stale.difference(&live).copied().collect();
        disk0.pool.release(&unused);
        disk0.pool.release(&merged.freed);
        let space =
            Arc::new(PoolSpace { pool: Arc::clone(&disk0.pool), gate: Arc::clone(&disk0.gate) });
        disk0.chain = Chain::new(
            Arc::clone(&disk0.device),
            Arc::clone(&disk0.runtime),
            superblock.chain,
            EPOCH,
            space,
            Arc::clone(&disk0.view) as _,
            ChainConfig::default(),
        );
        disk0.view.follow(&disk0.chain);
        disk0.writer = RwLock::new(superblock.clone());
        Ok(Opened { disk0, superblock })
    }
}

impl Disk0 {
    /// A crash may have left only one copy of what a commit wrote. Both are written again, with
    /// the same bytes in the same places: a crash in here changes nothing.
    async fn write_both_copies(&self, overlay: &Overlay) -> Result<(), CatalogueError> {
        for (page, point) in overlay.newest() {
            let page = VirtualBlock::of(page);
            // Where no copy is whole there is nothing to write; whoever reads the page says so.
            let Ok(content) = self.read_verified(page, point.addr, point.crc).await else {
                continue;
            };
            let mut buf = BlockBuf::zeroed(1);
            buf.copy_from_slice(&content[..]);
            self.device.write(point.addr, buf.share()).await?;
        }
        Ok(())
    }
}

/// Claims every block that disk 0's tree uses.
async fn claim_tree(cache: &NodeCache, pool: &Pool, root: Root) -> Result<(), CatalogueError> {
    let mut failure = None;
    walk(cache, root, |found| match found {
        Found::Entry { entry, .. } => match entry.pointer() {
            Some(addr) if !pool.claim(addr) => {
                failure = Some(CatalogueError::Misused { addr });
                Onward::Stop
            }
            _ => Onward::Down,
        },
        Found::Unreadable { error, .. } => {
            failure = Some(error.into());
            Onward::Stop
        }
    })
    .await;
    failure.map_or(Ok(()), Err)
}

/// Claims every block that the old chain may be read from until it is cut: a crash in between
/// must find it as it was. Gives those that were claimed.
fn claim_chain(pool: &Pool, start: &ChainStart, scan: &Scan) -> BTreeSet<BlockAddr> {
    let data = scan.records.iter().flat_map(|record| &record.entries).filter_map(|e| match e {
        ChainEntry::Data { addr, .. } => Some(*addr),
        ChainEntry::Zero { .. } | ChainEntry::Require { .. } => None,
    });
    let headers = scan.records.iter().map(|record| record.header_at);
    let all: BTreeSet<BlockAddr> = headers.chain(data).chain([start.at]).collect();
    all.into_iter().filter(|block| pool.claim(*block)).collect()
}

fn requirements_of(records: &[ScannedRecord]) -> Vec<Requirement> {
    let entries = records.iter().flat_map(|record| &record.entries);
    entries
        .filter_map(|entry| match entry {
            ChainEntry::Require { disk, sequence } => {
                Some(Requirement { disk: *disk, sequence: *sequence })
            }
            ChainEntry::Data { .. } | ChainEntry::Zero { .. } => None,
        })
        .collect()
}

/// Blocks in the smallest store that can be made.
pub const fn min_store() -> BlockCount {
    BlockCount(MIN_STORE_BLOCKS)
}
