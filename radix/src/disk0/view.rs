//! What disk 0 holds at this moment: tree, overlay, and pages on their way to the device.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bough_blockstore::{
    BlockAddr, Chain, ChainEntry, Epoch, Publish, PublishedRecord, VirtualBlock,
};
use lru::LruCache;

use crate::btree::Page;
use crate::node::Root;
use crate::overlay::{Overlay, Point};

/// Disk 0 is never snapshotted: it lives in one epoch.
pub const EPOCH: Epoch = Epoch::of(1);

/// The catalogue's state in memory; told by its chain what has reached the device.
pub struct View {
    state: Mutex<ViewState>,
    chain: OnceLock<Weak<Chain>>,
}

pub struct ViewState {
    /// The committed tree.
    pub root: Root,
    /// What the chain says beyond it.
    pub overlay: Overlay,
    /// Pages staged and not yet published, with their checksums.
    pub unpublished: BTreeMap<u64, (u32, Arc<Page>)>,
    /// Recently used pages; always the newest content.
    pub pages: LruCache<u64, Arc<Page>>,
}

impl View {
    pub fn new(root: Root, page_capacity: NonZeroUsize) -> Arc<Self> {
        let state = ViewState {
            root,
            overlay: Overlay::default(),
            unpublished: BTreeMap::new(),
            pages: LruCache::new(page_capacity),
        };
        Arc::new(Self { state: Mutex::new(state), chain: OnceLock::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, ViewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which chain to tell of the blocks that a record replaces.
    pub fn follow(&self, chain: &Arc<Chain>) {
        let _ = self.chain.set(Arc::downgrade(chain));
    }
}

impl ViewState {
    /// The page, where nobody has to read it: it is on its way to the device, or was used lately.
    pub fn in_memory(&mut self, page: VirtualBlock) -> Option<Arc<Page>> {
        let staged = self.unpublished.get(&page.raw()).map(|(_, staged)| staged);
        staged.or_else(|| self.pages.get(&page.raw())).cloned()
    }

    /// Applies what a record says; gives the blocks that it replaces within the chain.
    pub fn apply(&mut self, entries: &[ChainEntry]) -> Vec<BlockAddr> {
        let mut replaced = Vec::new();
        for entry in entries {
            match entry {
                ChainEntry::Data { vba, addr, crc } => {
                    let point = Point { addr: *addr, crc: *crc, epoch: EPOCH };
                    replaced.extend(self.overlay.put(vba.raw(), point));
                    let published = self.unpublished.get(&vba.raw()).is_some_and(|(c, _)| c == crc);
                    if published {
                        self.unpublished.remove(&vba.raw());
                    }
                }
                ChainEntry::Zero { range } => {
                    replaced.extend(self.overlay.zero(range.clone(), EPOCH));
                }
                ChainEntry::Require { .. } => {}
            }
        }
        replaced
    }
}

impl Publish for View {
    fn publish(&self, record: &PublishedRecord) {
        let replaced = self.lock().apply(&record.entries);
        if let Some(chain) = self.chain.get().and_then(Weak::upgrade) {
            chain.retire(&replaced, record.sequence);
        }
    }
}
