//! One front end, from its connecting to its going, on a thread of its own.
//!
//! When I return, nothing of the front end's is under way any more: its requests have ended and
//! its memory is unmapped, so the next one may come.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::net::sockopt::socket_peercred;
use tokio::sync::Notify;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError, VhostUserProtocolFeatures};

use bough_blockstore::ReactorHandle;

use crate::disk::BlockDisk;
use crate::reactor;
use crate::vhost::VhostError;
use crate::vhost::channel::BackChannel;
use crate::vhost::session::{Session, Subject};

/// Serves messages until the front end goes, or is cut off. `Ok` where it just went.
pub(crate) fn serve<D: BlockDisk>(
    socket: UnixStream,
    subject: Subject<D>,
) -> Result<(), VhostError> {
    let fault = Arc::clone(&subject.fault);
    let resized = subject.disk.on_resize();
    let reactor = subject.reactor.clone();
    let channel = BackChannel::default();
    let watching = ResizeWatch::start(resized, channel.clone(), &reactor);
    let session = Arc::new(Mutex::new(Session::new(subject)));
    let ended = converse(&socket, &session, &channel);
    lock(&session).stop_answering();
    drop(watching);
    lock(&session).abandon();
    fault.hang_up();
    // A ring that broke closed the socket, so the conversation's own end says less.
    fault.take().map_or(ended, Err)
}

fn converse<D: BlockDisk>(
    socket: &UnixStream,
    session: &Arc<Mutex<Session<D>>>,
    channel: &BackChannel,
) -> Result<(), VhostError> {
    let failed = |source: io::Error| VhostError::Socket { source: Arc::new(source) };
    let mut handler =
        BackendReqHandler::from_stream(socket.try_clone().map_err(failed)?, Arc::clone(session));
    loop {
        match BackChannel::is_next(socket) {
            Ok(None) => return Ok(()),
            Ok(Some(true)) => {
                let agreed = lock(session).protocol_features();
                if !agreed.contains(VhostUserProtocolFeatures::BACKEND_REQ) {
                    return Err(ProtocolError::InvalidMessage.into());
                }
                let reply_ack = agreed.contains(VhostUserProtocolFeatures::REPLY_ACK);
                channel.accept(socket, reply_ack).map_err(failed)?;
            }
            Ok(Some(false)) => match handler.handle_request() {
                Ok(()) => {}
                Err(ProtocolError::Disconnected | ProtocolError::SocketBroken(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
    }
}

fn lock<D: BlockDisk>(session: &Mutex<Session<D>>) -> std::sync::MutexGuard<'_, Session<D>> {
    session.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells the front end of resizes, until dropped.
struct ResizeWatch {
    over: Arc<Notify>,
}

impl ResizeWatch {
    fn start(
        mut resized: tokio::sync::watch::Receiver<u64>,
        channel: BackChannel,
        reactor: &ReactorHandle,
    ) -> Self {
        let over = Arc::new(Notify::new());
        let until = Arc::clone(&over);
        reactor.spawn(move || {
            Box::pin(async move {
                let follow = async {
                    while resized.changed().await.is_ok() {
                        channel.config_changed();
                    }
                };
                reactor::either(follow, until.notified()).await;
            })
        });
        Self { over }
    }
}

impl Drop for ResizeWatch {
    fn drop(&mut self) {
        self.over.notify_one();
    }
}

/// Who is at the other end, for people to read.
pub(crate) fn describe(socket: &UnixStream) -> String {
    let Ok(credentials) = socket_peercred(socket) else {
        return "an unknown client".to_owned();
    };
    let pid = credentials.pid.as_raw_nonzero();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("process {pid}"),
        name => format!("{name} (process {pid})"),
    }
}
