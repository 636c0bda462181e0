//! How much guests may ask of one disk: operations and bytes in a second, and what is saved up.
//!
//! I say whether another request may be taken, and until when to wait; the ring waits. A disk
//! without limits costs one look at a flag. Requests are paid for when they are taken, whatever their
//! size: a large one is never held back for good, but those after it wait until it is paid for.
//! Flushes are free: holding them back would hold back what was paid for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bough_radix::Limits;
use tokio::sync::Notify;

/// One disk's limits and what has been used of them, shared by its rings.
#[derive(Debug)]
pub struct Throttle {
    is_limited: AtomicBool,
    state: Mutex<State>,
    /// Limits were changed: whoever waits looks again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    operations: Option<Meter>,
    bytes: Option<Meter>,
}

/// A rate, and the moment by which everything taken is paid for.
#[derive(Clone, Copy, Debug)]
struct Meter {
    per_second: u64,
    burst: Duration,
    paid_at: Duration,
}

impl Throttle {
    /// Keeps to `limits`.
    pub fn new(limits: Limits) -> Self {
        let state = Mutex::default();
        let throttle = Self { is_limited: AtomicBool::new(false), state, changed: Notify::new() };
        throttle.set(limits);
        throttle
    }

    /// Keeps to other limits from now on. What is not paid for yet is forgotten.
    pub fn set(&self, limits: Limits) {
        let burst = Duration::from_secs(limits.burst_seconds.into());
        let meter = |per_second| Meter { per_second, burst, paid_at: Duration::ZERO };
        *self.lock() =
            State { operations: limits.iops.map(meter), bytes: limits.bandwidth_bytes.map(meter) };
        self.is_limited.store(!limits.is_none(), Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Until when another request has to wait; none where it may be taken.
    pub(crate) fn wait_until(&self, now: impl FnOnce() -> Duration) -> Option<Duration> {
        if !self.is_limited.load(Ordering::Acquire) {
            return None;
        }
        let (state, now) = (self.lock(), now());
        let meters = state.operations.iter().chain(&state.bytes);
        meters.map(Meter::opens_at).max().filter(|opens_at| *opens_at > now)
    }

    /// A request of so many bytes has been taken.
    pub(crate) fn charge(&self, bytes: u64, now: impl FnOnce() -> Duration) {
        if !self.is_limited.load(Ordering::Acquire) {
            return;
        }
        let (mut state, now) = (self.lock(), now());
        state.operations.iter_mut().for_each(|meter| meter.charge(1, now));
        state.bytes.iter_mut().for_each(|meter| meter.charge(bytes, now));
    }

    /// Completes when the limits change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter {
    /// When the next request may be taken: with all before it paid for, but for what is saved up.
    fn opens_at(&self) -> Duration {
        self.paid_at.saturating_sub(self.burst)
    }

    fn charge(&mut self, count: u64, now: Duration) {
        // Rounded up: in the long run there is never more than was allowed.
        let nanos = (u128::from(count) * 1_000_000_000).div_ceil(u128::from(self.per_second));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = self.paid_at.max(now).saturating_add(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(iops: Option<u64>, bandwidth_bytes: Option<u64>, burst_seconds: u32) -> Limits {
        Limits { iops, bandwidth_bytes, burst_seconds }
    }

    /// Takes requests of `bytes` as fast as it may, from `from` until `until`; how many.
    fn flood(throttle: &Throttle, bytes: u64, from: Duration, until: Duration) -> u64 {
        let (mut now, mut taken) = (from, 0);
        while now < until {
            match throttle.wait_until(|| now) {
                Some(later) => now = later + Duration::from_nanos(1),
                None => {
                    throttle.charge(bytes, || now);
                    taken += 1;
                }
            }
        }
        taken
    }

    #[test]
    fn a_disk_without_limits_never_waits_and_never_looks_at_the_clock() {
        let throttle = Throttle::new(Limits::NONE);
        throttle.charge(1 << 40, || panic!("the clock was looked at"));
        assert_eq!(throttle.wait_until(|| panic!("the clock was looked at")), None);
    }

    #[test]
    fn in_the_long_run_there_are_as_many_operations_as_the_limit_says() {
        let throttle = Throttle::new(limits(Some(100), None, 1));
        let taken = flood(&throttle, 1 << 20, SECOND * 50, SECOND * 60);
        // Ten seconds' worth, and the one that was saved up.
        assert!((1_100..=1_101).contains(&taken), "{taken}");
        let taken = flood(&throttle, 1 << 20, SECOND * 60, SECOND * 70);
        assert!((999..=1_001).contains(&taken), "{taken}");
    }

    #[test]
    fn bytes_are_limited_however_large_the_requests_are() {
        for bytes in [512, 4096, 1 << 20, 64 << 20] {
            let throttle = Throttle::new(limits(None, Some(8 << 20), 1));
            let taken = flood(&throttle, bytes, SECOND, SECOND * 101) * bytes;
            let most = 101 * (8 << 20) + bytes;
            assert!((100 * (8 << 20)..=most).contains(&taken), "{taken} by {bytes}");
        }
    }

    #[test]
    fn the_tighter_of_two_limits_counts() {
        let throttle = Throttle::new(limits(Some(10), Some(4096 * 1000), 1));
        let taken = flood(&throttle, 4096, SECOND, SECOND * 11);
        assert!((110..=111).contains(&taken), "{taken}");
    }

    #[test]
    fn what_was_not_used_is_saved_up_for_as_long_as_was_said() {
        let throttle = Throttle::new(limits(Some(10), None, 30));
        assert!((300..=301).contains(&flood(
            &throttle,
            0,
            SECOND * 100,
            SECOND * 100 + SECOND / 20
        )));
        // All is used up; a rest of five seconds saves five seconds' worth.
        let now = SECOND * 105;
        assert!((49..=51).contains(&flood(&throttle, 0, now, now + SECOND / 20)));
    }

    #[test]
    fn other_limits_count_at_once() {
        let throttle = Throttle::new(limits(Some(1), None, 1));
        let now = SECOND * 3 / 2;
        flood(&throttle, 0, SECOND, now);
        assert!(throttle.wait_until(|| now).is_some());
        throttle.set(limits(Some(1000), None, 1));
        assert_eq!(throttle.wait_until(|| now), None);
        throttle.set(Limits::NONE);
        assert_eq!(throttle.wait_until(|| panic!("the clock was looked at")), None);
    }
}
