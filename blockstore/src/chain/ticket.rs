//! A staged write's claim on an answer.

/// A staged write, to be waited for. Dropping it withdraws nothing.
#[derive(Clone, Debug)]
pub struct Ticket {}
