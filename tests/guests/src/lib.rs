//! Real guests on Bough's disks.
//!
//! Owns the Debian image (`debian-image`), the QEMU harness, the stories that run in it and the
//! demo. Drives the `bough` binary from outside, as a person would: no crate of the product is
//! linked. Invariant: every process started here dies with its starter, even by `kill -9`.

mod agent;
mod bough;
mod demo;
mod image;
mod machine;
mod process;
mod qmp;
mod scene;
mod scratch;
mod stories;
mod story;

pub use demo::demo;
pub use image::debian_image;
pub use stories::{Programs, play};
pub use story::Tally;
