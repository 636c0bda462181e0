//! Sparse contents of a simulated medium: cheap to clone, cheap to change after cloning.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rng::SimRng;
use crate::addr::{BLOCK_BYTES, to_usize};

/// Bytes that a disk writes atomically.
pub(super) const SECTOR_BYTES: usize = 512;
/// All sectors of a block.
pub(super) const WHOLE: u8 = 0xff;

const CHUNK_PAGES: u64 = 64;

/// One block's contents.
#[derive(Clone, Debug)]
pub(super) enum Page {
    /// What somebody wrote.
    Bytes(Arc<[u8; BLOCK_BYTES]>),
    /// What a discarded block still reads as, though the host keeps it no longer.
    Stale(Arc<[u8; BLOCK_BYTES]>),
    /// Noise, made from a seed when somebody looks. The host keeps no block for it.
    Garbage(u64),
    /// Zeros that the host keeps no block for.
    Hole,
}

impl Page {
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        let mut page = [0; BLOCK_BYTES];
        page.copy_from_slice(bytes);
        Self::Bytes(Arc::new(page))
    }

    pub(super) fn copy_to(&self, out: &mut [u8; BLOCK_BYTES]) {
        match self {
            Self::Bytes(bytes) | Self::Stale(bytes) => out.copy_from_slice(&bytes[..]),
            Self::Garbage(seed) => SimRng::new(*seed).fill(out),
            Self::Hole => out.fill(0),
        }
    }

    /// The same contents, kept by the host.
    pub(super) fn kept(&self) -> Self {
        match self {
            Self::Bytes(bytes) | Self::Stale(bytes) => Self::Bytes(Arc::clone(bytes)),
            Self::Garbage(_) | Self::Hole => {
                let mut bytes = [0; BLOCK_BYTES];
                self.copy_to(&mut bytes);
                Self::Bytes(Arc::new(bytes))
            }
        }
    }

    /// What a discard leaves of it.
    pub(super) fn discarded(&self, rng: &mut SimRng) -> Self {
        match (rng.below(4), self) {
            (0, Self::Bytes(bytes)) => Self::Stale(Arc::clone(bytes)),
            (1, _) => Self::Hole,
            _ => Self::Garbage(rng.next_u64()),
        }
    }

    /// Whether the host keeps a block for it.
    pub(super) const fn is_allocated(&self) -> bool {
        matches!(self, Self::Bytes(_))
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) | (Self::Stale(a), Self::Stale(b)) => {
                Arc::ptr_eq(a, b)
            }
            (Self::Garbage(a), Self::Garbage(b)) => a == b,
            (Self::Hole, Self::Hole) => true,
            _ => false,
        }
    }

    /// The sectors of `newer` whose bit is set in `mask`, the others of `self`.
    pub(super) fn mixed(&self, newer: &Self, mask: u8) -> Self {
        if mask == 0 || self.is_same(newer) {
            return self.clone();
        }
        if mask == WHOLE {
            return newer.clone();
        }
        let (mut bytes, mut source) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
        self.copy_to(&mut bytes);
        newer.copy_to(&mut source);
        let sectors = bytes.chunks_mut(SECTOR_BYTES).zip(source.chunks(SECTOR_BYTES));
        for (index, (old, new)) in sectors.enumerate() {
            if mask & (1 << index) != 0 {
                old.copy_from_slice(new);
            }
        }
        Self::Bytes(Arc::new(bytes))
    }
}

/// Pages by block number; absent ones are the medium's virgin contents.
#[derive(Clone, Debug, Default)]
pub(super) struct PageMap(BTreeMap<u64, Arc<Vec<Option<Page>>>>);

impl PageMap {
    pub(super) fn get(&self, block: u64) -> Option<&Page> {
        let chunk = self.0.get(&(block / CHUNK_PAGES))?;
        chunk[to_usize(block % CHUNK_PAGES)].as_ref()
    }

    /// Puts `page` in place; says what was there.
    pub(super) fn put(&mut self, block: u64, page: Page) -> Option<Page> {
        let chunk = self
            .0
            .entry(block / CHUNK_PAGES)
            .or_insert_with(|| Arc::new(vec![None; to_usize(CHUNK_PAGES)]));
        Arc::make_mut(chunk)[to_usize(block % CHUNK_PAGES)].replace(page)
    }

    /// Forgets everything from block `end` on.
    pub(super) fn truncate(&mut self, end: u64) {
        self.0.split_off(&end.div_ceil(CHUNK_PAGES));
        let Some(chunk) = self.0.get_mut(&(end / CHUNK_PAGES)) else { return };
        for page in &mut Arc::make_mut(chunk)[to_usize(end % CHUNK_PAGES)..] {
            *page = None;
        }
    }

    /// How many blocks the host keeps for these pages.
    pub(super) fn allocated(&self) -> usize {
        let pages = self.0.values().flat_map(|chunk| chunk.iter().flatten());
        pages.filter(|page| page.is_allocated()).count()
    }
}
