//! A medium in memory that counts, breaks on demand, and takes one turn for every read.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bough_blockstore::{
    BLOCK_BYTES, BlockAddr, BlockBuf, BlockCount, BlockRun, BlockSlice, Device, DeviceError,
    DeviceFault, IoFuture, Operation,
};

use super::tree::{NodeCache, NodeSink};
use crate::node::Node;
use crate::path::Position;
use crate::tree_error::TreeError;

type Block = Box<[u8; BLOCK_BYTES]>;

/// What is wrong with a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One bit reads wrong, this many times.
    Rot { reads: u32 },
    /// Reading fails.
    Unreadable,
}

#[derive(Default)]
pub(crate) struct Medium {
    blocks: Mutex<BTreeMap<u64, Block>>,
    faults: Mutex<BTreeMap<u64, Fault>>,
    is_mirrored: bool,
    reads: AtomicU64,
}

impl Medium {
    /// With a second copy of everything, which is never broken.
    pub(crate) fn mirrored() -> Self {
        Self { is_mirrored: true, ..Self::default() }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8; BLOCK_BYTES]) {
        self.blocks.lock().unwrap().insert(at, Box::new(*bytes));
    }

    pub(crate) fn scribble(&self, at: u64) {
        self.put(at, &[0xa5; BLOCK_BYTES]);
    }

    pub(crate) fn break_block(&self, at: BlockAddr, fault: Fault) {
        self.faults.lock().unwrap().insert(at.raw(), fault);
    }

    fn read_now(&self, at: BlockAddr) -> Result<BlockBuf, DeviceFault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut buf = BlockBuf::zeroed(1);
        match self.blocks.lock().unwrap().get(&at.raw()) {
            Some(block) => buf.block_mut(0).copy_from_slice(&block[..]),
            None => buf.block_mut(0).fill(0x5a),
        }
        match self.faults.lock().unwrap().get_mut(&at.raw()) {
            Some(Fault::Unreadable) => {
                return Err(DeviceFault::Io(Arc::new(std::io::ErrorKind::Other.into())));
            }
            Some(Fault::Rot { reads }) if *reads > 0 => {
                *reads -= 1;
                buf.block_mut(0)[77] ^= 4;
            }
            _ => {}
        }
        Ok(buf)
    }
}

impl Device for Medium {
    fn block_count(&self) -> BlockCount {
        BlockCount(1 << 40)
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        assert_eq!(count, 1, "the tree reads node by node");
        let answer = self.read_now(at).map_err(|kind| DeviceError {
            operation: Operation::Read,
            at,
            run_count: 1,
            kind,
        });
        Box::pin(async move {
            one_turn().await;
            answer
        })
    }

    fn read_mirror(&self, at: BlockAddr, _: usize) -> Option<IoFuture<BlockBuf>> {
        let block = self.blocks.lock().unwrap().get(&at.raw()).cloned()?;
        let mut buf = BlockBuf::zeroed(1);
        buf.block_mut(0).copy_from_slice(&block[..]);
        self.is_mirrored.then(|| -> IoFuture<BlockBuf> { Box::pin(async move { Ok(buf) }) })
    }

    fn write(&self, _: BlockAddr, _: BlockSlice) -> IoFuture<()> {
        unreachable!("nodes are written by a sink")
    }

    fn sync(&self) -> IoFuture<()> {
        unreachable!("trees sync nothing")
    }

    fn discard(&self, _: BlockRun) -> IoFuture<()> {
        unreachable!("trees discard nothing")
    }

    fn reserve(&self, _: BlockRun) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }

    fn is_sparse(&self) -> bool {
        false
    }

    fn grow(&self, _: BlockCount) -> IoFuture<()> {
        unreachable!("trees grow nothing")
    }
}

async fn one_turn() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

/// Polls until done; everything here needs few turns.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
    panic!("the future never completes")
}

/// What a block is in use for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Node,
    Data(u32),
}

/// What a test found wrong.
#[derive(Debug)]
pub(crate) enum Violation {
    FreedTwice(#[allow(dead_code, reason = "shown by Debug")] u64),
    Tree(#[allow(dead_code, reason = "shown by Debug")] TreeError),
    Other(#[allow(dead_code, reason = "shown by Debug")] String),
}

impl From<TreeError> for Violation {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// A medium with an allocator that reuses blocks as soon as it may, and never forgives.
pub(crate) struct Store {
    pub(crate) medium: Arc<Medium>,
    pub(crate) cache: NodeCache,
    pub(crate) used: BTreeMap<u64, Use>,
    free: Vec<u64>,
    next: u64,
    content: u32,
}

impl Store {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        Self::over(Medium::default(), cache_bytes)
    }

    pub(crate) fn over(medium: Medium, cache_bytes: u64) -> Self {
        let medium = Arc::new(medium);
        let cache = NodeCache::new(Arc::clone(&medium) as Arc<dyn Device>, cache_bytes);
        Self { medium, cache, used: BTreeMap::new(), free: Vec::new(), next: 1, content: 0 }
    }

    fn take(&mut self, what: Use) -> u64 {
        let at = self.free.pop().unwrap_or(self.next);
        self.next = self.next.max(at + 1);
        self.used.insert(at, what);
        at
    }

    /// A block of new data; the "checksum" is its content.
    pub(crate) fn write_data(&mut self) -> (BlockAddr, u32) {
        self.content += 1;
        let at = self.take(Use::Data(self.content));
        self.medium.scribble(at);
        (BlockAddr::of(at), self.content)
    }

    pub(crate) fn release(&mut self, freed: &[BlockAddr]) -> Result<(), Violation> {
        for at in freed {
            self.used.remove(&at.raw()).ok_or(Violation::FreedTwice(at.raw()))?;
            self.medium.scribble(at.raw());
            self.free.push(at.raw());
        }
        Ok(())
    }
}

/// A sink that borrows all of a store but its cache.
pub(crate) struct Sink<'a> {
    pub(crate) medium: &'a Medium,
    pub(crate) used: &'a mut BTreeMap<u64, Use>,
    pub(crate) free: &'a mut Vec<u64>,
    pub(crate) next: &'a mut u64,
    pub(crate) put: u64,
}

impl NodeSink for Sink<'_> {
    type Error = Violation;

    async fn put(&mut self, position: Position, node: &Node) -> Result<BlockAddr, Violation> {
        assert!(node.entries().any(|entry| !entry.is_hole()), "an empty node at {position}");
        let at = self.free.pop().unwrap_or(*self.next);
        *self.next = (*self.next).max(at + 1);
        self.used.insert(at, Use::Node);
        self.medium.put(at, node.bytes());
        self.put += 1;
        one_turn().await;
        Ok(BlockAddr::of(at))
    }
}

impl Store {
    pub(crate) fn split(&mut self) -> (&NodeCache, Sink<'_>) {
        let sink = Sink {
            medium: &self.medium,
            used: &mut self.used,
            free: &mut self.free,
            next: &mut self.next,
            put: 0,
        };
        (&self.cache, sink)
    }
}
