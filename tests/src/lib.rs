//! Stories across crates.

pub mod vhost;
