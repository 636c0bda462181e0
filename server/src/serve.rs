//! `bough serve`: from an opened store to a clean stop.
//!
//! I own the order: lock and recover, then disks, then the control socket; and back again on
//! SIGTERM. Invariant: whoever can connect to the control socket finds the disks there already.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bough_blockstore::{Holder, OpenError};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

use crate::buffers::Buffers;
use crate::control::{ApiError, Control, ServerInfo, Serving, restore, router};
use crate::exports::Exports;
use crate::folder::{FolderError, StoreFolder};
use crate::sockets::{SocketDir, SocketError, SocketRights, control_socket};
use crate::store::{OpenOptions, OpenStore, StoreError};
use crate::watch::watch;

/// What guests' requests may need of the memory: a quarter. The engine has the rest.
const BUFFERS_SHARE: u64 = 4;
/// How long a command may hold the store before a server gives up.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// How long clients may take to end their requests when the server is to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why a server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What was attached cannot be served.
    #[error(transparent)]
    Control(#[from] ApiError),
    /// Signals, or the accepting of connections.
    #[error("the server cannot go on: {0}")]
    Io(#[from] std::io::Error),
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How to open the store.
    pub open: OpenOptions,
    /// Where sockets go.
    pub socket_dir: PathBuf,
    /// Who may connect to the disks.
    pub disk_rights: SocketRights,
    /// Who may connect to the control socket.
    pub control_rights: SocketRights,
}

/// Serves the store in `folder` until SIGTERM or SIGINT.
pub async fn serve(folder: StoreFolder, options: ServeOptions) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sockets = SocketDir::open(options.socket_dir.clone())?;
    let store = open_patiently(folder, options.open).await?;
    let socket = control_socket(sockets.path());
    // Taken before the disks' sockets: two servers in one folder of sockets stop here.
    let listener = SocketDir::listen(&socket, options.control_rights)?;
    let control = Arc::new(controlled(store, sockets, &options, socket.clone()));
    if let Some(serving) = control.server() {
        restore(&control, serving).await?;
    }
    control.store().folder().remember_socket_dir(control.socket_dir())?;
    control.store().announce(socket.clone())?;
    tracing::info!(
        store = %control.store().folder().path().display(),
        control = %socket.display(),
        "serving"
    );
    ready();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    tokio::select! {
        accepted = accept_until(listener, Arc::clone(&control), stop) => accepted?,
        () = watch(&control) => {}
    }
    shut_down(control, &socket).await
}

/// A command holds the store for a moment only; another server holds it for good.
async fn open_patiently(
    folder: StoreFolder,
    options: OpenOptions,
) -> Result<OpenStore, StoreError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match OpenStore::open(folder.clone(), options).await {
            Err(StoreError::Device(OpenError::InUse { holder, .. }))
                if Instant::now() < deadline && !answers(holder.as_ref()) =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Whether the holder is a server, and lives: the lock file may be older than the lock.
fn answers(holder: Option<&Holder>) -> bool {
    let socket = holder.and_then(|holder| holder.control_socket.as_ref());
    socket.is_some_and(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok())
}

fn controlled(
    store: OpenStore,
    sockets: SocketDir,
    options: &ServeOptions,
    control_socket: PathBuf,
) -> Control {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let info = ServerInfo {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: store.folder().path().to_owned(),
        socket_dir: sockets.path().to_owned(),
        control_socket,
        started_unix: started.as_secs(),
    };
    let buffers = Arc::new(Buffers::new(options.open.memory_bytes / BUFFERS_SHARE));
    let exports = Exports::new(sockets, options.disk_rights, store.reactors().to_vec(), buffers);
    Control::serving(store, Serving { info, exports: Mutex::new(exports) })
}

async fn accept_until(
    listener: std::os::unix::net::UnixListener,
    control: Arc<Control>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let stop = async move {
        stop.await;
        let _ = stopping.send(true);
    };
    let graceful = axum::serve(listener, router(control)).with_graceful_shutdown(stop);
    // A client that keeps its connection, or an export that never ends, does not keep the server.
    let patience = async move {
        let _ = stopped.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = graceful.into_future() => Ok(served?),
        () = patience => Ok(()),
    }
}

/// Front ends first, so that nothing is written any more; then the store; the socket last, so
/// that a command waits for the store rather than finding it held.
async fn shut_down(control: Arc<Control>, socket: &std::path::Path) -> Result<(), ServeError> {
    if let Some(serving) = control.server() {
        serving.exports.lock().await.stop_all().await;
    }
    let closed = control.store().close().await;
    let _ = std::fs::remove_file(socket);
    closed?;
    tracing::info!("stopped");
    Ok(())
}

/// Tells a service manager, where there is one, that commands and guests are welcome.
fn ready() {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", address));
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
