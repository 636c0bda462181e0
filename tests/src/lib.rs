//! Stories across crates.

pub mod manager;
pub mod model;
pub mod power;
pub mod stamp;
pub mod vhost;
