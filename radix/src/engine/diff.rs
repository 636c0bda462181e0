//! What differs between two versions.

use std::ops::ControlFlow;

use bough_blockstore::{BLOCK_BYTES_U64, BlockCount, VirtualRange};

use super::reader::{Joiner, Reader};
use super::{Engine, EngineError};
use crate::diff::diff;
use crate::info::{Extent, ExtentKind};
use crate::names::VersionName;
use crate::node::Entry;

impl Engine {
    /// Visits, ascending and coalesced, the ranges in which `b` differs from `a`, with what `b`
    /// has there; what lies beyond the end of `b` is zeros. Blocks that were written with the
    /// same bytes again count as different. Takes time proportional to the difference.
    ///
    /// # Errors
    /// Where there is no such version, or a tree cannot be read.
    pub async fn diff(
        &self,
        a: &VersionName,
        b: &VersionName,
        visit: &mut dyn FnMut(Extent),
    ) -> Result<(), EngineError> {
        let (before, after) = (self.reader(a).await?, self.reader(b).await?);
        let size_bytes = before.size_bytes().max(after.size_bytes());
        let mut joiner = Joiner::new(size_bytes, visit);
        let all = 0..BlockCount::covering(size_bytes).0;
        match cut_block(before.size_bytes(), after.size_bytes()) {
            None => self.compare(&before, &after, all, &mut joiner).await?,
            Some(cut) => {
                self.compare(&before, &after, all.start..cut, &mut joiner).await?;
                self.compare_cut(&before, &after, cut, &mut joiner).await?;
                self.compare(&before, &after, cut + 1..all.end, &mut joiner).await?;
            }
        }
        joiner.finish();
        Ok(())
    }

    async fn compare(
        &self,
        before: &Reader,
        after: &Reader,
        blocks: VirtualRange,
        joiner: &mut Joiner<'_>,
    ) -> Result<(), EngineError> {
        let compared = diff(&self.store().cache, before.root, after.root, blocks, |difference| {
            joiner.add(difference.range, kind_of(difference.after));
            ControlFlow::Continue(())
        })
        .await;
        let version = format!("{} and {}", before.name(), after.name());
        compared.map_err(|source| EngineError::Tree { version, source })
    }

    /// Even with one pointer in both, the block reads differently beyond the smaller one's end.
    async fn compare_cut(
        &self,
        before: &Reader,
        after: &Reader,
        block: u64,
        joiner: &mut Joiner<'_>,
    ) -> Result<(), EngineError> {
        let (old, new) = (before.entry(block).await?, after.entry(block).await?);
        if !(old.is_hole() && new.is_hole()) {
            joiner.add(block..block + 1, kind_of(new));
        }
        Ok(())
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
