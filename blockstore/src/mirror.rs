//! Blocks kept twice: the catalogue's pool.
//!
//! Owns the mapping from a block to its second copy. Never decides which copy is right: readers
//! do, by checksum. The invariant: a completed write has reached both copies.

use std::sync::Arc;

use crate::addr::{BlockAddr, BlockCount, BlockRun};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::device::{Device, IoFuture};
use crate::superblock::PoolRun;

/// A device of which every block is written twice. Addresses outside its runs are out of range.
pub struct Mirrored {
    inner: Arc<dyn Device>,
}

impl Mirrored {
    /// The runs of `pool`, on `inner`.
    pub fn new(inner: Arc<dyn Device>, pool: Vec<PoolRun>) -> Arc<Self> {
        let _ = pool;
        Arc::new(Self { inner })
    }

    /// Adds a run: the pool has grown.
    pub fn add_run(&self, run: PoolRun) {
        let _ = run;
        todo!()
    }
}

impl Device for Mirrored {
    fn block_count(&self) -> BlockCount {
        self.inner.block_count()
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        self.inner.read(at, count)
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        self.inner.write(at, data)
    }

    fn sync(&self) -> IoFuture<()> {
        self.inner.sync()
    }

    fn discard(&self, run: BlockRun) -> IoFuture<()> {
        self.inner.discard(run)
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        self.inner.grow(to)
    }
}
