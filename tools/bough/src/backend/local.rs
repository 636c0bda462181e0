//! The store, opened in this process, behind the very router that a server has.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bough_server::{Control, OpenStore, router};
use tower::ServiceExt;

use super::CommandError;
use crate::output::Progress;

/// How often somebody who waits is told how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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

    /// Frees what was deleted, about `bytes`: in a process of one command nobody else will.
    pub async fn free_deleted(&self, bytes: u64) -> Result<(), CommandError> {
        let store = self.control.store();
        let before = store.used_bytes().await?;
        let mut progress = Progress::new(bytes);
        let mut freed = pin!(store.free_deleted());
        loop {
            tokio::select! {
                done = &mut freed => return Ok(done?),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let used = store.used_bytes().await?;
                    progress.at(before.saturating_sub(used).min(bytes));
                }
            }
        }
    }

    /// Closes the store.
    pub async fn close(self) -> Result<(), CommandError> {
        Ok(self.control.store().close().await?)
    }
}
