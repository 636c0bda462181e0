//! Aligned block buffers: what O_DIRECT wants, shared without copying.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use crate::addr::BLOCK_BYTES;

/// One block's worth of bytes, aligned as O_DIRECT asks.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

static ZEROS: Block = Block([0; BLOCK_BYTES]);

/// Buffers from this size on are kept for reuse: the allocator would map and unmap them each
/// time, and every page of a fresh mapping costs a fault, several times what copying it costs.
const LARGE_BLOCKS: usize = 16;
/// How much is kept (8 MiB), and the largest buffer worth keeping.
const SPARE_BLOCKS: usize = 2048;
const LARGEST_SPARE_BLOCKS: usize = 512;

static SPARES: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());

/// An empty vector with room for `count` blocks, used before if there is one.
fn with_room(count: usize) -> Vec<Block> {
    if (LARGE_BLOCKS..=LARGEST_SPARE_BLOCKS).contains(&count) {
        let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = spares.iter().enumerate().filter(|(_, spare)| spare.capacity() >= count);
        if let Some((smallest, _)) = fitting.min_by_key(|(_, spare)| spare.capacity()) {
            return spares.swap_remove(smallest);
        }
    }
    Vec::with_capacity(count)
}

/// Keeps the memory for the next that wants so much.
fn recycle(mut blocks: Vec<Block>) {
    blocks.clear();
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    let kept: usize = spares.iter().map(Vec::capacity).sum();
    if kept + blocks.capacity() <= SPARE_BLOCKS {
        spares.push(blocks);
    }
}

/// Whole blocks of memory, owned and writable.
#[derive(Clone, Default)]
pub struct BlockBuf(Vec<Block>);

impl BlockBuf {
    /// `count` blocks of zeros.
    pub fn zeroed(count: usize) -> Self {
        let mut blocks = with_room(count);
        blocks.resize(count, ZEROS);
        Self(blocks)
    }

    /// An empty buffer with room for `count` blocks.
    pub fn with_capacity(count: usize) -> Self {
        Self(with_room(count))
    }

    /// Makes room for `count` blocks in all.
    pub fn reserve(&mut self, count: usize) {
        if self.0.capacity() < count {
            let mut larger = Self::with_capacity(count);
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
    }

    /// Whether there is no room for one more block.
    pub fn is_full(&self) -> bool {
        self.0.len() == self.0.capacity()
    }

    /// How many blocks.
    pub fn block_count(&self) -> usize {
        self.0.len()
    }

    /// One block.
    ///
    /// # Panics
    /// Where `index` is beyond the end: a bug of ours.
    pub fn block(&self, index: usize) -> &[u8; BLOCK_BYTES] {
        &self.0[index].0
    }

    /// One block, to be written to.
    ///
    /// # Panics
    /// Where `index` is beyond the end: a bug of ours.
    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_BYTES] {
        &mut self.0[index].0
    }

    /// Appends one block of zeros and hands it out.
    pub fn push_zeroed(&mut self) -> &mut [u8; BLOCK_BYTES] {
        self.0.extend_from_slice(std::slice::from_ref(&ZEROS));
        let last = self.0.len() - 1;
        &mut self.0[last].0
    }

    /// Appends the blocks of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Freezes the buffer for sharing.
    pub fn share(self) -> BlockSlice {
        let count = self.block_count();
        BlockSlice { buf: Arc::new(self), first: 0, count }
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        if (LARGE_BLOCKS..=LARGEST_SPARE_BLOCKS).contains(&self.0.capacity()) {
            recycle(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for BlockBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // Blocks are exactly 4096 bytes at 4096-byte alignment: no padding in between.
        self.0.as_slice().as_flattened_bytes()
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_flattened_bytes_mut()
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} blocks)", self.0.len())
    }
}

/// Some blocks of a frozen buffer; cheap to clone.
#[derive(Clone, Debug)]
pub struct BlockSlice {
    buf: Arc<BlockBuf>,
    first: usize,
    count: usize,
}

impl BlockSlice {
    /// How many blocks.
    pub fn block_count(&self) -> usize {
        self.count
    }

    /// `count` of these blocks from `first` on.
    ///
    /// # Panics
    /// Where that is beyond the end: a bug of ours.
    pub fn slice(&self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.count, "slice beyond the buffer");
        Self { buf: Arc::clone(&self.buf), first: self.first + first, count }
    }
}

impl Deref for BlockSlice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf[self.first * BLOCK_BYTES..(self.first + self.count) * BLOCK_BYTES]
    }
}

/// Blocks seen as bytes.
trait AsFlattenedBytes {
    fn as_flattened_bytes(&self) -> &[u8];
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8];
}

#[allow(unsafe_code)]
impl AsFlattenedBytes for [Block] {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: `Block` is `repr(C)` around `[u8; 4096]` with size equal to its alignment, so
        // the slice is `len * 4096` initialised bytes; `u8` has no alignment or validity demands.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() * BLOCK_BYTES) }
    }

    fn as_flattened_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len() * BLOCK_BYTES)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_used_before_shows_nothing_of_it() {
        for count in [1, 16, 31, 200] {
            let mut buf = BlockBuf::zeroed(count);
            buf.fill(0xff);
            drop(buf);
            assert!(BlockBuf::zeroed(count).iter().all(|byte| *byte == 0));
            let mut next = BlockBuf::with_capacity(count);
            assert_eq!(next.block_count(), 0);
            assert!(next.push_zeroed().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn more_room_keeps_what_is_there() {
        let mut buf = BlockBuf::with_capacity(1);
        buf.push_zeroed().fill(7);
        assert!(buf.is_full());
        buf.reserve(100);
        assert!(!buf.is_full());
        assert_eq!(buf.block_count(), 1);
        assert!(buf.block(0).iter().all(|byte| *byte == 7));
    }
}
