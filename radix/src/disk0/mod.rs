//! Disk 0: the catalogue's pages, kept as any disk is, with commits instead of writes.
//!
//! Owns the pool, the chain and the tree that the superblock names. Knows pages, not what rows
//! mean. The invariant: a commit is one atomic group of records, and what it changed is visible to
//! readers wholly or not at all.

mod checkpoint;
mod commit;
mod error;
mod open;
mod pool;
mod scrub;
mod view;

use std::sync::{Arc, OnceLock};

use bough_blockstore::{BlockAddr, Chain, Device, Mirrored, Runtime, Superblock, VirtualBlock};
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::btree::{Page, Pages};
use crate::cache::NodeCache;
use crate::gate::ReadGate;
use crate::lookup::lookup;
use crate::overlay::Found;
use view::View;

pub use commit::{Commit, Need};
pub use error::CatalogueError;
pub use open::{FormatOptions, Opened, Recovered, Requirement, format, min_store, pool_blocks};
pub use pool::{Pool, PoolSpace};
pub use scrub::{Copies, DamagedCopy, Outcome};

/// The catalogue's medium: see the module's documentation.
pub struct Disk0 {
    device: Arc<dyn Device>,
    raw_device: Arc<dyn Device>,
    mirror: Arc<Mirrored>,
    runtime: Arc<dyn Runtime>,
    pool: Arc<Pool>,
    gate: Arc<ReadGate>,
    cache: NodeCache,
    view: Arc<View>,
    chain: Arc<Chain>,
    halted: OnceLock<CatalogueError>,
    /// Held to read while rows are looked up, to write while a commit is built.
    writer: RwLock<Superblock>,
}

/// Pages as they are, for as long as this is held no commit is built.
pub struct Snapshot<'a> {
    disk0: &'a Disk0,
    _guard: RwLockReadGuard<'a, Superblock>,
}

impl Disk0 {
    /// Pages to read.
    pub async fn read(&self) -> Snapshot<'_> {
        Snapshot { disk0: self, _guard: self.writer.read().await }
    }

    /// Who may still be reading; shared with everything else in the store.
    pub fn gate(&self) -> Arc<ReadGate> {
        Arc::clone(&self.gate)
    }

    /// The pool, for `status` and `check`.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Why the catalogue takes no more commits, if it does not.
    pub fn fault(&self) -> Option<CatalogueError> {
        let halted = self.halted.get().cloned();
        halted.or_else(|| self.chain.fault().map(CatalogueError::Halted))
    }

    async fn page(&self, page: VirtualBlock) -> Result<Arc<Page>, CatalogueError> {
        if let Some(content) = self.view.lock().in_memory(page) {
            return Ok(content);
        }
        let _reading = self.gate.enter();
        let (found, root) = {
            let mut view = self.view.lock();
            // It may have come while nobody was looking.
            if let Some(content) = view.in_memory(page) {
                return Ok(content);
            }
            (view.overlay.get(page.raw()), view.root)
        };
        let place = match found {
            Found::Data(point) => Some((point.addr, point.crc)),
            Found::Zero => None,
            Found::Miss => {
                let entry = lookup(&self.cache, root, page).await?;
                entry.is_data().then(|| (entry.addr(), entry.crc()))
            }
        };
        let content = match place {
            Some((addr, crc)) => self.read_verified(page, addr, crc).await?,
            None => Page::zeroed(),
        };
        let content = Arc::new(content);
        self.view.lock().pages.put(page.raw(), Arc::clone(&content));
        Ok(content)
    }

    async fn read_verified(
        &self,
        page: VirtualBlock,
        addr: BlockAddr,
        crc: u32,
    ) -> Result<Page, CatalogueError> {
        let good = |bytes: &[u8; 4096]| crc32fast::hash(bytes) == crc;
        let first = self.device.read(addr, 1).await;
        if let Ok(buf) = &first
            && good(buf.block(0))
        {
            return Ok(Page::new(*buf.block(0)));
        }
        tracing::warn!(%page, %addr, "the first copy of a catalogue page is damaged");
        if let Some(mirror) = self.device.read_mirror(addr, 1)
            && let Ok(buf) = mirror.await
            && good(buf.block(0))
        {
            return Ok(Page::new(*buf.block(0)));
        }
        let damaged = CatalogueError::Damaged { page: page.raw(), addr };
        Err(first.err().map_or(damaged, CatalogueError::Device))
    }

    /// Leaves nothing behind in the chain, then stops.
    pub async fn close(&self) -> Result<(), CatalogueError> {
        let mut superblock = self.writer.write().await;
        self.checkpoint(&mut superblock).await?;
        self.chain.stop().await;
        Ok(())
    }
}

impl Pages for Snapshot<'_> {
    type Error = CatalogueError;

    async fn get(&self, page: VirtualBlock) -> Result<Arc<Page>, CatalogueError> {
        self.disk0.page(page).await
    }

    fn put(&mut self, page: VirtualBlock, _: Page) {
        unreachable!("page {page} was written through a view for reading");
    }
}
