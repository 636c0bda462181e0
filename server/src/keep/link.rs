//! Between a server and its spare: a UNIX socket, over which descriptors go one way.
//!
//! Every record has 64 bytes: what to do, and the name of a descriptor, padded with zeros. The
//! socket is its user's alone, and both sides look who the other is.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixListener;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::identity::{Identity, NAME_MAX_BYTES};
use super::vault::{Keeper, Vault};

const RECORD_BYTES: usize = 64;
const KEEP: u8 = b'+';
const RELEASE: u8 = b'-';
const COMPLETE: u8 = b'.';
/// How long a spare may not take what it is handed before it is one no more.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a server tells its spare.
#[derive(Debug)]
pub(crate) enum Word {
    /// Hold this.
    Keep(Identity, OwnedFd),
    /// Close that.
    Release(Identity),
    /// You have everything.
    Complete,
}

/// Where spares find their server, in the folder of sockets.
pub(crate) fn door(socket_dir: &Path) -> PathBuf {
    socket_dir.join("spare")
}

/// Lets spares in.
pub(crate) struct SpareDoor {
    listener: UnixListener,
    vault: Arc<Vault>,
}

impl SpareDoor {
    pub(crate) fn new(
        listener: std::os::unix::net::UnixListener,
        vault: Arc<Vault>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, vault })
    }

    /// Where it is, in the folder of sockets.
    pub(crate) fn path(socket_dir: &Path) -> PathBuf {
        door(socket_dir)
    }

    /// Lets in whoever comes, for ever.
    pub(crate) async fn stand_open(self) {
        loop {
            let link = match self.listener.accept().await {
                Ok((socket, _)) => SpareLink::of(socket),
                Err(error) => Err(error),
            };
            match link {
                // From the time when we stood by ourselves, at the door of whoever was before us.
                Ok(link) if link.leads_to_ourselves() => {}
                Ok(link) => {
                    let vault = Arc::clone(&self.vault);
                    // Handing thousands of descriptors over takes its time.
                    let _ = tokio::task::spawn_blocking(move || vault.add(Box::new(link))).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a spare was not let in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// A server's way to one spare.
struct SpareLink {
    socket: UnixStream,
    pid: i32,
}

impl SpareLink {
    fn of(socket: tokio::net::UnixStream) -> io::Result<Self> {
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let pid = trusted_peer(&socket)?;
        Ok(Self { socket, pid })
    }

    fn leads_to_ourselves(&self) -> bool {
        u32::try_from(self.pid).is_ok_and(|pid| pid == std::process::id())
    }

    fn send(&self, what: u8, name: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut record = [0; RECORD_BYTES];
        record[0] = what;
        record[1..=name.len()].copy_from_slice(name.as_bytes());
        let files: Vec<_> = file.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = self.socket.send_with_fds(&[&record[..]], &files).map_err(io::Error::from)?;
        if sent == RECORD_BYTES { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl Keeper for SpareLink {
    fn describe(&self) -> String {
        format!("spare (process {})", self.pid)
    }

    fn lives(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut polled, Some(&now)), Ok(0))
    }

    fn keep(&mut self, name: &Identity, file: BorrowedFd<'_>) -> io::Result<()> {
        self.send(KEEP, name.as_str(), Some(file))
    }

    fn release(&mut self, name: &Identity) -> io::Result<()> {
        self.send(RELEASE, name.as_str(), None)
    }

    fn complete(&mut self) -> io::Result<()> {
        self.send(COMPLETE, "", None)
    }
}

/// A spare's way to its server.
pub(crate) struct ServerLink {
    socket: UnixStream,
}

impl ServerLink {
    pub(crate) fn connect(socket_dir: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(door(socket_dir))?;
        trusted_peer(&socket)?;
        Ok(Self { socket })
    }

    /// Whether there is something to [listen](Self::listen) to, or comes in time.
    pub(crate) fn has_word(&self, patience: Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => Ok(false),
            found => Ok(found? > 0),
        }
    }

    /// What the server says next; `None` where it is no more.
    pub(crate) fn listen(&self) -> io::Result<Option<Word>> {
        let mut record = [0; RECORD_BYTES];
        let (count, file) = match self.socket.recv_with_fd(&mut record) {
            Ok(received) => received,
            Err(error) => {
                let error = io::Error::from(error);
                let gone = error.kind() == io::ErrorKind::ConnectionReset;
                return if gone { Ok(None) } else { Err(error) };
            }
        };
        if count == 0 {
            return Ok(None);
        }
        (&self.socket).read_exact(&mut record[count..])?;
        parse(&record, file.map(OwnedFd::from)).map(Some)
    }
}

fn parse(record: &[u8; RECORD_BYTES], file: Option<OwnedFd>) -> io::Result<Word> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "the server speaks another tongue");
    let name = record[1..=NAME_MAX_BYTES].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = || std::str::from_utf8(name).ok().and_then(Identity::named).ok_or_else(strange);
    match (record[0], file) {
        (KEEP, Some(file)) => Ok(Word::Keep(name()?, file)),
        (RELEASE, None) => Ok(Word::Release(name()?)),
        (COMPLETE, None) => Ok(Word::Complete),
        _ => Err(strange()),
    }
}

/// The process at the other end, if it may have all that we have: it is ours, or root's.
fn trusted_peer(socket: &UnixStream) -> io::Result<i32> {
    let peer = socket_peercred(socket)?;
    if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        return Ok(peer.pid.as_raw_nonzero().get());
    }
    let who = format!("user {} is neither root nor ours", peer.uid.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, who))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_cannot_be_a_servers_are_refused() {
        let record = |text: &[u8]| {
            let mut record = [0; RECORD_BYTES];
            record[..text.len()].copy_from_slice(text);
            record
        };
        let file = || Some(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        assert!(matches!(parse(&record(b"+fd-socket-1"), file()), Ok(Word::Keep(..))));
        assert!(matches!(parse(&record(b"-fd-socket-1"), None), Ok(Word::Release(_))));
        assert!(matches!(parse(&record(b"."), None), Ok(Word::Complete)));
        for (text, file) in [
            (&b"+fd-socket-1"[..], None),
            (b"+", file()),
            (b"-../x", None),
            (b"-fd-socket-1", file()),
            (b"", None),
            (b"?", None),
        ] {
            assert!(parse(&record(text), file).is_err());
        }
    }
}
