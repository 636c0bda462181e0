//! Choosing what to give back to the host: long free runs, once each.
//!
//! A run that is being given back is free all the while: it counts as free, so that nobody is
//! refused for it. Only granting it has to wait until the host is done.

use bough_blockstore::{BlockAddr, BlockRun, VirtualBlock};

use super::Space;
use super::runs::without;

/// What to give back next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Punch {
    /// This run: it is not granted until [`Space::end_punch`], after the discard.
    Run(BlockRun),
    /// Load these bitmap pages, then ask again.
    Load(Vec<VirtualBlock>),
    /// Nothing.
    Nothing,
}

impl Space {
    /// Chooses a run of at least `least` free, ungranted blocks of a page where some were freed
    /// since it was last looked at.
    pub fn plan_punch(&mut self, least: u64) -> Punch {
        while let Some(index) = self.search.punchable.first().copied() {
            if !self.bitmap.has(index) {
                return Punch::Load(self.missing([index]));
            }
            if let Some(run) = self.punchable_run(index, least) {
                self.busy.insert(run.start.raw()..run.end());
                return Punch::Run(run);
            }
            self.search.punchable.remove(&index);
        }
        Punch::Nothing
    }

    fn punchable_run(&mut self, index: u64, least: u64) -> Option<BlockRun> {
        let free = self.ungranted_runs(index).into_iter().flatten();
        let punched = &self.search.punched;
        let mut fresh = free.flat_map(|run| without(run.clone(), punched.within(run)));
        let range = fresh.find(|run| run.end - run.start >= least)?;
        Some(BlockRun { start: BlockAddr::of(range.start), count: range.end - range.start })
    }

    /// The host has taken a run from [`Space::plan_punch`], or would not have it: it can be
    /// granted again.
    pub fn end_punch(&mut self, run: BlockRun) {
        let range = run.start.raw()..run.end();
        self.busy.remove(range.clone());
        self.search.note_punched(range);
    }
}
