//! Choosing what to give back to the host: long free runs, once each.

use bough_blockstore::{BlockAddr, BlockRun};

use super::Space;
use super::runs::without;

impl Space {
    /// Chooses a run of at least `least` free, ungranted blocks that were freed since they were
    /// last given back to the host: it is in limbo until [`Space::release_run`], after the
    /// discard. Looks only at loaded bitmap pages: blocks freed lately are told of by those.
    pub fn plan_punch(&mut self, least: u64) -> Option<BlockRun> {
        while let Some(index) = self.search.punchable.first().copied() {
            if let Some(run) = self.punchable_run(index, least) {
                let range = run.start.raw()..run.end();
                self.limbo.insert(range.clone());
                self.search.punched.insert(range);
                return Some(run);
            }
            self.search.punchable.remove(&index);
        }
        None
    }

    fn punchable_run(&mut self, index: u64, least: u64) -> Option<BlockRun> {
        if !self.bitmap.has(index) {
            return None;
        }
        let free = self.ungranted_runs(index).into_iter().flatten();
        let punched = &self.search.punched;
        let mut fresh = free.flat_map(|run| without(run.clone(), punched.within(run)));
        let range = fresh.find(|run| run.end - run.start >= least)?;
        Some(BlockRun { start: BlockAddr::of(range.start), count: range.end - range.start })
    }

    /// A run from [`Space::plan_punch`] is free again.
    pub fn release_run(&mut self, run: BlockRun) {
        self.limbo.remove(run.start.raw()..run.end());
        self.search.note_punched(run.start.raw()..run.end());
    }
}
