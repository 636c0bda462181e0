//! The way to a store: through its server's control socket, or by opening it here.
//!
//! I own the choice. Both ways speak the same API through the same router, so that every verb has the
//! same words and the same output. Invariant: a store that somebody holds is never opened, and one that
//! nobody holds is never waited for.

mod connect;
mod local;
mod remote;
mod request;

pub use connect::connect;
pub use local::Local;
pub use remote::Remote;
pub use request::{CommandError, Ndjson, error_from};

use axum::body::Body;
use axum::http::{Request, Response};

/// An open way to a store.
pub enum Backend {
    /// Through the server's control socket.
    Remote(Remote),
    /// The store is opened in this process.
    Local(Local),
}

impl Backend {
    /// Sends one request.
    pub async fn call(&mut self, request: Request<Body>) -> Result<Response<Body>, CommandError> {
        match self {
            Self::Remote(remote) => remote.call(request).await,
            Self::Local(local) => Ok(local.call(request).await),
        }
    }

    /// Whether a server serves the store.
    pub fn is_served(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// Sees to it that what was deleted, about `bytes`, is given back to the host. A server does
    /// that by itself.
    pub async fn free_deleted(&self, bytes: u64) -> Result<(), CommandError> {
        match self {
            Self::Remote(_) => Ok(()),
            Self::Local(local) => local.free_deleted(bytes).await,
        }
    }

    /// Ends it; what was opened here is closed cleanly.
    pub async fn close(self) -> Result<(), CommandError> {
        match self {
            Self::Remote(_) => Ok(()),
            Self::Local(local) => local.close().await,
        }
    }
}
