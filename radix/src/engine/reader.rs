//! A frozen view of a version, for exports and comparisons.

use std::ops::Range;

use bough_blockstore::{BLOCK_BYTES_U64, BlockCount, to_u64};

use super::diff::kind_of;
use super::find::version_row;
use super::{Engine, EngineError};
use crate::catalogue::{Rows, VersionId, VersionRow};
use crate::disk::{ByteRange, Piece, deliver, source_of};
use crate::error::DiskError;
use crate::info::{Extent, ExtentKind};
use crate::lookup::lookup_range;
use crate::names::VersionName;
use crate::node::{Entry, Root};

/// Blocks looked up at a time.
const LOOK_BLOCKS: u64 = 4096;

/// A version to read from; it cannot go away meanwhile.
pub struct Reader {
    pub(super) engine: Engine,
    pub(super) version: VersionId,
    name: String,
    pub(super) root: Root,
    size_bytes: u64,
}

impl Engine {
    /// A frozen view: of a snapshot, or of a head as it is now.
    ///
    /// # Errors
    /// Where there is no such version, or it cannot be written down.
    pub async fn reader(&self, name: &VersionName) -> Result<Reader, EngineError> {
        // Between taking the snapshot and pinning it nobody may delete it.
        let _verbs = self.inner.verbs.lock().await;
        let id = match name {
            VersionName::Head(disk) => self.anonymous_snapshot(disk).await?,
            VersionName::Snapshot(_) => {
                let mut view = self.store().catalogue.read().await;
                let (_, version) = version_row(&Rows::new(&mut view), name).await?;
                self.pin(version.id);
                version.id
            }
        };
        let mut reader = Reader {
            engine: self.clone(),
            version: id,
            name: name.to_string(),
            root: Root::empty(0),
            size_bytes: 0,
        };
        let row = self.materialised(id).await?;
        reader.root = row.root;
        reader.size_bytes = row.size_bytes;
        Ok(reader)
    }

    /// The row of a version that has a tree of its own.
    async fn materialised(&self, id: VersionId) -> Result<VersionRow, EngineError> {
        let (disk, row) = {
            let mut view = self.store().catalogue.read().await;
            let rows = Rows::new(&mut view);
            let row = rows.version(id).await?;
            (rows.get_disk(row.disk).await?, row)
        };
        if let Some(disk) = disk {
            self.materialise(&disk, &row).await?;
        }
        let mut view = self.store().catalogue.read().await;
        Ok(Rows::new(&mut view).version(id).await?)
    }

    /// Keeps a version from being deleted or reclaimed.
    pub(super) fn pin(&self, version: VersionId) {
        *self.pins().entry(version).or_default() += 1;
    }

    /// Undoes one [`Engine::pin`]; the reclaimer may have waited for it.
    pub(super) fn unpin(&self, version: VersionId) {
        let mut pins = self.pins();
        if let Some(count) = pins.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&version);
            }
        }
        drop(pins);
        self.store().backlog.ask();
    }
}

impl Reader {
    /// The size that a guest would see.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills `out` from byte `offset` on; every block is verified.
    ///
    /// # Errors
    /// Where the range is not inside the version, or a block cannot be read or is damaged.
    pub async fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), EngineError> {
        let length = to_u64(out.len());
        if offset.checked_add(length).is_none_or(|end| end > self.size_bytes) {
            return Err(DiskError::OutOfRange {
                disk: self.name.clone(),
                offset_bytes: offset,
                length_bytes: length,
                size_bytes: self.size_bytes,
            }
            .into());
        }
        let range = ByteRange { offset, length: out.len() };
        let store = self.engine.store();
        let _reading = store.gate.enter();
        let mappings = lookup_range(&store.cache, self.root, range.blocks())
            .await
            .map_err(|source| EngineError::Tree { version: self.name.clone(), source })?;
        let sources: Vec<_> = mappings
            .iter()
            .flat_map(|mapping| mapping.range.clone().map(|_| source_of(mapping)))
            .collect();
        let name = || self.name.clone();
        deliver(store, &name, range, &sources, &mut |at, piece| match piece {
            Piece::Bytes(bytes) => out[at..at + bytes.len()].copy_from_slice(bytes),
            Piece::Zeros(count) => out[at..at + count].fill(0),
        })
        .await?;
        Ok(())
    }

    /// Tells where data is and where zeros are in a range of bytes that begins on a block,
    /// ascending and coalesced.
    ///
    /// # Errors
    /// Where the tree cannot be read.
    pub async fn extents(
        &self,
        range: Range<u64>,
        visit: &mut dyn FnMut(Extent),
    ) -> Result<(), EngineError> {
        let end_bytes = range.end.min(self.size_bytes);
        let mut joiner = Joiner::new(end_bytes);
        let end = BlockCount::covering(end_bytes).0;
        let mut from = range.start / BLOCK_BYTES_U64;
        while from < end {
            let upto = end.min(from + LOOK_BLOCKS);
            let store = self.engine.store();
            let mappings = lookup_range(&store.cache, self.root, from..upto)
                .await
                .map_err(|source| EngineError::Tree { version: self.name.clone(), source })?;
            for mapping in mappings {
                joiner.add(mapping.range, kind_of(mapping.entry)).into_iter().for_each(&mut *visit);
            }
            from = upto;
        }
        joiner.close().into_iter().for_each(visit);
        Ok(())
    }

    /// What the tree has for one block.
    pub(super) async fn entry(&self, block: u64) -> Result<Entry, EngineError> {
        let found = lookup_range(&self.engine.store().cache, self.root, block..block + 1)
            .await
            .map_err(|source| EngineError::Tree { version: self.name.clone(), source })?;
        Ok(found.first().map_or(Entry::HOLE, |mapping| mapping.entry))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.engine.unpin(self.version);
    }
}

/// Joins neighbouring ranges of one kind, in bytes cut to a size.
pub(super) struct Joiner {
    size_bytes: u64,
    open: Option<(Range<u64>, ExtentKind)>,
}

impl Joiner {
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, open: None }
    }

    /// Takes the next range of blocks, ascending; returns the extent that it does not continue.
    pub fn add(&mut self, blocks: Range<u64>, kind: ExtentKind) -> Option<Extent> {
        match &mut self.open {
            Some((open, of_kind)) if *of_kind == kind && open.end == blocks.start => {
                open.end = blocks.end;
                None
            }
            _ => {
                let before = self.close();
                self.open = Some((blocks, kind));
                before
            }
        }
    }

    /// The extent that nothing will continue.
    pub fn close(&mut self) -> Option<Extent> {
        let (blocks, kind) = self.open.take()?;
        let start_bytes = blocks.start * BLOCK_BYTES_U64;
        let end_bytes = (blocks.end * BLOCK_BYTES_U64).min(self.size_bytes);
        let length_bytes = end_bytes.checked_sub(start_bytes).filter(|length| *length > 0)?;
        Some(Extent { start_bytes, length_bytes, kind })
    }
}
