//! `bough serve`: from an opened store to a clean stop.
//!
//! I own the order: lock and recover, then disks, then the control socket; and back again on
//! SIGTERM. Invariant: whoever can connect to the control socket finds the disks there already.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bough_blockstore::{Holder, OpenError, UringDevice};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

use crate::buffers::Buffers;
use crate::control::{ApiError, Control, ServerInfo, Serving, metrics_router, restore, router};
use crate::exports::{Exports, SharedByAll};
use crate::folder::{FolderError, StoreFolder};
use crate::health::give_signs_of_life;
use crate::keep::service_manager::{self, DescriptorStore, News};
use crate::keep::{Inheritance, Kept, Role, SpareDoor, StandBy, Vault};
use crate::metrics::{Meters, MetricsPort};
use crate::sandbox::Sandbox;
use crate::sockets::{SocketDir, SocketError, SocketRights, control_socket};
use crate::store::{OpenOptions, OpenStore, StoreError, Warm, lock, lock_when_free};
use crate::tails::SharedTails;
use crate::vhost::Doors;
use crate::waiting::WaitingLines;
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
    /// Whether to wait for the server there is, and to take over when it dies.
    pub spare: bool,
    /// What has been given up, and whether more is to be.
    pub sandbox: Sandbox,
    /// What becomes of writes that find the store full.
    pub on_full: OnFull,
    /// Where metrics are told over TCP, if anywhere.
    pub metrics: Option<MetricsPort>,
}

/// What becomes of writes that find the store full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// They wait, and go on by themselves when there is room.
    Pause,
    /// They are answered with an error.
    Error,
}

/// Serves the store in `folder` until SIGTERM or SIGINT.
pub async fn serve(folder: StoreFolder, options: ServeOptions) -> Result<(), ServeError> {
    let mut stopping = Stopping::new()?;
    let given = service_manager::inheritance()?;
    raise_descriptor_limit();
    let sockets = SocketDir::open(options.socket_dir.clone())?;
    let opened = tokio::select! {
        opened = Box::pin(open(folder, &options, &sockets, given)) => opened?,
        () = stopping.come() => return Ok(()),
    };
    Box::pin(serve_opened(opened, sockets, &options, stopping)).await
}

/// A store that is ours, and what a dead server left.
struct Opened {
    store: OpenStore,
    inherited: Inheritance,
    tails: Arc<SharedTails>,
}

async fn open(
    folder: StoreFolder,
    options: &ServeOptions,
    sockets: &SocketDir,
    inherited: Inheritance,
) -> Result<Opened, ServeError> {
    // Whoever inherits has a predecessor, which may take a moment to die.
    if options.spare || !inherited.is_empty() {
        return stand_by(folder, options, sockets, inherited).await;
    }
    let tails = Arc::new(SharedTails::new(Vec::new())?);
    let device = lock_patiently(&folder).await?;
    let warm = Warm::up(options.open)?.with_tails(Arc::clone(&tails) as _);
    let store = OpenStore::open_on(device, folder, warm).await?;
    tokio::spawn(give_signs_of_life(store.reactors().to_vec()));
    Ok(Opened { store, inherited, tails })
}

/// Holds what the server has, and keeps everything ready, until the server's lock is free: its last
/// write has ended then.
async fn stand_by(
    folder: StoreFolder,
    options: &ServeOptions,
    sockets: &SocketDir,
    inherited: Inheritance,
) -> Result<Opened, ServeError> {
    let warm = Warm::up(options.open)?;
    tokio::spawn(give_signs_of_life(warm.reactors().to_vec()));
    let stale = inherited.names();
    let standing_by = StandBy::begin(sockets.path().to_owned(), inherited, move || {
        // Another server has taken up what the service manager held for one before us.
        service_manager::release(&stale);
        tracing::info!("standing by");
        service_manager::tell(News::StandingBy);
    })?;
    let locked = folder.clone();
    let turn = tokio::task::spawn_blocking(move || {
        standing_by.wait_until_ready();
        let device = lock_when_free(&locked)?;
        tracing::info!("taking over");
        Ok::<_, StoreError>((device, standing_by.take_over()))
    });
    let (device, inherited) = turn.await.map_err(std::io::Error::from)??;
    // Before the store is opened: they say how far its logs have to be followed.
    let tails = Arc::new(SharedTails::new(inherited.tails())?);
    let warm = warm.with_tails(Arc::clone(&tails) as _);
    let store = OpenStore::open_on(device, folder, warm).await?;
    Ok(Opened { store, inherited, tails })
}

async fn serve_opened(
    opened: Opened,
    sockets: SocketDir,
    options: &ServeOptions,
    mut stopping: Stopping,
) -> Result<(), ServeError> {
    let Opened { store, mut inherited, tails } = opened;
    let names = inherited.names();
    let vault = Arc::new(Vault::default());
    if let Some(store) = DescriptorStore::find() {
        vault.add(Box::new(store));
    }
    let _kept_tails = tails.keep(&vault)?;
    let socket = control_socket(sockets.path());
    let mut listen = |path: &Path, rights| -> Result<(UnixListener, Kept), ServeError> {
        let listener = SocketDir::listen(path, rights, inherited.take_listener(path))?;
        let kept = vault.keep(listener.try_clone()?.into(), Role::Listener)?;
        Ok((listener, kept))
    };
    // Taken before the disks' sockets: two servers in one folder of sockets stop here.
    let (listener, _kept) = listen(&socket, options.control_rights)?;
    let (door, _kept_too) = listen(&SpareDoor::path(sockets.path()), SocketRights::PRIVATE)?;
    let door = SpareDoor::new(door, Arc::clone(&vault))?;
    let control = controlled(store, sockets, options, socket.clone(), vault, inherited)?;
    let control = Arc::new(control);
    if let Some(serving) = control.server() {
        restore(&control, serving).await?;
        serving.exports.lock().await.settle(names);
    }
    control.store().folder().remember_socket_dir(control.socket_dir())?;
    control.store().announce(socket.clone())?;
    tracing::info!(
        store = %control.store().folder().path().display(),
        control = %socket.display(),
        "serving"
    );
    service_manager::tell(News::Serving);
    let stop = async move {
        stopping.come().await;
        tracing::info!("stopping");
        service_manager::tell(News::Stopping);
    };
    tokio::select! {
        accepted = accept_until(listener, Arc::clone(&control), stop) => accepted?,
        () = watch(&control) => {}
        () = door.stand_open() => {}
        () = offer_metrics(options.metrics.as_ref(), &control) => {}
    }
    shut_down(control, &socket).await
}

/// Never returns: guests matter more than who counts what they do.
async fn offer_metrics(port: Option<&MetricsPort>, control: &Arc<Control>) {
    if let Some(port) = port {
        let address = port.address();
        if let Err(error) = port.serve(metrics_router(Arc::clone(control))).await {
            tracing::error!(%address, %error, "metrics are not offered any more");
        }
    }
    std::future::pending().await
}

/// Requests to stop.
struct Stopping {
    terminate: Signal,
    interrupt: Signal,
}

impl Stopping {
    fn new() -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// Waits for one.
    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A command holds the store for a moment only; another server holds it for good.
async fn lock_patiently(folder: &StoreFolder) -> Result<UringDevice, StoreError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock(folder) {
            Err(StoreError::Device(OpenError::InUse { holder, .. }))
                if Instant::now() < deadline && !answers(holder.as_ref()) =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            locked => return locked,
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
    vault: Arc<Vault>,
    inherited: Inheritance,
) -> std::io::Result<Control> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let info = ServerInfo {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: store.folder().path().to_owned(),
        socket_dir: sockets.path().to_owned(),
        control_socket,
        started_unix: started.as_secs(),
        // The last thing before anybody can connect: what guests hand over comes later.
        sandbox: options.sandbox.finish(store.reactors()),
        keepers: Vec::new(),
        metrics_address: options.metrics.as_ref().map(MetricsPort::address),
    };
    let doors = Doors::new()?;
    let buffers = Arc::new(Buffers::new(options.open.memory_bytes / BUFFERS_SHARE));
    let reactors = store.reactors().to_vec();
    let waiting = Arc::<WaitingLines>::default();
    let waits = (options.on_full == OnFull::Pause).then(|| Arc::clone(&waiting));
    let meters = Arc::<Meters>::default();
    let (vault_too, meters_too) = (Arc::clone(&vault), Arc::clone(&meters));
    let shared =
        SharedByAll { buffers, waiting: waits, meters: meters_too, vault: vault_too, doors };
    let exports = Exports::new(sockets, options.disk_rights, reactors, shared, inherited);
    let exports = Mutex::new(exports);
    Ok(Control::serving(store, Serving { info, vault, exports, meters, waiting }))
}

async fn accept_until(
    listener: UnixListener,
    control: Arc<Control>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
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

/// Front ends first, so that nothing is written any more; then the store; the sockets last, so
/// that a command waits for the store rather than finding it held. Where somebody holds the
/// connections for a successor they stay open, and so do the sockets.
async fn shut_down(control: Arc<Control>, socket: &Path) -> Result<(), ServeError> {
    let mut held = false;
    if let Some(serving) = control.server() {
        let mut exports = serving.exports.lock().await;
        held = !exports.keepers().is_empty();
        if held {
            exports.hand_over().await;
        } else {
            exports.stop_all().await;
        }
    }
    let closed = control.store().close().await;
    if !held {
        let _ = std::fs::remove_file(SpareDoor::path(control.socket_dir()));
        let _ = std::fs::remove_file(socket);
    }
    closed?;
    tracing::info!("stopped");
    Ok(())
}

/// As many descriptors as we may have: every connected front end needs about a dozen.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open descriptors stays where it is");
    }
}
