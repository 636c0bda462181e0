//! Making the store larger.

use bough_blockstore::{BlockAddr, BlockRun, PoolRun};

use super::open::store_blocks;
use super::{Engine, EngineError};
use crate::disk0::pool_blocks;
use crate::info::StoreStatus;

impl Engine {
    /// Makes the store `size_bytes` large, and the catalogue's part in proportion.
    ///
    /// # Errors
    /// Where that is less than it is, or the medium cannot grow.
    pub async fn grow(&self, size_bytes: u64) -> Result<StoreStatus, EngineError> {
        let _verbs = self.inner.verbs.lock().await;
        let store = self.store();
        let from = store.space().counts().total;
        let to = store_blocks(size_bytes);
        if to.0 < from {
            return Err(EngineError::StoreWouldShrink { from_bytes: from * 4096 });
        }
        store.device.grow(to).await?;
        let more = pool_blocks(to.0).saturating_sub(store.catalogue.pool().total());
        // Both copies come from the new part.
        let count = more.min((to.0 - from) / 4);
        let run = (count > 0).then(|| {
            let primary = BlockAddr::of(from);
            PoolRun { primary, mirror: primary.plus(count), count }
        });
        store.catalogue.grow(to, run).await?;
        let reserved: Vec<BlockRun> = run
            .iter()
            .flat_map(|run| {
                [run.primary, run.mirror].map(|start| BlockRun { start, count: run.count })
            })
            .collect();
        store.space().grow(to, &reserved);
        // Who waits for room looks again.
        store.backlog.ask();
        self.status().await
    }
}
