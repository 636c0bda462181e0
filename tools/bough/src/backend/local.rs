//! The store, opened in this process, behind the very router that a server has.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bough_server::{Control, OpenStore, router};
use tower::ServiceExt;

use super::CommandError;

/// A store opened here.
pub struct Local {
    control: Arc<Control>,
    router: Router,
}

impl Local {
    /// Takes an opened store; `socket_dir` is where a server would put sockets.
    pub fn new(store: OpenStore, socket_dir: PathBuf) -> Self {
        let control = Arc::new(Control::offline(store, socket_dir));
        Self { router: router(Arc::clone(&control)), control }
    }

    /// Carries one request out.
    pub async fn call(&mut self, request: Request<Body>) -> Response<Body> {
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Closes the store.
    pub async fn close(self) -> Result<(), CommandError> {
        Ok(self.control.store().close().await?)
    }
}
