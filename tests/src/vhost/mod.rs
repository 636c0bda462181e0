//! What vhost-user stories need: a disk whose every request is under the test's control, and a
//! front end that says what it is told to, right or wrong.

mod disk;
mod driver;
mod frontend;
mod rig;

pub use disk::{DiskFailure, Done, MemoryDisk};
pub use driver::{
    DISCARD, Driver, FLUSH, GET_ID, INDIRECT, NEXT, READ, WRITE, WRITE_ZEROES, WRITEABLE,
    descriptor,
};
pub use frontend::{Ask, FrontEnd, Reply, features, protocol, request};
pub use rig::Rig;
