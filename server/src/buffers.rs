//! How much memory the requests of all guests together may need of us.

use crate::sync::{AtomicU64, AtomicUsize, Notify, Ordering, fence};

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
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            held_bytes: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
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
        // Of this fence and that of `give_back` one comes first: either we see that there is room
        // or they see that somebody waits for it.
        fence(Ordering::SeqCst);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            // The room may have come before we stood in line, and nobody else may be there to say
            // so: it is for whoever has stood there longest.
            self.pass_on();
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
            fence(Ordering::SeqCst);
            self.pass_on();
        }
    }
}
