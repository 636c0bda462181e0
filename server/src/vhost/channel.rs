//! The back channel: telling a front end that the device's configuration changed.
//!
//! The crate `vhost` accepts the channel's socket but has no way to send this message, so the one
//! message that hands the socket over is handled here, and the crate does not see it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, SendFlags, SocketType};
use vhost::vhost_user::message::{BackendReq, FrontendReq};

use crate::keep::{Kept, Role, Vault};
use crate::vhost::message::{Header, Message};

/// The channel of one connection, where the front end gave one.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackChannel {
    socket: Arc<Mutex<Option<Kept>>>,
}

impl BackChannel {
    /// Says that the configuration changed. A front end that does not read its channel misses it,
    /// and nobody waits for it.
    pub(crate) fn config_changed(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = &*socket {
            let request = BackendReq::CONFIG_CHANGE_MSG.into();
            let message = Header::plain(request, 0).encode();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Err(error) = rustix::net::send(socket, &message, flags) {
                tracing::warn!(%error, "a front end cannot be told of a resize");
            }
        }
    }

    /// Whether a message hands the channel over.
    pub(crate) fn is_in(message: &Message) -> bool {
        let ours: u32 = FrontendReq::SET_BACKEND_REQ_FD.into();
        message.header().request == ours
    }

    /// Carries out the message that hands the channel over.
    pub(crate) fn accept(&self, message: &Message, vault: &Arc<Vault>) -> io::Result<()> {
        let socket = match &message.files[..] {
            [socket] if message.header().size == 0 && is_unix_stream(socket) => {
                socket.try_clone()?
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no socket was handed over",
                ));
            }
        };
        self.put(Some(vault.keep(socket, Role::FrontEnds)?));
        Ok(())
    }

    /// Sets the channel.
    pub(crate) fn put(&self, socket: Option<Kept>) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// The channel.
    pub(crate) fn get(&self) -> Option<Kept> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn is_unix_stream(fd: &OwnedFd) -> bool {
    use rustix::net::sockopt::{socket_domain, socket_type};
    socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)
}
