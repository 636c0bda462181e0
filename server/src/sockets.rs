//! UNIX sockets: where they are, who may connect, and what a dead server leaves behind.
//!
//! I own the folder of sockets. Invariant: a socket of ours is never open to more users than
//! asked for, not even between its making and its chmod: [`SocketDir::open`] takes all rights of
//! others away from whatever this process makes afterwards.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bough_radix::DiskName;
use rustix::fs::{Gid, Mode};

/// The longest path that fits a socket's address, with its final zero.
const SOCKET_PATH_MAX_BYTES: usize = 107;

/// How long a dying process may still have its sockets.
const DYING: Duration = Duration::from_millis(500);

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The folder cannot be made.
    #[error("the folder of sockets '{path}': {source}; choose another with --socket-dir")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An address has little room.
    #[error(
        "the socket's path '{path}' is longer than {SOCKET_PATH_MAX_BYTES} bytes; choose a shorter \
         folder with --socket-dir"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another server's.
    #[error("another server listens on '{path}'; stop it or choose another --socket-dir")]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("'{path}' is there and is no socket; remove it or choose another --socket-dir")]
    Alien {
        /// The path.
        path: PathBuf,
    },
    /// No such group.
    #[error("there is no group '{name}'; see `getent group`")]
    NoSuchGroup {
        /// As given.
        name: String,
    },
    /// As many descriptors as we may have.
    #[error(
        "the socket '{path}': no descriptors are left; detach other disks, or restart the server \
         with more (LimitNOFILE= of its unit, or `ulimit -n`)"
    )]
    NoDescriptors {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("the socket '{path}': {source}; check the rights on its folder")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SocketError {
    /// What the kernel says of a socket.
    pub(crate) fn at(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptors { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRights {
    /// The socket's group, where not the server's own.
    pub group: Option<u32>,
    /// The permission bits.
    pub mode: u32,
}

impl SocketRights {
    /// The server's own user and nobody else.
    pub const PRIVATE: Self = Self { group: None, mode: 0o600 };
}

/// Where a disk's socket is in `folder`.
pub fn disk_socket(folder: &Path, disk: &DiskName) -> PathBuf {
    folder.join(format!("{disk}.sock"))
}

/// Where the control socket is in `folder`: no disk's socket can have that name.
pub fn control_socket(folder: &Path) -> PathBuf {
    folder.join("control")
}

/// Where sockets go unless told otherwise.
pub fn default_socket_dir() -> PathBuf {
    let run = if rustix::process::geteuid().is_root() {
        None
    } else {
        std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty())
    };
    run.map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("bough")
}

/// The folder of sockets.
#[derive(Clone, Debug)]
pub struct SocketDir {
    path: PathBuf,
}

impl SocketDir {
    /// Makes the folder if need be. Others may look into it: the rights are the sockets' own.
    pub fn open(path: PathBuf) -> Result<Self, SocketError> {
        let fault = |source| SocketError::Folder { path: path.clone(), source };
        if !path.is_dir() {
            std::fs::create_dir_all(&path).map_err(fault)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).map_err(fault)?;
        }
        let path = path.canonicalize().map_err(fault)?;
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Listens on `path`, taking a dead server's socket away first; unless that server, or the service
    /// manager, left it to us: clients that came in the meantime are waiting at it.
    pub fn listen(
        path: &Path,
        rights: SocketRights,
        inherited: Option<UnixListener>,
    ) -> Result<UnixListener, SocketError> {
        if path.as_os_str().len() > SOCKET_PATH_MAX_BYTES {
            return Err(SocketError::TooLong { path: path.to_owned() });
        }
        let fault = |source| SocketError::at(path, source);
        let listener = match inherited {
            Some(listener) => listener,
            None => {
                clear_the_way_patiently(path)?;
                UnixListener::bind(path).map_err(fault)?
            }
        };
        if let Some(group) = rights.group {
            let group = Gid::from_raw(group);
            rustix::fs::chown(path, None, Some(group)).map_err(|errno| fault(errno.into()))?;
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(rights.mode)).map_err(fault)?;
        Ok(listener)
    }
}

/// As [`clear_the_way`], but a server that is about to die may listen a moment longer: its store was
/// free before its sockets are.
fn clear_the_way_patiently(path: &Path) -> Result<(), SocketError> {
    let deadline = Instant::now() + DYING;
    loop {
        match clear_the_way(path) {
            Err(SocketError::Taken { .. }) if Instant::now() < deadline => {
                std::thread::sleep(DYING / 100);
            }
            done => return done,
        }
    }
}

/// Removes a socket that nobody listens on; anything else stays.
fn clear_the_way(path: &Path) -> Result<(), SocketError> {
    let fault = |source| SocketError::at(path, source);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::Alien { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fault)
        }
        Err(error) => Err(fault(error)),
    }
}

/// The number of a group given by name or number, as `/etc/group` has it.
pub fn group_number(name: &str) -> Result<u32, SocketError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| SocketError::NoSuchGroup { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_servers_socket_is_replaced_and_a_live_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.sock");
        let first = SocketDir::listen(&path, SocketRights::PRIVATE, None).unwrap();
        let taken = SocketDir::listen(&path, SocketRights::PRIVATE, None);
        assert!(matches!(taken, Err(SocketError::Taken { .. })));
        drop(first);
        SocketDir::listen(&path, SocketRights { group: None, mode: 0o660 }, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.sock");
        std::fs::write(&path, "precious").unwrap();
        let alien = SocketDir::listen(&path, SocketRights::PRIVATE, None);
        assert!(matches!(alien, Err(SocketError::Alien { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_does_not_fit_an_address_is_refused_by_name() {
        let path = PathBuf::from("/tmp").join("x".repeat(SOCKET_PATH_MAX_BYTES));
        let long = SocketDir::listen(&path, SocketRights::PRIVATE, None);
        assert!(matches!(long, Err(SocketError::TooLong { .. })));
    }
}
