//! Reading: overlay, then tree, then the device; every block verified before anybody sees it.

use std::pin::Pin;
use std::sync::Arc;

use bough_blockstore::{
    BLOCK_BYTES, BLOCK_BYTES_U64, BlockAddr, BlockBuf, VirtualRange, to_u64, to_usize,
};

use crate::disk::{Disk, Slot};
use crate::engine::BrokenRule;
use crate::error::DiskError;
use crate::lookup::{Mapping, lookup_range, try_lookup_range};
use crate::node::Kind;
use crate::node::Root;
use crate::overlay::{Found, Overlay};
use crate::store::Store;

/// The longest run read with one device operation, in blocks (1 MiB).
const RUN_BLOCKS: usize = 256;

/// A part of what a read returns.
pub enum Piece<'a> {
    /// Verified bytes.
    Bytes(&'a [u8]),
    /// That many zeros.
    Zeros(usize),
}

/// Where the bytes of one block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere: zeros.
    Zero,
    /// In the store.
    Data { addr: BlockAddr, crc: u32 },
    /// Given up when a node was damaged.
    Lost,
}

/// Bytes `offset..offset + length` of a disk or version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteRange {
    pub offset: u64,
    pub length: usize,
}

impl ByteRange {
    pub fn blocks(self) -> VirtualRange {
        let end = self.offset + to_u64(self.length);
        self.offset / BLOCK_BYTES_U64..end.div_ceil(BLOCK_BYTES_U64)
    }
}

impl Disk {
    /// Reads `length` bytes from `offset` on. `sink` gets every byte exactly once, in any order,
    /// with its place relative to `offset`.
    ///
    /// # Errors
    /// Where the range is not inside the disk, or a block cannot be read or is not what was
    /// written; `sink` may have been given other parts by then.
    pub async fn read(
        &self,
        offset: u64,
        length: usize,
        sink: &mut dyn FnMut(usize, Piece<'_>),
    ) -> Result<(), DiskError> {
        self.check_range(offset, to_u64(length))?;
        // From here until the last byte is copied, no block that we may find is used again.
        let _reading = self.store.gate.enter();
        let range = ByteRange { offset, length };
        let sources = self.locate(range.blocks()).await?;
        deliver(&self.store, &|| self.name().to_string(), range, &sources, sink).await
    }

    /// Where the newest published data of `blocks` is. The caller has entered the gate.
    pub(crate) async fn locate(&self, blocks: VirtualRange) -> Result<Vec<Source>, DiskError> {
        let (mut sources, root) = {
            let state = self.lock();
            if let Slot::Halted(_) = &state.slot {
                // What it would show may be older than what was acknowledged.
                return Err(self.refusal(&state));
            }
            let view = |block| in_overlays(&state.active, state.frozen.as_deref(), block);
            (blocks.clone().map(view).collect::<Vec<_>>(), state.base)
        };
        if sources.iter().all(Option::is_some) {
            return Ok(sources.into_iter().flatten().collect());
        }
        for mapping in self.tree_mappings(root, blocks.clone()).await? {
            for block in mapping.range.clone() {
                let slot = &mut sources[to_usize(block - blocks.start)];
                slot.get_or_insert_with(|| source_of(&mapping));
            }
        }
        Ok(sources.into_iter().map(|s| s.unwrap_or(Source::Zero)).collect())
    }

    async fn tree_mappings(
        &self,
        root: Root,
        blocks: VirtualRange,
    ) -> Result<Vec<Mapping>, DiskError> {
        if let Ok(mappings) = try_lookup_range(&self.store.cache, root, blocks.clone()) {
            return Ok(mappings);
        }
        let fetched: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(lookup_range(&self.store.cache, root, blocks));
        fetched.await.map_err(|source| DiskError::Tree { disk: self.name().to_string(), source })
    }
}

fn in_overlays(active: &Overlay, frozen: Option<&Overlay>, block: u64) -> Option<Source> {
    let found = match active.get(block) {
        Found::Miss => frozen.map_or(Found::Miss, |overlay| overlay.get(block)),
        found => found,
    };
    match found {
        Found::Data(point) => Some(Source::Data { addr: point.addr, crc: point.crc }),
        Found::Zero => Some(Source::Zero),
        Found::Miss => None,
    }
}

/// What a tree says of the blocks of one mapping.
pub(crate) fn source_of(mapping: &Mapping) -> Source {
    match mapping.entry.kind() {
        Kind::Hole => Source::Zero,
        Kind::Lost => Source::Lost,
        Kind::Data => Source::Data { addr: mapping.entry.addr(), crc: mapping.entry.crc() },
    }
}

/// Reads, verifies and hands out `range`; `sources` are those of its blocks.
pub(crate) async fn deliver(
    store: &Arc<Store>,
    name: &dyn Fn() -> String,
    range: ByteRange,
    sources: &[Source],
    sink: &mut dyn FnMut(usize, Piece<'_>),
) -> Result<(), DiskError> {
    let first_block = range.offset / BLOCK_BYTES_U64;
    let runs = runs_of(sources);
    // All reads are under way before the first is waited for.
    let reads: Vec<_> = runs
        .iter()
        .map(|run| match sources[run.first] {
            Source::Data { addr, .. } => Some(store.device.read(addr, run.count)),
            Source::Zero | Source::Lost => None,
        })
        .collect();
    for (run, read) in runs.iter().zip(reads) {
        let buf = match read {
            Some(read) => Some(read.await.map_err(|source| device_error(name, source))?),
            None => None,
        };
        for (at, source) in sources[run.first..][..run.count].iter().enumerate() {
            let virtual_block = first_block + to_u64(run.first + at);
            let place = overlap(range, virtual_block);
            let bytes = buf.as_ref().map(|buf| buf.block(at));
            match (source, bytes) {
                (Source::Data { addr, crc }, Some(bytes)) => {
                    let fresh;
                    let trusted = store.config.breaks(BrokenRule::UnverifiedReads);
                    let bytes = if trusted || crc32fast::hash(bytes) == *crc {
                        bytes
                    } else {
                        fresh = read_again(store, name, virtual_block, *addr, *crc).await?;
                        fresh.block(0)
                    };
                    sink(place.at, Piece::Bytes(&bytes[place.within]));
                }
                (Source::Lost, _) => {
                    return Err(DiskError::Lost { disk: name(), virtual_block });
                }
                _ => sink(place.at, Piece::Zeros(place.within.len())),
            }
        }
    }
    Ok(())
}

/// A second look before anything is called corrupt: the first may have been spoilt on its way.
async fn read_again(
    store: &Store,
    name: &dyn Fn() -> String,
    virtual_block: u64,
    addr: BlockAddr,
    crc: u32,
) -> Result<BlockBuf, DiskError> {
    let buf = store.device.read(addr, 1).await.map_err(|source| device_error(name, source))?;
    if crc32fast::hash(buf.block(0)) == crc {
        return Ok(buf);
    }
    let error = DiskError::Corrupt { disk: name(), virtual_block, addr };
    tracing::error!(%error, "damage found by a read");
    Err(error)
}

fn device_error(name: &dyn Fn() -> String, source: bough_blockstore::DeviceError) -> DiskError {
    DiskError::Device { disk: name(), source }
}

/// Blocks that one device operation reads, or that need none.
struct Run {
    first: usize,
    count: usize,
}

fn runs_of(sources: &[Source]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        if let Some(run) = runs.last_mut()
            && run.count < RUN_BLOCKS
            && follows(sources[index - 1], *source)
        {
            run.count += 1;
        } else {
            runs.push(Run { first: index, count: 1 });
        }
    }
    runs
}

fn follows(before: Source, after: Source) -> bool {
    match (before, after) {
        (Source::Data { addr: a, .. }, Source::Data { addr: b, .. }) => b.raw() == a.raw() + 1,
        (Source::Zero, Source::Zero) => true,
        _ => false,
    }
}

/// Which bytes of a block a range wants, and where they go.
struct Place {
    at: usize,
    within: std::ops::Range<usize>,
}

fn overlap(range: ByteRange, block: u64) -> Place {
    let block_start = block * BLOCK_BYTES_U64;
    let start = range.offset.max(block_start);
    let end = (range.offset + to_u64(range.length)).min(block_start + to_u64(BLOCK_BYTES));
    Place {
        at: to_usize(start - range.offset),
        within: to_usize(start - block_start)..to_usize(end - block_start),
    }
}
