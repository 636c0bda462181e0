//! What the server gives up once it has what it needs: whoever takes it over can neither reach
//! other files, nor start programs, nor open connections to other machines.
//!
//! I own the order: [`Sandbox::begin`] before there is any thread, because Landlock binds a thread and
//! what it starts; [`Sandbox::finish`] when everything is open, for all threads at once. Invariant:
//! what the kernel lacks is said once and gone without; nothing else is.

mod calls;
mod files;
#[cfg(test)]
mod tests;

use std::path::Path;

use bough_blockstore::ReactorHandle;
use serde::{Deserialize, Serialize};

use crate::folder::StoreFolder;
use crate::sockets::{SocketDir, SocketError};

/// What `GET /v1/server` says of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLevel {
    /// Programs started could never gain rights.
    pub no_new_privileges: bool,
    /// System calls are filtered, by seccomp.
    pub seccomp: bool,
    /// The version of Landlock that confines files; 0 where none does.
    pub landlock_abi: u32,
    /// The rings refuse what reactors do not ask for.
    pub io_uring: bool,
}

/// A sandbox in the making.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox(Option<u32>);

impl Sandbox {
    /// Gives nothing up.
    pub const OFF: Self = Self(None);

    /// Keeps only the store's files and the folder of sockets, which is made if need be. To be
    /// called before the process has other threads.
    ///
    /// # Errors
    /// Where that folder cannot be made.
    pub fn begin(folder: &StoreFolder, socket_dir: &Path) -> Result<Self, SocketError> {
        let sockets = SocketDir::open(socket_dir.to_owned())?;
        let abi = files::confine(folder, sockets.path()).unwrap_or_else(|error| {
            tracing::warn!(%error, "no Landlock; files are not confined");
            0
        });
        Ok(Self(Some(abi)))
    }

    /// Keeps only the system calls of a server that serves; says what has been reached.
    pub(crate) fn finish(self, reactors: &[ReactorHandle]) -> Option<SandboxLevel> {
        let landlock_abi = self.0?;
        let seccomp = calls::filter();
        if let Err(error) = &seccomp {
            tracing::warn!(%error, "no seccomp; system calls are not filtered");
        }
        let io_uring = reactors.iter().all(ReactorHandle::is_restricted);
        if !io_uring {
            tracing::warn!("io_uring takes no restrictions here");
        }
        let no_new_privileges = rustix::thread::no_new_privs().unwrap_or(false);
        Some(SandboxLevel { no_new_privileges, seccomp: seccomp.is_ok(), landlock_abi, io_uring })
    }
}
