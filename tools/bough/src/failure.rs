//! Why a command failed: everything a verb can meet.

use std::io;

use bough_blockstore::OpenError;
use bough_server::{ErrorDetail, PortError, ServeError, SocketError, StoreError};

use crate::backend::CommandError;
use crate::image::ImageError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The store, or its server.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// An image file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Making a store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Serving.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The port for metrics.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The sockets' group.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Something that `qemu-args` needs.
    #[error("disk '{disk}' is not attached; run `bough attach {disk}` first")]
    NotAttached {
        /// The disk.
        disk: String,
    },
    /// A snapshot that is not there.
    #[error("disk '{disk}' has no snapshot '{label}'; see `bough show {disk}`")]
    NoSuchSnapshot {
        /// The disk.
        disk: String,
        /// The label.
        label: String,
    },
    /// A repair of a store that somebody has open.
    #[error("{source}; a repair needs the store for itself: stop its server, and its spare, first")]
    Served {
        /// Who.
        source: OpenError,
    },
    /// Printing, mostly.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Failure {
    /// The failure in the API's words.
    pub fn detail(&self) -> ErrorDetail {
        let kind = match self {
            Self::Command(error) => return error.detail(),
            Self::NotAttached { .. } => "refused",
            Self::Served { .. } => "in_use",
            Self::NoSuchSnapshot { .. } => "not_found",
            Self::Image(_) => "invalid",
            _ => "io",
        };
        ErrorDetail { kind: kind.to_owned(), message: self.to_string() }
    }

    /// Whether only our reader has gone.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
