//! Who sleeps until when.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

/// When, and a number to tell apart those due at once.
pub(super) type TimerKey = (Duration, u64);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Timers {
    sleepers: BTreeMap<TimerKey, Waker>,
    next: u64,
}

impl Timers {
    pub(super) fn insert(&mut self, due: Duration, waker: Waker) -> TimerKey {
        let key = (due, self.next);
        self.next += 1;
        self.sleepers.insert(key, waker);
        key
    }

    /// Replaces a sleeper's waker and returns the old one; `None` where it has been woken.
    pub(super) fn rewake(&mut self, key: TimerKey, waker: &Waker) -> Option<Waker> {
        let held = self.sleepers.get_mut(&key)?;
        Some(std::mem::replace(held, waker.clone()))
    }

    pub(super) fn cancel(&mut self, key: TimerKey) -> Option<Waker> {
        self.sleepers.remove(&key)
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.sleepers.first_key_value().map(|((due, _), _)| *due)
    }

    /// One who has slept enough.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Waker> {
        if self.next_due()? <= now {
            self.sleepers.pop_first().map(|(_, waker)| waker)
        } else {
            None
        }
    }
}
