//! Which way to a store.
//!
//! The lock file names a server's control socket; the lock itself decides. A server that is just starting
//! or stopping, and another command that is at work, are waited for a while.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bough_blockstore::{Holder, OpenError};
use bough_server::{
    OpenOptions, OpenStore, ServerInfo, StoreError, StoreFolder, default_socket_dir,
};

use super::{Backend, CommandError, Local, Remote};

/// How long somebody else may hold the store before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// A command's own store is small: it does one thing and ends.
const MEMORY_BYTES: u64 = 256 << 20;

/// Finds the way to the store in `folder`.
pub async fn connect(folder: &StoreFolder) -> Result<Backend, CommandError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(remote) = server_of(folder).await? {
            return Ok(Backend::Remote(remote));
        }
        // Only now: a server goes on though the blocks have lost their name.
        folder.blocks()?;
        let options = OpenOptions { memory_bytes: MEMORY_BYTES, reactor_count: 1 };
        match OpenStore::open(folder.clone(), options).await {
            Ok(store) => return Ok(Backend::Local(Local::new(store, socket_dir(folder)))),
            Err(StoreError::Device(OpenError::InUse { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The server that the lock file names, if it is there and serves this very store: the file may be a
/// leftover, and the socket somebody else's by now.
async fn server_of(folder: &StoreFolder) -> Result<Option<Remote>, CommandError> {
    let Some(holder) = Holder::read(&folder.lock_path()) else { return Ok(None) };
    let Some(socket) = holder.control_socket else { return Ok(None) };
    let remote = match Remote::connect(&socket).await {
        Ok(remote) => remote,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let folder = folder.path().to_owned();
            return Err(CommandError::NotYours { folder, pid: holder.pid, socket });
        }
        Err(_) => return Ok(None),
    };
    let mut backend = Backend::Remote(remote);
    let server = backend.get::<ServerInfo>("/v1/server").await;
    match (server, backend) {
        (Ok(server), Backend::Remote(remote)) if server.store == folder.path() => Ok(Some(remote)),
        _ => Ok(None),
    }
}

/// Where a server would have its sockets.
fn socket_dir(folder: &StoreFolder) -> PathBuf {
    let chosen = std::env::var_os("BOUGH_SOCKET_DIR").map(PathBuf::from);
    chosen.or_else(|| folder.socket_dir()).unwrap_or_else(default_socket_dir)
}
