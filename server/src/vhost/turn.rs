//! What the task of a ring does next, and what it may.

use std::time::Duration;

/// What the server task does next.
pub(super) enum Turn {
    /// There may be more.
    More,
    /// There was something, and then nothing more.
    Taken,
    /// There was nothing at all.
    Idle,
    /// Wait for a completion.
    Wait,
    /// Wait until other guests' requests need less memory.
    WaitForRoom,
    /// Wait until the disk's limits allow more.
    WaitUntil(Duration),
    /// The ring has stopped.
    Stop,
}

/// By what right memory is taken that all guests share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Right {
    /// While nobody waits for any.
    Common,
    /// It is our turn.
    Turn,
}
