//! The table of disks that front ends can reach.
//!
//! I own which export runs on which socket and reactor. I never decide whether a disk may be
//! attached, and never touch the catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;

use bough_blockstore::{ReactorHandle, to_u64, to_usize};
use bough_radix::{Attachment, Disk, DiskName};

use crate::buffers::Buffers;
use crate::execute::SERIAL_BYTES;
use crate::sockets::{SocketDir, SocketError, SocketRights, disk_socket};
use crate::vhost::{Export, ExportOptions};

/// All running exports.
pub struct Exports {
    folder: SocketDir,
    rights: SocketRights,
    reactors: Vec<ReactorHandle>,
    buffers: Arc<Buffers>,
    running: BTreeMap<DiskName, Running>,
}

struct Running {
    attachment: Attachment,
    export: Export,
}

impl Exports {
    /// No exports yet.
    pub fn new(
        folder: SocketDir,
        rights: SocketRights,
        reactors: Vec<ReactorHandle>,
        buffers: Arc<Buffers>,
    ) -> Self {
        Self { folder, rights, reactors, buffers, running: BTreeMap::new() }
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
        let options = ExportOptions {
            name: name.to_string(),
            queues: attachment.queues,
            read_only: attachment.read_only,
            serial: serial_of(&disk),
            buffers: Arc::clone(&self.buffers),
        };
        let reactor = self.reactor_of(&disk);
        let export = Export::start(disk, listener, socket.clone(), options, reactor)
            .map_err(|source| SocketError::Io { path: socket, source })?;
        self.running.insert(name.clone(), Running { attachment, export });
        Ok(())
    }

    /// Disks are dealt to the reactors in turn, and a disk always to the same one.
    fn reactor_of(&self, disk: &Disk) -> ReactorHandle {
        let count = to_u64(self.reactors.len());
        self.reactors[to_usize(u64::from(disk.id().0) % count)].clone()
    }

    /// Stops offering a disk: connected front ends lose it once what is under way has ended.
    pub async fn stop(&mut self, disk: &DiskName) {
        if let Some(running) = self.running.remove(disk) {
            // Waits for what guests have under way: not on a thread that serves others.
            let stopped = tokio::task::spawn_blocking(move || running.export.stop()).await;
            if let Err(error) = stopped {
                tracing::error!(%disk, %error, "an export did not stop");
            }
        }
    }

    /// Stops everything.
    pub async fn stop_all(&mut self) {
        while let Some(name) = self.running.keys().next().cloned() {
            self.stop(&name).await;
        }
    }
}

/// What a guest sees as the disk's serial number: the beginning of its identity, which no rename
/// changes.
fn serial_of(disk: &Disk) -> [u8; SERIAL_BYTES] {
    let text = disk.uuid().simple().to_string();
    std::array::from_fn(|at| text.as_bytes()[at])
}
