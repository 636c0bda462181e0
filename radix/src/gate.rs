//! When a freed block may be used again: not before every read begun earlier has ended.
//!
//! Owns the freed blocks that a read under way may still be looking at. Reads enter a generation;
//! blocks freed meanwhile wait until that generation and all before it are empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bough_blockstore::BlockAddr;

/// Where blocks go once nobody can be reading them.
pub trait Released: Send + Sync {
    /// The blocks may be written again.
    fn released(&self, blocks: &[BlockAddr]);
}

#[derive(Default)]
struct Generation {
    readers: Arc<()>,
    freed: Vec<BlockAddr>,
}

/// The gate; one for a store.
pub struct ReadGate {
    // The last generation is the current one: never empty.
    generations: Mutex<VecDeque<Generation>>,
    released: Arc<dyn Released>,
}

/// A read under way.
pub struct Reading<'a> {
    gate: &'a ReadGate,
    generation: Option<Arc<()>>,
}

impl ReadGate {
    /// A gate that hands what it lets go of to `released`.
    pub fn new(released: Arc<dyn Released>) -> Self {
        Self { generations: Mutex::new(VecDeque::from([Generation::default()])), released }
    }

    /// Begins a read: until the guard is dropped, no block freed from now on is used again.
    pub fn enter(&self) -> Reading<'_> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let current = generations.back().map(|g| Arc::clone(&g.readers));
        Reading { gate: self, generation: current }
    }

    /// Frees `blocks` as soon as every read begun before now has ended.
    pub fn defer(&self, blocks: &[BlockAddr]) {
        if blocks.is_empty() {
            return;
        }
        {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(current) = generations.back_mut() {
                current.freed.extend_from_slice(blocks);
            }
            generations.push_back(Generation::default());
        }
        self.sweep();
    }

    fn sweep(&self) {
        loop {
            let freed = {
                let mut generations =
                    self.generations.lock().unwrap_or_else(PoisonError::into_inner);
                if generations.len() < 2 {
                    return;
                }
                // `get_mut` succeeds only when no reader is left, and synchronises with the last.
                let oldest = generations.front_mut();
                if oldest.is_none_or(|oldest| Arc::get_mut(&mut oldest.readers).is_none()) {
                    return;
                }
                generations.pop_front().map(|g| g.freed).unwrap_or_default()
            };
            self.released.released(&freed);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.generation = None;
        self.gate.sweep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<BlockAddr>>);

    impl Released for Log {
        fn released(&self, blocks: &[BlockAddr]) {
            self.0.lock().unwrap().extend_from_slice(blocks);
        }
    }

    #[test]
    fn a_freed_block_waits_for_reads_begun_before_it_was_freed_and_no_others() {
        let log = Arc::new(Log::default());
        let gate = ReadGate::new(Arc::clone(&log) as Arc<dyn Released>);
        let released = || log.0.lock().unwrap().iter().map(|b| b.raw()).collect::<Vec<_>>();

        let early = gate.enter();
        gate.defer(&[BlockAddr::of(1)]);
        let late = gate.enter();
        gate.defer(&[BlockAddr::of(2)]);
        assert!(released().is_empty());
        drop(early);
        assert_eq!(released(), [1]);
        drop(late);
        assert_eq!(released(), [1, 2]);
        gate.defer(&[BlockAddr::of(3)]);
        assert_eq!(released(), [1, 2, 3]);
    }
}
