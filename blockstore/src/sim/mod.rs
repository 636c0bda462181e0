//! A machine made of one seed: executor, clock, dice and disks that fail.
//!
//! Owns the fault model that the engine is proven against. Never reads the real clock, real
//! randomness or another thread: the same seed and the same program give the same operations in
//! the same order, every time.
//!
//! # Fault model
//!
//! - A write is visible and survives a *kill* once it has completed; it survives a *power cut*
//!   once a sync has completed that was begun after that. Until then any subset survives, in
//!   any order, torn at 512 bytes.
//! - A write under way is, to readers and to a crash, any mixture of old and new sectors.
//! - Operations complete in any order. Two writes under way may not overlap: that panics.
//! - On request: I/O errors (which tear what they failed to write), failing syncs (which lose
//!   what they failed to sync, though reads go on seeing it), writes lost or gone elsewhere,
//!   bit rot, unreadable blocks, a host file system that is full.
//! - Discarded blocks read as garbage or as what they held; never usefully as zeros.
//! - Growth is durable once synced, as data is.

mod core;
mod device;
mod executor;
mod faults;
mod image;
mod pages;
mod rng;
mod runtime;
#[cfg(test)]
mod tests;

pub use device::{DeviceStats, SimDevice};
pub use executor::{Sim, Stopped};
pub use faults::{Faults, Mishap, Odds};
pub use image::{CrashKind, SimImage};
pub use rng::SimRng;
pub use runtime::SimRuntime;
