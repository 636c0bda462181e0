//! Disks over vhost-user-blk.
//!
//! An [`Export`] offers a disk on a socket. Each front end that connects has a thread, on which
//! its messages change a session's state; each of its queues, once running, is a task on the
//! disk's reactor. What a hostile front end or guest can do is end its own connection, with a
//! [`VhostError`] that says why.

mod channel;
mod config;
mod connection;
mod doors;
mod error;
mod eventfd;
mod export;
mod fault;
mod inflight;
mod inherited;
mod interpreter;
mod ledger;
mod memory;
mod message;
mod queue;
mod record;
mod ring;
mod session;
mod shared;
mod sigbus;
mod turn;

pub use config::MAX_QUEUES;
pub use doors::Doors;
pub use error::VhostError;
pub(crate) use export::Leavers;
pub use export::{Export, ExportOptions};
pub(crate) use inflight::{InflightQueue, InflightRegion, Shape};
pub(crate) use inherited::{Inherited, inherited_sessions};
pub(crate) use shared::{SharedMapping, SharedRegion};
