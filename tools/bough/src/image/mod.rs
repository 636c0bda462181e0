//! Image files: what other programs call a disk.
//!
//! I own their formats. I open only files that the caller names, with the caller's rights, and never
//! follow a name that an image holds out of its own folder. Every image is hostile until proven otherwise.

mod detect;
mod error;
mod foreign;
#[cfg(test)]
mod fuzz_tests;
mod gate;
#[cfg(test)]
mod hostile_tests;
mod qcow2_bounds;
mod raw;
mod sparse_vmdk;
mod target;
mod upload;

pub use detect::open;
pub use error::ImageError;
pub use target::{Target, TargetOptions, create};
pub use upload::{Upload, upload};

/// What an image has from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Whether it reads as zeros.
    pub zero: bool,
    /// For how long; never zero before the end.
    pub length_bytes: u64,
}

/// An image being read.
pub trait Image: Send {
    /// The size of the disk in it, a multiple of 512.
    fn size_bytes(&self) -> u64;

    /// What it has at `offset`.
    fn map(&mut self, offset_bytes: u64) -> Result<Mapped, ImageError>;

    /// Fills `out` from `offset` on; zeros beyond the end.
    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError>;
}
