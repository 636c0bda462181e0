//! The back channel: telling a front end that the device's configuration changed.
//!
//! The crate `vhost` accepts the channel's socket but has no way to send this message, so the one
//! message that hands the socket over is read here, before the crate sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use vhost::vhost_user::message::{BackendReq, FrontendReq};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const HEADER_BYTES: usize = 12;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A vhost-user message header: request, flags, size of what follows. All native-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { request: word(0), flags: word(4), size: word(8) }
    }

    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        for (at, word) in [(0, self.request), (4, self.flags), (8, self.size)] {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The channel of one connection, where the front end gave one.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackChannel {
    socket: Arc<Mutex<Option<UnixStream>>>,
}

impl BackChannel {
    /// Says that the configuration changed. A front end that does not read its channel misses it,
    /// and nobody waits for it.
    pub(crate) fn config_changed(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = &*socket {
            let request = BackendReq::CONFIG_CHANGE_MSG.into();
            let message = Header { request, flags: VERSION, size: 0 }.encode();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Err(error) = rustix::net::send(socket, &message, flags) {
                tracing::warn!(%error, "a front end cannot be told of a resize");
            }
        }
    }

    /// Looks at the next message without taking it: whether it hands the channel over. Waits for
    /// one to come; `None` where none will.
    pub(crate) fn is_next(socket: &UnixStream) -> io::Result<Option<bool>> {
        let mut bytes = [0; HEADER_BYTES];
        let flags = RecvFlags::PEEK | RecvFlags::WAITALL;
        let (count, _) = loop {
            match rustix::net::recv(socket, &mut bytes[..], flags) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        if count == 0 {
            return Ok(None);
        }
        let ours: u32 = FrontendReq::SET_BACKEND_REQ_FD.into();
        Ok(Some(count == HEADER_BYTES && Header::decode(&bytes).request == ours))
    }

    /// Takes the message that hands the channel over, and answers it.
    pub(crate) fn accept(&self, socket: &UnixStream, reply_ack: bool) -> io::Result<()> {
        let mut bytes = [0; HEADER_BYTES];
        let (count, file) = socket.recv_with_fd(&mut bytes).map_err(io::Error::from)?;
        let header = Header::decode(&bytes);
        let channel = file.map(OwnedFd::from).filter(is_unix_stream).map(UnixStream::from);
        let whole = count == HEADER_BYTES && header.size == 0;
        let Some(channel) = channel.filter(|_| whole) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no socket was handed over"));
        };
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        if reply_ack && header.flags & NEED_REPLY != 0 {
            let reply = Header { flags: VERSION | REPLY, size: 8, ..header }.encode();
            let message = [&reply[..], &0u64.to_ne_bytes()].concat();
            rustix::net::send(socket, &message, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }
}

fn is_unix_stream(fd: &OwnedFd) -> bool {
    use rustix::net::sockopt::{socket_domain, socket_type};
    socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)
}
