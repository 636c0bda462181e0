//! Who is changing part of a block: read-modify-write must not lose somebody else's sectors.

use std::sync::{Mutex, PoisonError};

use bough_blockstore::VirtualRange;
use tokio::sync::Notify;

use crate::range_set::RangeSet;

/// Blocks under read-modify-write.
#[derive(Default)]
pub struct RangeLock {
    held: Mutex<RangeSet>,
    released: Notify,
}

/// One range held.
pub struct HeldRange<'a> {
    lock: &'a RangeLock,
    range: VirtualRange,
}

impl RangeLock {
    /// Whether somebody holds any block of `range`; cheap where nobody holds anything.
    pub fn is_held(&self, range: &VirtualRange) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.range_count() > 0 && held.overlaps(range)
    }

    /// Waits until nobody holds any block of `range`.
    pub async fn wait(&self, range: &VirtualRange) {
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            if !self.is_held(range) {
                return;
            }
            released.await;
        }
    }

    /// Takes `range` once nobody else holds any of it.
    pub async fn hold(&self, range: VirtualRange) -> HeldRange<'_> {
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                if !held.overlaps(&range) {
                    held.insert(range.clone());
                    return HeldRange { lock: self, range };
                }
            }
            released.await;
        }
    }
}

impl Drop for HeldRange<'_> {
    fn drop(&mut self) {
        self.lock.held.lock().unwrap_or_else(PoisonError::into_inner).remove(self.range.clone());
        self.lock.released.notify_waiters();
    }
}
