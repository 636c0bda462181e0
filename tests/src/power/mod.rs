//! Power cuts: what the kernel's `dm-log-writes` recorded below a server, replayed to any moment, and
//! what a disk may hold then.

mod history;
mod write_log;

pub use history::{Broken, Event, Found, History, Write};
pub use write_log::{Action, Entry, LogError, WriteLog};
