//! What hypervisors need to reach a disk. Knows no storage.

mod qemu;

pub use qemu::{QemuDisk, qemu_options};
