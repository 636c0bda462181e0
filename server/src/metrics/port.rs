//! A TCP port on which Prometheus may read the metrics, and nobody anything else.
//!
//! Claimed before the sandbox, which leaves no way to TCP; listened on once we serve, so that a spare can
//! have claimed it, too. Whoever connects gets one answer, has ten seconds for it, and takes one of a
//! few places: others wait in the kernel's queue.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::sync::Semaphore;

/// Connections served at once.
const PLACES: usize = 4;
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to rest when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 16;
/// What a request may need of us; hyper's least.
const REQUEST_BYTES: usize = 8192;

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be offered on {address}: {source}; name another with --metrics")]
pub struct PortError {
    address: SocketAddr,
    source: std::io::Error,
}

/// A port that is ours; nobody can connect yet.
#[derive(Clone, Debug)]
pub struct MetricsPort {
    socket: Arc<OwnedFd>,
    address: SocketAddr,
}

impl MetricsPort {
    /// Claims `address`. Where `shared`, a server that is there may have it, too, if it did the same:
    /// as a spare has it.
    ///
    /// # Errors
    /// Where somebody else has it.
    pub fn claim(address: SocketAddr, shared: bool) -> Result<Self, PortError> {
        let failed = |source| PortError { address, source };
        if !shared {
            // Whether somebody listens: claiming it as below would not tell.
            TcpListener::bind(address).map_err(failed)?;
        }
        let claimed = claim(address).map_err(|errno| failed(errno.into()))?;
        let (socket, address) = claimed;
        Ok(Self { socket: Arc::new(socket), address })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers whoever connects with what `router` says; to be dropped to end it.
    pub(crate) async fn serve(&self, router: Router) -> std::io::Result<()> {
        rustix::net::listen(&self.socket, BACKLOG)?;
        let listener = TcpListener::from(self.socket.try_clone()?);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(PLACES));
        let mut clients = tokio::task::JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
            while clients.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            clients.spawn(async move {
                let mut http = http1::Builder::new();
                http.keep_alive(false).max_buf_size(REQUEST_BYTES).timer(TokioTimer::new());
                let connection = http.serve_connection(TokioIo::new(stream), service);
                // A client's fault is the client's.
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(place);
            });
        }
    }
}

fn claim(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    let bound = rustix::net::getsockname(&socket)?;
    Ok((socket, SocketAddr::try_from(bound)?))
}
