//! What ended a connection: the first fault, from whichever side it came.

use std::sync::{Mutex, PoisonError};

use rustix::net::{Shutdown, shutdown};

use crate::keep::Kept;
use crate::vhost::VhostError;

/// Shared by a connection's thread and its rings.
#[derive(Debug)]
pub(crate) struct Fault {
    first: Mutex<Option<VhostError>>,
    socket: Kept,
}

impl Fault {
    /// Of the connection on `socket`.
    pub(crate) fn new(socket: Kept) -> Self {
        Self { first: Mutex::new(None), socket }
    }

    /// Ends the connection for this reason, unless another came first.
    pub(crate) fn report(&self, error: VhostError) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.hang_up();
    }

    /// Ends the connection; its thread wakes up.
    pub(crate) fn hang_up(&self) {
        // Fails only where the front end hung up first.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Why it ended, if for a reason.
    pub(crate) fn take(&self) -> Option<VhostError> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the front end has closed its side.
    pub(crate) fn front_end_is_gone(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(
            &self.socket,
            rustix::event::PollFlags::RDHUP | rustix::event::PollFlags::HUP,
        )];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(count) if count > 0)
    }
}
