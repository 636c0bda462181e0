//! What can be wrong with an image file.

use std::io;
use std::path::PathBuf;

/// Why an image could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file.
    #[error("'{path}': {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the kernel, or the format's driver, said.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("'{path}' is neither a file nor a block device; name one that is")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A format we do not read.
    #[error(
        "'{path}' is a {format} image, which Bough does not read; convert it first: \
         qemu-img convert -O qcow2 '{path}' disk.qcow2"
    )]
    OtherFormat {
        /// Which file.
        path: PathBuf,
        /// What it looks like.
        format: &'static str,
    },
    /// The image is broken, or made to look as if.
    #[error("'{path}' is damaged: {what}; nothing was kept, get the image again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// In which way.
        what: &'static str,
    },
    /// A variant we do not read.
    #[error("'{path}' {what}; flatten it first: qemu-img convert -O qcow2 '{path}' flat.qcow2")]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// What it has.
        what: &'static str,
    },
    /// The driver refused it.
    #[error("'{path}' cannot be read as {format}: {source}; check it with `qemu-img check`")]
    Driver {
        /// Which file.
        path: PathBuf,
        /// As what.
        format: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The target exists.
    #[error("'{path}' exists; choose another name, or replace it with --force")]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The target device is too small.
    #[error("'{path}' has {has_bytes} bytes and the disk {needs_bytes}; use a larger device")]
    TooSmall {
        /// Which device.
        path: PathBuf,
        /// Its size.
        has_bytes: u64,
        /// The disk's.
        needs_bytes: u64,
    },
    /// Devices take raw bytes only.
    #[error("'{path}' is a device, and takes raw bytes only; leave --format out")]
    DeviceNotRaw {
        /// Which device.
        path: PathBuf,
    },
    /// The stream contradicts itself: a bug of the sender's.
    #[error("the export has a piece beyond its end; report it")]
    OutOfRange,
}

impl ImageError {
    /// For `map_err` on a file.
    pub fn io(path: &std::path::Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}
