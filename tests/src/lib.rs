//! Stories across crates.

pub mod manager;
pub mod stamp;
pub mod vhost;
