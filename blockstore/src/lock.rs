//! Who holds a store: a small file beside it, for other processes to read.
//!
//! Owns that file's form. Never decides anything: the lock is on the blocks themselves (see
//! `device::file`), and the file only lets the loser say who has won, and talk to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// More than this is not one of our files.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The process that holds a store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its process number.
    pub pid: u32,
    /// Where it can be talked to, if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_socket: Option<PathBuf>,
}

impl Holder {
    /// This process, with no socket yet.
    pub fn this_process() -> Self {
        Self { pid: std::process::id(), control_socket: None }
    }

    /// What the file says; `None` where it is missing or is none of ours. It may be a
    /// leftover: only whoever fails to lock the store may believe it.
    pub fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Leaves word of this holder. Readers see the old file or the new one, never a part.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.write_all(b"\n")?;
        drop(file);
        std::fs::rename(&beside, path)
    }

    /// Takes the word back.
    ///
    /// # Errors
    /// Where there is a file and it cannot be removed.
    pub fn clear(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn describe(holder: Option<&Self>) -> String {
        match holder {
            None => "another process".into(),
            Some(Self { pid, control_socket: None }) => format!("process {pid}"),
            Some(Self { pid, control_socket: Some(socket) }) => {
                format!("the server with process number {pid}, listening on {}", socket.display())
            }
        }
    }
}
