//! When a freed block may be used again: not before every read begun earlier has ended.
//!
//! Owns the freed blocks that a read under way may still be looking at. Reads enter a generation;
//! blocks freed meanwhile wait until that generation and all before it are empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_blockstore::BlockAddr;
use tokio::sync::Notify;

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

#[derive(Default)]
struct Generations {
    // The last one is the current one: never empty.
    waiting: VecDeque<Generation>,
    /// How many have ended: blocks were freed in them.
    closed: u64,
    /// How many of those have been let go of.
    done: u64,
}

/// The gate; one for a store.
pub struct ReadGate {
    generations: Mutex<Generations>,
    released: Arc<dyn Released>,
    /// Some blocks have been let go of.
    swept: Notify,
}

/// A read under way.
pub struct Reading<'a> {
    gate: &'a ReadGate,
    generation: Option<Arc<()>>,
}

impl ReadGate {
    /// A gate that hands what it lets go of to `released`.
    pub fn new(released: Arc<dyn Released>) -> Self {
        let waiting = VecDeque::from([Generation::default()]);
        let generations = Mutex::new(Generations { waiting, closed: 0, done: 0 });
        Self { generations, released, swept: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read: until the guard is dropped, no block freed from now on is used again.
    pub fn enter(&self) -> Reading<'_> {
        let current = self.lock().waiting.back().map(|g| Arc::clone(&g.readers));
        Reading { gate: self, generation: current }
    }

    /// Frees `blocks` as soon as every read begun before now has ended.
    pub fn defer(&self, blocks: &[BlockAddr]) {
        if blocks.is_empty() {
            return;
        }
        {
            let mut generations = self.lock();
            if let Some(current) = generations.waiting.back_mut() {
                current.freed.extend_from_slice(blocks);
            }
            generations.waiting.push_back(Generation::default());
            generations.closed += 1;
        }
        self.sweep();
    }

    /// Returns when what has been freed by now has been let go of: no later than the last of the
    /// reads under way ends.
    pub async fn drained(&self) {
        let upto = self.lock().closed;
        loop {
            let mut swept = std::pin::pin!(self.swept.notified());
            swept.as_mut().enable();
            if self.lock().done >= upto {
                return;
            }
            swept.await;
        }
    }

    fn sweep(&self) {
        loop {
            let freed = {
                let waiting = &mut self.lock().waiting;
                if waiting.len() < 2 {
                    return;
                }
                // `get_mut` succeeds only when no reader is left, and synchronises with the last.
                let oldest = waiting.front_mut();
                if oldest.is_none_or(|oldest| Arc::get_mut(&mut oldest.readers).is_none()) {
                    return;
                }
                waiting.pop_front().map(|g| g.freed).unwrap_or_default()
            };
            self.released.released(&freed);
            self.lock().done += 1;
            self.swept.notify_waiters();
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
    use std::pin::pin;
    use std::task::{Context, Waker};

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

    #[test]
    fn who_waits_for_freed_blocks_waits_for_reads_begun_before_and_no_others() {
        let gate = ReadGate::new(Arc::new(Log::default()));
        let mut context = Context::from_waker(Waker::noop());
        let early = gate.enter();
        gate.defer(&[BlockAddr::of(1)]);
        let late = gate.enter();
        let mut drained = pin!(gate.drained());
        assert!(drained.as_mut().poll(&mut context).is_pending());
        gate.defer(&[BlockAddr::of(2)]);
        drop(early);
        assert!(drained.as_mut().poll(&mut context).is_ready());
        drop(late);
    }
}
