//! What the control API answers when it cannot do what was asked.
//!
//! I own the mapping from kinds of failure to HTTP statuses and to the words in the body. Every
//! answer that is not a success has an [`ErrorBody`]; nothing else leaves this API.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bough_radix::{DiskError, EngineError, ErrorKind, NameError};

use super::frames::FrameError;
use super::wire::{ErrorBody, ErrorDetail};
use crate::folder::FolderError;
use crate::sockets::SocketError;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A disk refused or failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A stream that cannot be read.
    #[error("import: {0}")]
    Frame(#[from] FrameError),
    /// A stream that broke off.
    #[error("import: the connection broke ({0}); nothing was kept, import again")]
    Body(#[source] axum::Error),
    /// The sender gave up.
    #[error("import: the sender gave up: {0}")]
    SenderFailed(String),
    /// A stream whose end contradicts its beginning.
    #[error("import: the stream ends at {found_bytes} bytes and was announced with {wanted_bytes}")]
    WrongEnd {
        /// What was announced.
        wanted_bytes: u64,
        /// What the end says.
        found_bytes: u64,
    },
    /// The name is taken already.
    #[error("disk '{0}' exists already; choose another name or run `bough delete {0}`")]
    Exists(String),
    /// The import's marker could not be kept.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A body that is not what the operation takes.
    #[error("{}; see /openapi.json for what this operation takes", .0.body_text())]
    Json(#[from] JsonRejection),
    /// A query that is not what the operation takes.
    #[error("{}; see /openapi.json for what this operation takes", .0.body_text())]
    Query(#[from] QueryRejection),
    /// A path that is not what the operation takes.
    #[error("{}; see /openapi.json for what this operation takes", .0.body_text())]
    Path(#[from] PathRejection),
    /// Not a path of ours.
    #[error("there is no {path} here; see /openapi.json for what there is")]
    NoSuchPath {
        /// What was asked for.
        path: String,
    },
    /// A path of ours, but not with this method.
    #[error("{path} does not take this method; see /openapi.json for those that it takes")]
    NoSuchMethod {
        /// What was asked for.
        path: String,
    },
    /// No server.
    #[error("no server serves this store; start one with `bough serve`")]
    NotServing,
    /// The disk's socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A front end is connected.
    #[error("disk '{disk}' is in use by {clients}; {remedy}")]
    Connected {
        /// The disk.
        disk: String,
        /// By whom.
        clients: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A reactor ended under us: a bug of ours, or the server is stopping.
    #[error("the server is stopping; try again once it is back")]
    Stopping,
}

impl ApiError {
    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(error) => error.kind(),
            Self::Disk(error) => error.kind(),
            Self::Exists(_) => ErrorKind::Exists,
            Self::NoSuchPath { .. } | Self::NoSuchMethod { .. } => ErrorKind::NotFound,
            Self::NotServing => ErrorKind::Refused,
            Self::Connected { .. } => ErrorKind::InUse,
            Self::Folder(_) | Self::Socket(_) => ErrorKind::Io,
            Self::Stopping => ErrorKind::Faulted,
            Self::Name(_)
            | Self::Frame(_)
            | Self::Body(_)
            | Self::SenderFailed(_)
            | Self::WrongEnd { .. }
            | Self::Json(_)
            | Self::Query(_)
            | Self::Path(_) => ErrorKind::Invalid,
        }
    }

    /// What the body says.
    pub fn detail(&self) -> ErrorDetail {
        ErrorDetail { kind: kind_word(self.kind()).to_owned(), message: self.to_string() }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            other => status_of(other.kind()),
        }
    }
}

/// A kind in the API's words.
fn kind_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::Exists => "exists",
        ErrorKind::InUse => "in_use",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Full => "full",
        ErrorKind::Faulted => "faulted",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Refused => "refused",
        ErrorKind::Io => "io",
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Exists | ErrorKind::InUse | ErrorKind::Refused => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Faulted => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Io => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), Json(ErrorBody { error: self.detail() })).into_response()
    }
}
