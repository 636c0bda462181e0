//! How much the overlays of all disks hold together, and when some of it has to be merged.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Entries of all overlays of a store against their bound. Shared by all disks.
pub struct OverlayBudget {
    limit: usize,
    held: AtomicUsize,
    exceeded: Notify,
}

impl OverlayBudget {
    /// `limit`: entries at which overlays are merged; at twice as many writers wait for that.
    pub const fn new(limit: usize) -> Self {
        Self { limit, held: AtomicUsize::new(0), exceeded: Notify::const_new() }
    }

    /// One overlay had `before` entries and has `after` now.
    pub fn changed(&self, before: usize, after: usize) {
        if after < before {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        } else if after > before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
            if self.is_exceeded() {
                self.exceeded.notify_one();
            }
        }
    }

    /// Whether somebody should merge something.
    pub fn is_exceeded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.limit
    }

    /// Whether merging is behind: nobody may add much more.
    pub fn is_far_exceeded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 2 * self.limit
    }

    /// Whether enough has been merged for a while.
    pub fn is_relaxed(&self) -> bool {
        self.held.load(Ordering::Relaxed) <= self.limit / 2
    }

    /// For the one that merges: returns when there may be too much. A crossing between two
    /// calls is remembered.
    pub async fn exceeded(&self) {
        self.exceeded.notified().await;
    }
}
