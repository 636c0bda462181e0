//! Aligned block buffers: what O_DIRECT wants, shared without copying.

mod arena;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::addr::BLOCK_BYTES;
use crate::buffer::arena::Memory;

/// One block's worth of bytes, aligned as O_DIRECT asks.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

static ZEROS: Block = Block([0; BLOCK_BYTES]);

/// Whole blocks of memory, owned and writable.
pub struct BlockBuf {
    memory: Memory,
    count: usize,
}

impl BlockBuf {
    /// `count` blocks of zeros.
    pub fn zeroed(count: usize) -> Self {
        let mut buf = Self::stale(count);
        buf.fill(0);
        buf
    }

    /// `count` blocks that hold whatever was in their memory: for who writes all of them.
    pub fn stale(count: usize) -> Self {
        Self { memory: Memory::new(count), count }
    }

    /// An empty buffer with room for `count` blocks.
    pub fn with_capacity(count: usize) -> Self {
        Self { memory: Memory::new(count), count: 0 }
    }

    /// Makes room for `count` blocks in all.
    pub fn reserve(&mut self, count: usize) {
        if self.memory.blocks().len() < count {
            let mut larger = Self::stale(count);
            larger.count = self.count;
            larger.copy_from_slice(self);
            *self = larger;
        }
    }

    /// Whether there is no room for one more block.
    pub fn is_full(&self) -> bool {
        self.count == self.memory.blocks().len()
    }

    /// How many blocks.
    pub fn block_count(&self) -> usize {
        self.count
    }

    /// One block.
    ///
    /// # Panics
    /// Where `index` is beyond the end: a bug of ours.
    pub fn block(&self, index: usize) -> &[u8; BLOCK_BYTES] {
        &self.memory.blocks()[..self.count][index].0
    }

    /// One block, to be written to.
    ///
    /// # Panics
    /// Where `index` is beyond the end: a bug of ours.
    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_BYTES] {
        &mut self.memory.blocks_mut()[..self.count][index].0
    }

    /// Appends one block that holds whatever was in its memory, for who writes all of it.
    pub fn push_stale(&mut self) -> &mut [u8; BLOCK_BYTES] {
        self.reserve(self.count + 1);
        self.count += 1;
        self.block_mut(self.count - 1)
    }

    /// Appends the blocks of `other`.
    pub fn append(&mut self, other: &Self) {
        let (old, count) = (self.count, self.count + other.count);
        self.reserve(count);
        self.count = count;
        self[old * BLOCK_BYTES..].copy_from_slice(other);
    }

    /// Freezes the buffer for sharing.
    pub fn share(self) -> BlockSlice {
        let count = self.block_count();
        BlockSlice { buf: Arc::new(self), first: 0, count }
    }
}

impl Default for BlockBuf {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl Deref for BlockBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // Blocks are exactly 4096 bytes at 4096-byte alignment: no padding in between.
        self.memory.blocks()[..self.count].as_flattened_bytes()
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.blocks_mut()[..self.count].as_flattened_bytes_mut()
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} blocks)", self.count)
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
            let next = BlockBuf::with_capacity(count);
            assert_eq!(next.block_count(), 0);
        }
    }

    #[test]
    fn more_room_keeps_what_is_there() {
        let mut buf = BlockBuf::with_capacity(1);
        buf.push_stale().fill(7);
        assert!(buf.is_full());
        buf.reserve(100);
        assert!(!buf.is_full());
        assert_eq!(buf.block_count(), 1);
        assert!(buf.block(0).iter().all(|byte| *byte == 7));
    }
}
