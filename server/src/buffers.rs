//! How much memory the requests of all guests together may need of us.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A bound shared by every ring of a server. Soft by one request a reactor: whether there is
/// room is asked before a request is looked at.
#[derive(Debug)]
pub struct Buffers {
    limit_bytes: u64,
    held_bytes: AtomicU64,
    freed: Notify,
}

impl Buffers {
    /// Room for `limit_bytes`, and always for one request.
    pub const fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, held_bytes: AtomicU64::new(0), freed: Notify::const_new() }
    }

    /// Whether another request may be taken.
    pub(crate) fn has_room(&self) -> bool {
        let held_bytes = self.held_bytes.load(Ordering::Acquire);
        held_bytes == 0 || held_bytes < self.limit_bytes
    }

    /// Returns when another request may be taken; by then somebody else may have been quicker.
    pub(crate) async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// A request needs so much from now on.
    pub(crate) fn take(&self, bytes: u64) {
        self.held_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// It needs it no more.
    pub(crate) fn give_back(&self, bytes: u64) {
        let before = self.held_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.limit_bytes {
            self.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn who_finds_no_room_is_woken_when_there_is_some() {
        let buffers = Buffers::new(100);
        let mut context = Context::from_waker(Waker::noop());
        buffers.take(60);
        assert!(buffers.has_room());
        buffers.take(60);
        assert!(!buffers.has_room());
        let mut room = pin!(buffers.room());
        assert!(room.as_mut().poll(&mut context).is_pending());
        buffers.give_back(60);
        assert!(room.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn one_request_larger_than_all_the_room_is_taken_alone() {
        let buffers = Buffers::new(0);
        assert!(buffers.has_room());
        buffers.take(1);
        assert!(!buffers.has_room());
        buffers.give_back(1);
        assert!(buffers.has_room());
    }
}
