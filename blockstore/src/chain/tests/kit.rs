//! A disk without a tree, for the chain's tests: an overlay, an allocator that reuses blocks as
//! soon as it may, and commits that happen in an instant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use crate::addr::{
    BLOCK_BYTES, BlockAddr, BlockRun, DiskId, Epoch, Nonce, Sequence, VirtualBlock, VirtualRange,
    to_u64, to_usize,
};
use crate::chain::{
    Chain, ChainConfig, ChainSpace, ChainStart, Publish, PublishedRecord, RefillFuture, SpaceError,
};
use crate::device::{Device, Runtime};
use crate::record::ChainEntry;

/// What a test asked of the chain, in the order of asking; the contents follow from `stamp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub zeros: Vec<VirtualRange>,
    pub blocks: Vec<(VirtualBlock, u64)>,
    pub requires: Vec<(DiskId, Sequence)>,
}

impl Step {
    pub fn entries(&self) -> usize {
        self.zeros.len() + self.blocks.len() + self.requires.len()
    }
}

/// A block that says which write it came from, in every sector.
pub fn stamped(stamp: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    for (index, word) in block.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(stamp << 16 | to_u64(index)).to_le_bytes());
    }
    block
}

/// The disk's contents after some steps: stamps, by block.
pub fn contents(steps: &[Step]) -> BTreeMap<VirtualBlock, u64> {
    let mut model = BTreeMap::new();
    for step in steps {
        for range in &step.zeros {
            model.retain(|vba: &VirtualBlock, _| !range.contains(&vba.raw()));
        }
        model.extend(step.blocks.iter().copied());
    }
    model
}

/// What a commit makes durable: everything before `start`.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    pub start: ChainStart,
    pub entries: usize,
    /// Where the published part ends, by memory that survives the process.
    pub left: ChainStart,
}

struct Inner {
    free: BTreeSet<BlockAddr>,
    overlay: BTreeMap<VirtualBlock, BlockAddr>,
    published: Vec<PublishedRecord>,
    entries: usize,
    committed: Committed,
    commits: u64,
    /// `refill` fails instead of committing.
    full: bool,
}

/// The owner of a chain.
pub struct Owner {
    inner: Mutex<Inner>,
    chain: OnceLock<Weak<Chain>>,
    runtime: Arc<dyn Runtime>,
    this: Weak<Owner>,
}

impl Owner {
    /// An empty disk whose chain lies in `extent`.
    pub fn open(
        device: &Arc<dyn Device>,
        runtime: &Arc<dyn Runtime>,
        extent: BlockRun,
        nonce: Nonce,
        config: ChainConfig,
    ) -> (Arc<Self>, Arc<Chain>) {
        let mut free: BTreeSet<_> = extent.blocks().collect();
        let at = free.pop_first().expect("an extent has blocks");
        let start = ChainStart { nonce, sequence: Sequence(1), at, previous_crc: 0 };
        let inner = Inner {
            free,
            overlay: BTreeMap::new(),
            published: Vec::new(),
            entries: 0,
            committed: Committed { start, entries: 0, left: start },
            commits: 0,
            full: false,
        };
        let owner = Arc::new_cyclic(|this| Self {
            inner: Mutex::new(inner),
            chain: OnceLock::new(),
            runtime: Arc::clone(runtime),
            this: this.clone(),
        });
        let chain = Chain::new(
            Arc::clone(device),
            Arc::clone(runtime),
            start,
            Epoch::of(1),
            Arc::clone(&owner) as Arc<dyn ChainSpace>,
            Arc::clone(&owner) as Arc<dyn Publish>,
            config,
        );
        owner.chain.set(Arc::downgrade(&chain)).expect("set once");
        (owner, chain)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics in here")
    }

    fn chain(&self) -> Arc<Chain> {
        self.chain.get().and_then(Weak::upgrade).expect("the chain lives")
    }

    pub fn published(&self) -> Vec<PublishedRecord> {
        self.lock().published.clone()
    }

    pub fn committed(&self) -> Committed {
        self.lock().committed
    }

    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    pub fn free_blocks(&self) -> usize {
        self.lock().free.len()
    }

    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// What is published becomes the tree's, which lies somewhere else: its blocks are free.
    pub fn commit(&self) {
        let chain = self.chain();
        let start = chain.with_published(|start| {
            let mut inner = self.lock();
            inner.committed = Committed { start, entries: inner.entries, ..inner.committed };
            inner.commits += 1;
            let overlay = std::mem::take(&mut inner.overlay);
            inner.free.extend(overlay.into_values());
            start
        });
        chain.truncate(&start);
    }

    /// Every block of the extent is free, mapped, or kept by the chain, which has stopped.
    pub fn assert_no_block_is_lost(&self, extent: BlockRun) {
        let inner = self.lock();
        let mut all: Vec<_> = inner.free.iter().copied().collect();
        all.extend(inner.overlay.values());
        all.extend(self.chain().remains());
        all.sort();
        assert_eq!(all, extent.blocks().collect::<Vec<_>>(), "each block exactly once");
    }

    fn find_run(free: &BTreeSet<BlockAddr>, near: Option<BlockAddr>, count: u64) -> BlockAddr {
        let fits = |at: &&BlockAddr| (0..count).all(|i| free.contains(&at.plus(i)));
        let near = near.filter(|near| fits(&near));
        near.or_else(|| free.iter().find(fits).copied())
            .unwrap_or_else(|| *free.first().expect("checked by the caller"))
    }
}

impl ChainSpace for Owner {
    fn take(&self, near: Option<BlockAddr>, count: u64) -> Option<Vec<BlockRun>> {
        let mut inner = self.lock();
        if to_u64(inner.free.len()) < count {
            return None;
        }
        let first = Self::find_run(&inner.free, near, count);
        let wanted = inner.free.range(first..).chain(inner.free.range(..first));
        let taken: Vec<_> = wanted.take(to_usize(count)).copied().collect();
        for block in &taken {
            inner.free.remove(block);
        }
        Some(taken.into_iter().map(|start| BlockRun { start, count: 1 }).collect())
    }

    fn refill(&self, count: u64) -> RefillFuture {
        let owner = self.this.upgrade().expect("alive");
        Box::pin(async move {
            for _ in 0..1000 {
                // Every other time the chain must first help itself.
                let settle =
                    owner.commits().is_multiple_of(2) && owner.chain().stats().retired_blocks > 0;
                if owner.lock().full || settle {
                    return Err(SpaceError::Full);
                }
                owner.commit();
                if to_u64(owner.free_blocks()) >= count {
                    return Ok(());
                }
                // What is under way holds the rest.
                owner.runtime.sleep(Duration::from_millis(1)).await;
            }
            Err(SpaceError::Full)
        })
    }

    fn give_back(&self, blocks: &[BlockAddr]) {
        let mut inner = self.lock();
        for block in blocks {
            assert!(inner.free.insert(*block), "block {block} given back twice");
        }
    }
}

impl Publish for Owner {
    fn publish(&self, record: &PublishedRecord) {
        let mut replaced = Vec::new();
        {
            let mut inner = self.lock();
            let last = inner.published.last().map_or(0, |last| last.sequence.0);
            assert_eq!(record.sequence.0, last + 1, "published in order, once");
            for entry in &record.entries {
                match entry {
                    ChainEntry::Data { vba, addr, .. } => {
                        assert!(!inner.free.contains(addr), "block {addr} is free and in use");
                        replaced.extend(inner.overlay.insert(*vba, *addr));
                    }
                    ChainEntry::Zero { range } => {
                        let gone =
                            |vba: &VirtualBlock, _: &mut BlockAddr| range.contains(&vba.raw());
                        replaced.extend(inner.overlay.extract_if(.., gone).map(|(_, addr)| addr));
                    }
                    ChainEntry::Require { .. } => {}
                }
            }
            inner.entries += record.entries.len();
            inner.published.push(record.clone());
        }
        self.chain().retire(&replaced, record.sequence);
    }

    fn published_before(&self, next: &ChainStart) {
        let mut inner = self.lock();
        let last = inner.published.last().map(|last| last.sequence.next());
        assert_eq!(last, Some(next.sequence), "after what was published, before anything else");
        inner.committed.left = *next;
    }
}
