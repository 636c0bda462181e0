//! A thread, its io_uring and the tasks that live there.
//!
//! Owns the order of things on a thread: all tasks ready now are polled, first come first
//! served; then one system call submits what they asked for and fetches what has completed.
//! Never moves a task to another thread, and never frees memory that the kernel may still use:
//! an operation's buffers live in the ring until its completion arrives, whoever has lost
//! interest meanwhile. A task that panics ends the process, or at least its reactor
//! ([`OnPanic`]): what it left half done must not be served.

mod executor;
mod handle;
mod lull;
mod mailbox;
mod op;
mod patience;
mod request;
mod ring;
mod runtime;
mod shared;
#[cfg(test)]
mod tests;
mod timers;

pub use handle::{Called, OnPanic, Reactor, ReactorConfig, ReactorGone, ReactorHandle};
pub use lull::{Lull, lull};
pub use op::readable;
pub use runtime::UringRuntime;

pub(crate) use op::{offload, submit, submit_then};
pub(crate) use request::Request;
