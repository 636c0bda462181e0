//! What differs between two versions.

use std::ops::ControlFlow;

use bough_blockstore::BlockCount;

use super::reader::Joiner;
use super::{Engine, EngineError};
use crate::diff::diff;
use crate::info::{Extent, ExtentKind};
use crate::names::VersionName;

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
        let blocks = 0..BlockCount::covering(size_bytes).0;
        let compared = diff(&self.store().cache, before.root, after.root, blocks, |difference| {
            let data = !difference.after.is_hole();
            let kind = if data { ExtentKind::Data } else { ExtentKind::Zero };
            joiner.add(difference.range, kind);
            ControlFlow::Continue(())
        })
        .await;
        let version = format!("{} and {}", before.name(), after.name());
        compared.map_err(|source| EngineError::Tree { version, source })?;
        joiner.finish();
        Ok(())
    }
}
