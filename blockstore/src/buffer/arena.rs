//! Where the memory of buffers comes from: one region of huge pages, cut into halves of halves.
//!
//! Huge pages, since the kernel pins what a device reads or writes page by page, and a guest's
//! processor walks two page tables for each page that it copies. Never given back, since every
//! page of a fresh mapping costs a fault, several times what copying it costs. What the region
//! has no room for comes from the allocator.
//!
//! Buddy system: Knuth, The Art of Computer Programming, volume 1, 2.5. Halves are united only
//! when a larger piece is wanted, so that the piece given back last, which the processor's cache
//! still holds, is the next one handed out.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use super::{Block, ZEROS};
use crate::addr::{BLOCK_BYTES, to_usize};

/// Pieces have a power of two of blocks, up to a huge page's 512.
const CLASSES: usize = 10;
const HUGE_BLOCKS: usize = 1 << (CLASSES - 1);
const HUGE_BYTES: usize = HUGE_BLOCKS * BLOCK_BYTES;
/// 16 MiB, of which the system gives us what was ever used at once.
const REGION_BLOCKS: usize = 4096;

static REGION: LazyLock<Option<Region>> = LazyLock::new(|| Region::map().ok());
static FREE: LazyLock<Mutex<Free>> = LazyLock::new(|| Mutex::new(Free::all()));

/// Memory of a buffer, which holds anything.
pub(super) enum Memory {
    Piece(Piece),
    Heap(Vec<Block>),
}

/// A part of the region that nobody else has.
pub(super) struct Piece {
    start: NonNull<Block>,
    first: usize,
    class: usize,
}

/// The mapping; it lives as long as the process.
struct Region {
    start: NonNull<Block>,
}

/// Which parts of the region nobody has: the first block of each, by class.
struct Free {
    classes: [Vec<usize>; CLASSES],
    /// Given back since halves were last united.
    ununited_blocks: usize,
}

impl Memory {
    /// Room for `count` blocks, or a little more.
    pub(super) fn new(count: usize) -> Self {
        Piece::take(count).map_or_else(|| Self::Heap(vec![ZEROS; count]), Self::Piece)
    }

    pub(super) fn blocks(&self) -> &[Block] {
        match self {
            Self::Piece(piece) => piece.blocks(),
            Self::Heap(blocks) => blocks,
        }
    }

    pub(super) fn blocks_mut(&mut self) -> &mut [Block] {
        match self {
            Self::Piece(piece) => piece.blocks_mut(),
            Self::Heap(blocks) => blocks,
        }
    }
}

impl Piece {
    fn take(count: usize) -> Option<Self> {
        let class = class_of(count)?;
        let region = REGION.as_ref()?;
        let first = free().take(class)?;
        // SAFETY: `first` is less than the region's size in blocks.
        let start = unsafe { region.start.add(first) };
        Some(Self { start, first, class })
    }

    fn blocks(&self) -> &[Block] {
        // SAFETY: `Free` hands a part of the region out once, so that it is this piece's alone
        // until that is dropped. The region is never unmapped, and was all zeros from the start:
        // it is initialised, and a `Block` may hold any bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), 1 << self.class) }
    }

    fn blocks_mut(&mut self) -> &mut [Block] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), 1 << self.class) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        free().give_back(self.first, self.class);
    }
}

// SAFETY: a piece owns its part of the region, as a box owns its heap.
unsafe impl Send for Piece {}
// SAFETY: as above; a shared piece is only read.
unsafe impl Sync for Piece {}
// SAFETY: no more than an address, of which only `Piece` makes use.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn map() -> rustix::io::Result<Self> {
        let bytes = REGION_BLOCKS * BLOCK_BYTES;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh anonymous mapping, at a place of the kernel's choice, overlays nothing.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes + HUGE_BYTES, protection, flags)? };
        // SAFETY: at most a huge page further, and so much more was mapped.
        let start = unsafe { mapped.byte_add(mapped.align_offset(HUGE_BYTES)) };
        // Refused where the kernel has no huge pages: then small ones have to do.
        // SAFETY: the range is inside our mapping; the advice changes no contents.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).expect("a mapping is nowhere near zero");
        Ok(Self { start })
    }
}

impl Free {
    fn all() -> Self {
        let mut classes = [const { Vec::new() }; CLASSES];
        // The lowest is the next one taken: what was never needed stays untouched.
        classes[CLASSES - 1].extend((0..REGION_BLOCKS).step_by(HUGE_BLOCKS).rev());
        Self { classes, ununited_blocks: 0 }
    }

    fn take(&mut self, class: usize) -> Option<usize> {
        if let Some(first) = self.classes[class].pop() {
            return Some(first);
        }
        self.split(class).or_else(|| {
            if self.ununited_blocks == 0 {
                return None;
            }
            self.unite();
            self.classes[class].pop().or_else(|| self.split(class))
        })
    }

    /// Cuts the smallest larger piece down.
    fn split(&mut self, class: usize) -> Option<usize> {
        let larger = (class + 1..CLASSES).find(|larger| !self.classes[*larger].is_empty())?;
        let first = self.classes[larger].pop()?;
        for half in class..larger {
            self.classes[half].push(first + (1 << half));
        }
        Some(first)
    }

    fn give_back(&mut self, first: usize, class: usize) {
        self.classes[class].push(first);
        self.ununited_blocks += 1 << class;
    }

    /// Makes one of every two halves that are both free.
    fn unite(&mut self) {
        self.ununited_blocks = 0;
        for class in 0..CLASSES - 1 {
            let mut halves = std::mem::take(&mut self.classes[class]);
            halves.sort_unstable_by(|a, b| b.cmp(a));
            while let Some(first) = halves.pop() {
                let other = first ^ (1 << class);
                if halves.last() == Some(&other) {
                    halves.pop();
                    self.classes[class + 1].push(first);
                } else {
                    self.classes[class].push(first);
                }
            }
        }
    }
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which pieces have room for `count` blocks.
fn class_of(count: usize) -> Option<usize> {
    let fits = (1..=HUGE_BLOCKS).contains(&count);
    fits.then(|| to_usize(u64::from(count.next_power_of_two().ilog2())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is taken and given back, in whatever order: no block is handed out twice,
        /// and in the end the whole region can be had again.
        #[test]
        fn no_block_is_handed_out_twice(
            steps in prop::collection::vec((0..CLASSES, any::<prop::sample::Index>()), 1..400),
        ) {
            let (mut free, mut taken) = (Free::all(), Vec::<(usize, usize)>::new());
            let mut in_use = vec![false; REGION_BLOCKS];
            for (class, pick) in steps {
                if let Some(first) = free.take(class) {
                    let blocks = &mut in_use[first..first + (1 << class)];
                    prop_assert!(first % (1 << class) == 0 && !blocks.contains(&true));
                    blocks.fill(true);
                    taken.push((first, class));
                } else {
                    let (first, class) = taken.swap_remove(pick.index(taken.len()));
                    in_use[first..first + (1 << class)].fill(false);
                    free.give_back(first, class);
                }
            }
            for (first, class) in taken {
                free.give_back(first, class);
            }
            for _ in 0..REGION_BLOCKS / HUGE_BLOCKS {
                prop_assert!(free.take(CLASSES - 1).is_some());
            }
            prop_assert!(free.take(0).is_none());
        }
    }

    #[test]
    fn more_than_the_region_holds_comes_from_elsewhere() {
        let many: Vec<_> =
            (0..=REGION_BLOCKS / HUGE_BLOCKS).map(|_| Memory::new(HUGE_BLOCKS)).collect();
        assert!(many.iter().any(|memory| matches!(memory, Memory::Heap(_))));
        assert!(matches!(Memory::new(HUGE_BLOCKS + 1), Memory::Heap(_)));
    }
}
