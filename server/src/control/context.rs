//! What every handler works with: one opened store, and the server around it where there is one.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bough_radix::{DiskName, Engine};
use tokio::sync::Mutex;

use super::error::ApiError;
use super::wire::ServerInfo;
use crate::exports::Exports;
use crate::keep::Vault;
use crate::metrics::Meters;
use crate::sockets::disk_socket;
use crate::store::OpenStore;
use crate::waiting::WaitingLines;

/// An opened store as the control API sees it.
pub struct Control {
    store: OpenStore,
    socket_dir: PathBuf,
    serving: Option<Serving>,
}

/// What only a server has.
pub struct Serving {
    /// What it tells about itself; who keeps connections is asked anew each time.
    pub info: ServerInfo,
    /// The connections that outlive it.
    pub vault: Arc<Vault>,
    /// The disks that front ends can reach. Locked for as long as an attachment, a name or the
    /// existence of a disk changes, so that table and catalogue agree.
    pub exports: Mutex<Exports>,
    /// What guests ask of them.
    pub meters: Arc<Meters>,
    /// Who waits for room in a full store.
    pub waiting: Arc<WaitingLines>,
}

impl Serving {
    /// What it tells about itself, now.
    pub fn tell(&self) -> ServerInfo {
        ServerInfo { keepers: self.vault.keepers(), ..self.info.clone() }
    }
}

impl Control {
    /// A command's own view of a store that no server serves. Sockets are only spoken of.
    pub fn offline(store: OpenStore, socket_dir: PathBuf) -> Self {
        Self { store, socket_dir, serving: None }
    }

    /// A server's.
    pub fn serving(store: OpenStore, serving: Serving) -> Self {
        Self { store, socket_dir: serving.info.socket_dir.clone(), serving: Some(serving) }
    }

    /// The store.
    pub fn store(&self) -> &OpenStore {
        &self.store
    }

    /// The server, where there is one.
    pub fn server(&self) -> Option<&Serving> {
        self.serving.as_ref()
    }

    /// Where a disk's socket is, or will be.
    pub fn socket_of(&self, disk: &DiskName) -> PathBuf {
        disk_socket(&self.socket_dir, disk)
    }

    /// The folder of sockets.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Before it is asked who uses a disk: whoever has hung up by now is gone, though its thread may
    /// not have seen it yet. So a script may end a guest and roll its disk back at once.
    pub async fn see_off(&self, disk: &DiskName) {
        let Some(serving) = self.server() else { return };
        let leavers = serving.exports.lock().await.leavers(disk);
        if let Some(leavers) = leavers {
            // The answer to who is there comes from the engine, whatever became of this.
            let _ = tokio::task::spawn_blocking(move || leavers.see_off()).await;
        }
    }

    /// Runs `work` on a reactor and waits. It goes on when the caller is gone: what a client has
    /// asked for is done wholly or not at all, whether or not the client waits.
    pub async fn run<T, E, W, F>(&self, work: W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        E: Send + 'static,
        ApiError: From<E>,
        W: FnOnce(Engine) -> F + Send + 'static,
        F: Future<Output = Result<T, E>> + 'static,
    {
        let engine = self.store.engine().clone();
        let answer = self.store.reactor().call(move || work(engine));
        answer.await.map_err(|_| ApiError::Stopping)?.map_err(ApiError::from)
    }
}
