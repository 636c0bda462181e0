//! Aligned block buffers: what O_DIRECT wants, shared without copying.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addr::{BLOCK_BYTES, to_usize};

/// One block's worth of bytes, aligned as O_DIRECT asks.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

static ZEROS: Block = Block([0; BLOCK_BYTES]);

/// Buffers up to this size are kept for reuse. The allocator would map and unmap large ones each
/// time, and every page of a fresh mapping costs a fault, several times what copying it costs;
/// small aligned ones would leave its heap in pieces.
const LARGEST_SPARE_BLOCKS: usize = 512;
/// One class for each power of two up to that.
const CLASSES: usize = 10;
/// How much is kept: 16 MiB. Less than what large writes under way need makes each of them
/// allocate.
const SPARE_BLOCKS: usize = 4096;

static SPARES: Mutex<Spares> =
    Mutex::new(Spares { classes: [const { Vec::new() }; CLASSES], blocks: 0 });

/// Memory that was used before and is not in use now. It is never handed to the system without
/// having been written, so all of it is initialised.
struct Spares {
    classes: [Vec<Vec<Block>>; CLASSES],
    blocks: usize,
}

impl Spares {
    fn take(&mut self, class: usize) -> Option<Vec<Block>> {
        let spare = self.classes[class].pop()?;
        self.blocks -= spare.len();
        Some(spare)
    }

    /// Where there is too much, the class that has most gives something up.
    fn keep(&mut self, class: usize, memory: Vec<Block>) {
        self.blocks += memory.len();
        self.classes[class].push(memory);
        while self.blocks > SPARE_BLOCKS {
            let held = |class: &usize| self.classes[*class].len() << class;
            let Some(gone) = (0..CLASSES).max_by_key(held).and_then(|most| self.take(most)) else {
                return;
            };
            drop(gone);
        }
    }
}

fn spares() -> MutexGuard<'static, Spares> {
    SPARES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which spares have room for `count` blocks.
fn class_of(count: usize) -> Option<usize> {
    let fits = (1..=LARGEST_SPARE_BLOCKS).contains(&count);
    fits.then(|| to_usize(u64::from(count.next_power_of_two().ilog2())))
}

const _: () = assert!(1 << (CLASSES - 1) == LARGEST_SPARE_BLOCKS);

/// Room for `count` blocks, or a little more, with anything in it.
fn memory(count: usize) -> Vec<Block> {
    match class_of(count) {
        Some(class) => {
            let spare = spares().take(class);
            spare.unwrap_or_else(|| vec![ZEROS; 1 << class])
        }
        None => vec![ZEROS; count],
    }
}

/// Whole blocks of memory, owned and writable.
#[derive(Clone, Default)]
pub struct BlockBuf {
    memory: Vec<Block>,
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
        Self { memory: memory(count), count }
    }

    /// An empty buffer with room for `count` blocks.
    pub fn with_capacity(count: usize) -> Self {
        Self { memory: memory(count), count: 0 }
    }

    /// Makes room for `count` blocks in all.
    pub fn reserve(&mut self, count: usize) {
        if self.memory.len() < count {
            let mut larger = Self::stale(count);
            larger.count = self.count;
            larger.copy_from_slice(self);
            *self = larger;
        }
    }

    /// Whether there is no room for one more block.
    pub fn is_full(&self) -> bool {
        self.count == self.memory.len()
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
        &self.memory[..self.count][index].0
    }

    /// One block, to be written to.
    ///
    /// # Panics
    /// Where `index` is beyond the end: a bug of ours.
    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_BYTES] {
        &mut self.memory[..self.count][index].0
    }

    /// Appends one block of zeros and hands it out.
    pub fn push_zeroed(&mut self) -> &mut [u8; BLOCK_BYTES] {
        let block = self.push_stale();
        block.fill(0);
        block
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

impl Drop for BlockBuf {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if let Some(class) = class_of(memory.len()) {
            spares().keep(class, memory);
        }
    }
}

impl Deref for BlockBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // Blocks are exactly 4096 bytes at 4096-byte alignment: no padding in between.
        self.memory[..self.count].as_flattened_bytes()
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory[..self.count].as_flattened_bytes_mut()
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
