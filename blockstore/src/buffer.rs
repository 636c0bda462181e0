//! Aligned block buffers: what O_DIRECT wants, shared without copying.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::addr::BLOCK_BYTES;

/// One block's worth of bytes, aligned as O_DIRECT asks.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Whole blocks of memory, owned and writable.
#[derive(Clone, Default)]
pub struct BlockBuf(Vec<Block>);

impl BlockBuf {
    /// `count` blocks of zeros.
    pub fn zeroed(count: usize) -> Self {
        Self(vec![Block([0; BLOCK_BYTES]); count])
    }

    /// An empty buffer with room for `count` blocks.
    pub fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Makes room for `count` more blocks.
    pub fn reserve(&mut self, count: usize) {
        self.0.reserve_exact(count);
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
        self.0.push(Block([0; BLOCK_BYTES]));
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
