//! Messages on a front end's socket: looked at first, taken only when they were answered.
//!
//! A message that was looked at and not taken is still there for a successor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use vhost::vhost_user::message::FrontendReq;

use bough_blockstore::to_usize;

/// Bytes of a message header.
pub(crate) const HEADER_BYTES: usize = 12;
/// Bytes after the header at most, in either direction; the crate `vhost` has the same bound.
const BODY_MAX_BYTES: usize = 4096;
/// Descriptors with one message at most; likewise.
const FILES_MAX: usize = 32;

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A vhost-user message header: request, flags, size of what follows. All native-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    pub(crate) size: u32,
}

impl Header {
    /// Of a message that asks for no answer.
    pub(crate) fn plain(request: u32, size: u32) -> Self {
        Self { request, flags: VERSION, size }
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { request: word(0), flags: word(4), size: word(8) }
    }

    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        for (at, word) in [(0, self.request), (4, self.flags), (8, self.size)] {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Whether an answer is asked for that has no content of its own.
    pub(crate) fn wants_acknowledgement(self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// The answer that says that all went well.
    pub(crate) fn acknowledgement(self) -> Vec<u8> {
        let reply = Self { flags: VERSION | REPLY, size: 8, ..self }.encode();
        [&reply[..], &0u64.to_ne_bytes()].concat()
    }
}

/// A message, or an answer, with its descriptors.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) files: Vec<OwnedFd>,
}

/// What there is on a socket.
pub(crate) enum Next {
    /// A message, still there.
    Whole(Message),
    /// A part of one: it can only be taken.
    Part,
    /// The front end is gone.
    End,
    /// We are to stop.
    Stopped,
}

impl Message {
    /// A message of ours.
    pub(crate) fn new(request: u32, body: &[u8]) -> Self {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let bytes = [&Header::plain(request, size).encode()[..], body].concat();
        Self { bytes, files: Vec::new() }
    }

    /// Looks at the next message. Waits for one to come, or for `stop` to be readable.
    pub(crate) fn look(socket: impl AsFd, stop: impl AsFd) -> io::Result<Next> {
        let socket = socket.as_fd();
        if !wait(socket, stop)? {
            return Ok(Next::Stopped);
        }
        let mut header = [0; HEADER_BYTES];
        let (count, _) = receive(socket, &mut header, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        match count {
            0 => return Ok(Next::End),
            HEADER_BYTES => {}
            _ => return Ok(Next::Part),
        }
        let whole = HEADER_BYTES + body_bytes(&header)?;
        // One byte more than that: looking without taking shows descriptors of whatever follows,
        // too. It stops after the first piece that has some, so they belong to what is seen last.
        let mut bytes = vec![0; whole + 1];
        let seen = receive(socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        let (count, mut files) = seen;
        if count > whole && !may_have_files(Header::decode(&header).request) {
            files.clear();
        }
        if count < whole || (count > whole && !files.is_empty()) {
            return Ok(Next::Part);
        }
        bytes.truncate(whole);
        Ok(Next::Whole(Self { bytes, files }))
    }

    /// Takes the next message, in however many parts it comes.
    pub(crate) fn take(socket: impl AsFd, stop: impl AsFd) -> io::Result<Option<Self>> {
        let mut message = Self { bytes: vec![0; HEADER_BYTES], files: Vec::new() };
        let (mut done, mut header_read) = (0, false);
        while done < message.bytes.len() {
            if !wait(&socket, &stop)? {
                return Ok(None);
            }
            let rest = &mut message.bytes[done..];
            let (count, files) = receive(socket.as_fd(), rest, RecvFlags::DONTWAIT)?;
            if count == 0 {
                return Ok(None);
            }
            done += count;
            message.files.extend(files);
            if message.files.len() > FILES_MAX {
                return Err(invalid("a message with more descriptors than any needs"));
            }
            if done == HEADER_BYTES && !header_read {
                header_read = true;
                let body = body_bytes(&message.bytes)?;
                message.bytes.resize(HEADER_BYTES + body, 0);
            }
        }
        Ok(Some(message))
    }

    /// Takes from the socket what was looked at.
    pub(crate) fn consume(&self, socket: impl AsFd) -> io::Result<()> {
        let mut rest = vec![0; self.bytes.len()];
        let mut done = 0;
        while done < rest.len() {
            let (count, _) = receive(socket.as_fd(), &mut rest[done..], RecvFlags::DONTWAIT)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += count;
        }
        Ok(())
    }

    /// Sends it.
    pub(crate) fn send(&self, socket: impl AsFd) -> io::Result<()> {
        let files: Vec<_> = self.files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(invalid("a message with more descriptors than any needs"));
        }
        let mut done = 0;
        while done < self.bytes.len() {
            let rest = [IoSlice::new(&self.bytes[done..])];
            match sendmsg(&socket, &rest, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => done += count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            control.clear();
        }
        Ok(())
    }

    /// All that lies on a socket now: an answer, or nothing.
    pub(crate) fn pick_up(socket: impl AsFd) -> io::Result<Self> {
        let mut bytes = vec![0; HEADER_BYTES + BODY_MAX_BYTES];
        match receive(socket.as_fd(), &mut bytes, RecvFlags::DONTWAIT) {
            Ok((count, files)) => {
                bytes.truncate(count);
                Ok(Self { bytes, files })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn header(&self) -> Header {
        Header::decode(&self.bytes)
    }
}

/// Whether the specification has descriptors with such a request.
fn may_have_files(request: u32) -> bool {
    use FrontendReq::{
        ADD_MEM_REG, REM_MEM_REG, SET_BACKEND_REQ_FD, SET_INFLIGHT_FD, SET_LOG_BASE, SET_LOG_FD,
        SET_MEM_TABLE, SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK,
    };
    [
        SET_MEM_TABLE,
        SET_LOG_BASE,
        SET_LOG_FD,
        SET_VRING_KICK,
        SET_VRING_CALL,
        SET_VRING_ERR,
        SET_BACKEND_REQ_FD,
        SET_INFLIGHT_FD,
        ADD_MEM_REG,
        REM_MEM_REG,
    ]
    .into_iter()
    .any(|with_files| u32::from(with_files) == request)
}

fn body_bytes(header: &[u8]) -> io::Result<usize> {
    let bytes = to_usize(u64::from(Header::decode(header).size));
    if bytes > BODY_MAX_BYTES {
        return Err(invalid("a message larger than any may be"));
    }
    Ok(bytes)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Waits until there is something to receive; `false`: until `stop` is readable.
fn wait(socket: impl AsFd, stop: impl AsFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(&stop, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
    loop {
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled[0].revents().is_empty()),
        }
    }
}

fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(invalid("a message with more descriptors than any needs"));
    }
    Ok((received.bytes, files))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn bell() -> OwnedFd {
        eventfd(0, EventfdFlags::empty()).unwrap()
    }

    fn sockets() -> (UnixStream, UnixStream, OwnedFd) {
        let (near, far) = UnixStream::pair().unwrap();
        (near, far, bell())
    }

    #[test]
    fn a_message_is_there_until_it_is_taken_with_its_descriptors() {
        let (near, far, stop) = sockets();
        let sent = Message { files: vec![bell(), bell()], ..Message::new(7, b"body") };
        sent.send(&far).unwrap();
        Message::new(8, b"").send(&far).unwrap();
        for _ in 0..3 {
            let Next::Whole(seen) = Message::look(&near, &stop).unwrap() else { panic!() };
            assert_eq!((&seen.bytes, seen.files.len()), (&sent.bytes, 2));
        }
        sent.consume(&near).unwrap();
        let Next::Whole(seen) = Message::look(&near, &stop).unwrap() else { panic!() };
        assert_eq!((seen.header().request, seen.files.len()), (8, 0));
        seen.consume(&near).unwrap();
        drop(far);
        assert!(matches!(Message::look(&near, &stop).unwrap(), Next::End));
    }

    #[test]
    fn messages_that_wait_behind_each_other_keep_their_own_descriptors() {
        let (near, far, stop) = sockets();
        let [plain, with_file] =
            [FrontendReq::SET_FEATURES, FrontendReq::SET_VRING_CALL].map(u32::from);
        Message::new(plain, b"12345678").send(&far).unwrap();
        for _ in 0..2 {
            let message = Message::new(with_file, b"12345678");
            Message { files: vec![bell()], ..message }.send(&far).unwrap();
        }
        for expected in [0, 1, 1] {
            let Next::Whole(seen) = Message::look(&near, &stop).unwrap() else { panic!() };
            assert_eq!(seen.files.len(), expected);
            seen.consume(&near).unwrap();
        }
    }

    #[test]
    fn a_message_in_parts_is_taken_whole() {
        let (near, far, stop) = sockets();
        let sent = Message::new(7, b"body");
        let head = Message { bytes: sent.bytes[..HEADER_BYTES].to_vec(), files: vec![bell()] };
        head.send(&far).unwrap();
        rustix::io::write(&far, &sent.bytes[HEADER_BYTES..]).unwrap();
        assert!(matches!(Message::look(&near, &stop).unwrap(), Next::Part));
        let taken = Message::take(&near, &stop).unwrap().unwrap();
        assert_eq!((&taken.bytes, taken.files.len()), (&sent.bytes, 1));
    }

    #[test]
    fn stopping_leaves_everything_there() {
        let (near, far, stop) = sockets();
        Message::new(7, b"body").send(&far).unwrap();
        rustix::io::write(&stop, &1u64.to_ne_bytes()).unwrap();
        assert!(matches!(Message::look(&near, &stop).unwrap(), Next::Stopped));
        assert!(matches!(Message::look(&near, bell()).unwrap(), Next::Whole(_)));
    }

    #[test]
    fn monstrous_messages_are_refused() {
        let (near, far, stop) = sockets();
        let header = Header::plain(7, 5000).encode();
        rustix::io::write(&far, &header).unwrap();
        assert!(Message::look(&near, &stop).is_err());
    }
}
