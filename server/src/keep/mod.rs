//! Descriptors that outlive this process.
//!
//! A connection, a guest's memory, an eventfd is a descriptor, and one that somebody else holds too
//! does not close when we die. I own who holds ours, which descriptors are held
//! ([`Vault`]), and what a successor gets of them ([`Inheritance`]). I never look into them. The
//! store's own descriptor is never among them: its lock says who lives.

mod identity;
mod inheritance;
mod link;
pub(crate) mod service_manager;
mod stand_by;
mod vault;

pub(crate) use identity::{Identity, Role};
pub(crate) use inheritance::Inheritance;
pub(crate) use link::SpareDoor;
pub(crate) use stand_by::StandBy;
pub(crate) use vault::Kept;
pub use vault::Vault;
