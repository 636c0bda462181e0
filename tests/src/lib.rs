//! Stories across crates.

pub mod manager;
pub mod vhost;
