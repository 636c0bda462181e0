//! How much memory the requests of all guests together may need of us.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A bound shared by every ring of a server. Soft by one request a reactor: whether there is
/// room is asked before a request is looked at.
///
/// Where there is no room, rings take turns, a request each: a guest that always has more to ask
/// for keeps nobody waiting for longer than one request of everybody else's.
#[derive(Debug)]
pub struct Buffers {
    limit_bytes: u64,
    held_bytes: AtomicU64,
    /// Rings that wait for their turn.
    waiting: AtomicUsize,
    /// Wakes the one that has waited longest.
    freed: Notify,
}

/// Counts a ring that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Buffers {
    /// Room for `limit_bytes`, and always for one request.
    pub const fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            held_bytes: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::const_new(),
        }
    }

    /// Whether another request may be taken by somebody whose turn it is not: only while nobody
    /// waits.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.is_free()
    }

    /// Whether another request may be taken by somebody whose turn it is.
    pub(crate) fn is_free(&self) -> bool {
        let held_bytes = self.held_bytes.load(Ordering::Acquire);
        held_bytes == 0 || held_bytes < self.limit_bytes
    }

    /// Returns when it is the caller's turn to take one request. Whether it takes one or not, it
    /// [passes on](Self::pass_on) what is left.
    pub(crate) async fn turn(&self) {
        let waiting = Waiting(&self.waiting);
        waiting.0.fetch_add(1, Ordering::AcqRel);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.waiting.load(Ordering::Acquire) == 1 && self.is_free() {
                return;
            }
            freed.await;
            if self.is_free() {
                return;
            }
        }
    }

    /// Gives the next one its turn, if there is room.
    pub(crate) fn pass_on(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 && self.is_free() {
            self.freed.notify_one();
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
            self.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
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
        let mut turn = Box::pin(buffers.turn());
        assert!(turn.as_mut().poll(&mut context).is_pending());
        buffers.give_back(60);
        assert!(!buffers.has_room(), "it is somebody's turn");
        assert!(turn.as_mut().poll(&mut context).is_ready());
        drop(turn);
        assert!(buffers.has_room());
    }

    #[test]
    fn whoever_waits_gets_its_turn_before_anybody_gets_a_second_one() {
        let buffers = Buffers::new(1);
        let mut context = Context::from_waker(Waker::noop());
        buffers.take(1);
        let mut queue: std::collections::VecDeque<_> =
            (0..3).map(|ring| (ring, Box::pin(buffers.turn()))).collect();
        queue
            .iter_mut()
            .for_each(|(_, turn)| assert!(turn.as_mut().poll(&mut context).is_pending()));
        let mut served = Vec::new();
        for _ in 0..9 {
            buffers.give_back(1);
            // Whoever is asked first: the turn is not theirs.
            let ready =
                queue.iter_mut().position(|(_, turn)| turn.as_mut().poll(&mut context).is_ready());
            let (ring, _) = queue.remove(ready.expect("somebody's turn")).expect("it is there");
            assert!(buffers.is_free());
            buffers.take(1);
            buffers.pass_on();
            served.push(ring);
            let mut again = Box::pin(buffers.turn());
            assert!(again.as_mut().poll(&mut context).is_pending());
            queue.push_front((ring, again));
        }
        assert_eq!(served, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_turn_that_is_not_waited_for_any_more_is_the_next_ones() {
        let buffers = Buffers::new(1);
        let mut context = Context::from_waker(Waker::noop());
        buffers.take(1);
        let (mut gone, mut next) = (Box::pin(buffers.turn()), Box::pin(buffers.turn()));
        assert!(gone.as_mut().poll(&mut context).is_pending());
        assert!(next.as_mut().poll(&mut context).is_pending());
        buffers.give_back(1);
        drop(gone);
        assert!(next.as_mut().poll(&mut context).is_ready());
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
