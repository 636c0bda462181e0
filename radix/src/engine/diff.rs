//! What differs between two versions.

use std::ops::ControlFlow;

use bough_blockstore::{BLOCK_BYTES_U64, BlockCount, VirtualRange};

use super::reader::{Joiner, Reader};
use super::{Engine, EngineError};
use crate::diff::diff;
use crate::info::{Extent, ExtentKind};
use crate::names::VersionName;
use crate::node::Entry;

/// The most that one batch compares, and so the most extents that it holds.
const BATCH: usize = 1024;

/// A comparison under way: the ranges in which the second version differs from the first, with
/// what the second has there, ascending and coalesced.
///
/// It goes on only while somebody asks for more, and keeps one batch, however much differs. Neither
/// version can go away before it does.
pub struct Differences {
    before: Reader,
    after: Reader,
    /// What has not been compared yet.
    blocks: VirtualRange,
    /// The block that one version ends in the middle of.
    cut: Option<u64>,
    joiner: Joiner,
}

impl Engine {
    /// Compares `b` with `a`; what lies beyond the end of `b` is zeros. Blocks that were written
    /// with the same bytes again count as different. Takes time proportional to the difference.
    ///
    /// # Errors
    /// Where there is no such version, or it cannot be written down.
    pub async fn diff(&self, a: &VersionName, b: &VersionName) -> Result<Differences, EngineError> {
        let (before, after) = (self.reader(a).await?, self.reader(b).await?);
        let size_bytes = before.size_bytes().max(after.size_bytes());
        Ok(Differences {
            blocks: 0..BlockCount::covering(size_bytes).0,
            cut: cut_block(before.size_bytes(), after.size_bytes()),
            joiner: Joiner::new(size_bytes),
            before,
            after,
        })
    }
}

impl Differences {
    /// Goes on by one batch, which may be empty; none once everything has been told.
    ///
    /// # Errors
    /// Where a tree cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Extent>>, EngineError> {
        let VirtualRange { start, end } = self.blocks;
        if start == end {
            return Ok(self.joiner.close().map(|last| vec![last]));
        }
        let batch = match self.cut {
            Some(cut) if cut == start => self.compare_cut(cut).await?,
            Some(cut) if cut > start => self.compare(start..cut).await?,
            _ => self.compare(start..end).await?,
        };
        Ok(Some(batch))
    }

    async fn compare(&mut self, blocks: VirtualRange) -> Result<Vec<Extent>, EngineError> {
        let Self { before, after, joiner, .. } = self;
        let (mut batch, mut left, mut reached) = (Vec::new(), BATCH, blocks.end);
        let cache = &after.engine.store().cache;
        let compared = diff(cache, before.root, after.root, blocks, |difference| {
            left -= 1;
            let end = difference.range.end;
            batch.extend(joiner.add(difference.range, kind_of(difference.after)));
            if left > 0 {
                return ControlFlow::Continue(());
            }
            reached = end;
            ControlFlow::Break(())
        })
        .await;
        compared.map_err(|source| {
            let version = format!("{} and {}", before.name(), after.name());
            EngineError::Tree { version, source }
        })?;
        self.blocks.start = reached;
        Ok(batch)
    }

    /// Even with one pointer in both, the block reads differently beyond the smaller one's end.
    async fn compare_cut(&mut self, block: u64) -> Result<Vec<Extent>, EngineError> {
        let (old, new) = (self.before.entry(block).await?, self.after.entry(block).await?);
        self.blocks.start = block + 1;
        if old.is_hole() && new.is_hole() {
            return Ok(Vec::new());
        }
        Ok(self.joiner.add(block..block + 1, kind_of(new)).into_iter().collect())
    }
}

/// The block that one version ends in the middle of, and the other does not.
fn cut_block(one_bytes: u64, other_bytes: u64) -> Option<u64> {
    let end_bytes = one_bytes.min(other_bytes);
    let cut = one_bytes != other_bytes && !end_bytes.is_multiple_of(BLOCK_BYTES_U64);
    cut.then_some(end_bytes / BLOCK_BYTES_U64)
}

pub(super) fn kind_of(entry: Entry) -> ExtentKind {
    if entry.is_hole() { ExtentKind::Zero } else { ExtentKind::Data }
}
