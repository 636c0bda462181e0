//! What a descriptor is called: the same in every process that has it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{FileType, fcntl_getfl, fstat};
use serde::{Deserialize, Serialize};

/// Characters in a name at most; systemd takes 255, a record of ours has room for these.
pub(crate) const NAME_MAX_BYTES: usize = 62;

/// What we hold a descriptor for. A front end that hands us a file in one role can never make a
/// successor see it in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Handed over by a front end.
    FrontEnds,
    /// A session's ledger.
    Ledger,
    /// A socket that we listen on.
    Listener,
    /// Where logs end.
    Tails,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::FrontEnds => "fd",
            Self::Ledger => "ledger",
            Self::Listener => "listener",
            Self::Tails => "tails",
        }
    }
}

/// The name of one open file: whoever is given the same file twice gives it the same name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Identity(String);

impl Identity {
    /// Of this descriptor.
    pub(crate) fn of(file: impl AsFd, role: Role) -> io::Result<Self> {
        let file = file.as_fd();
        let stat = fstat(file)?;
        let role = role.word();
        Ok(Self(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => format!("{role}-socket-{}", stat.st_ino),
            // All that are not files of their own share one inode.
            _ if is_anonymous(file) => format!("{role}-event-{}", eventfd_number(file)?),
            _ => {
                let access = (fcntl_getfl(file)? & rustix::fs::OFlags::RWMODE).bits();
                format!("{role}-file-{:x}-{}-{access}", stat.st_dev, stat.st_ino)
            }
        }))
    }

    /// As somebody wrote it down.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() <= NAME_MAX_BYTES;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (fits && name.bytes().all(plain)).then(|| Self(name.to_owned()))
    }

    /// Whether it is a name that we give.
    pub(crate) fn is_ours(&self) -> bool {
        [Role::FrontEnds, Role::Ledger, Role::Listener, Role::Tails]
            .into_iter()
            .any(|role| self.is(role))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether we held it for this.
    pub(crate) fn is(&self, role: Role) -> bool {
        self.0.strip_prefix(role.word()).is_some_and(|rest| rest.starts_with('-'))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_anonymous(file: impl AsFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
        .is_ok_and(|target| target.to_str().is_some_and(|name| name.starts_with("anon_inode:")))
}

/// The kernel's own number for an eventfd.
fn eventfd_number(file: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path)?;
    let number =
        info.lines().find_map(|line| line.strip_prefix("eventfd-id:")?.trim().parse().ok());
    number
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor an eventfd"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn one_open_file_has_one_name_and_two_have_two() {
        let bells = || eventfd(0, EventfdFlags::empty()).unwrap();
        let memory = || rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let files = [bells(), bells(), memory(), memory(), a.into(), b.into()];
        let name = |file: &std::os::fd::OwnedFd| Identity::of(file, Role::FrontEnds).unwrap();
        let mut names: Vec<_> = files.iter().map(name).collect();
        for (file, name) in files.iter().zip(&names) {
            assert_eq!(Identity::of(file.try_clone().unwrap(), Role::FrontEnds).unwrap(), *name);
            assert_eq!(Identity::named(name.as_str()).as_ref(), Some(name));
            assert!(name.is(Role::FrontEnds) && !name.is(Role::Ledger));
            assert_ne!(Identity::of(file, Role::Ledger).unwrap(), *name);
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), files.len());
    }

    #[test]
    fn names_that_cannot_be_ours_are_refused() {
        for name in ["", "fd socket", "fd:1", &"x".repeat(NAME_MAX_BYTES + 1)] {
            assert_eq!(Identity::named(name), None);
        }
    }
}
