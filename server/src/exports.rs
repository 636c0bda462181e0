//! The table of disks that front ends can reach.
//!
//! I own which export runs on which socket and reactor. I never decide whether a disk may be
//! attached, and never touch the catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;

use bough_blockstore::{ReactorHandle, to_u64, to_usize};
use bough_radix::{Attachment, Disk, DiskName, Limits};

use crate::buffers::Buffers;
use crate::execute::SERIAL_BYTES;
use crate::keep::{Identity, Inheritance, Vault};
use crate::metrics::Meters;
use crate::sockets::{SocketDir, SocketError, SocketRights, disk_socket};
use crate::throttle::Throttle;
use crate::vhost::{Doors, Export, ExportOptions, Inherited, Leavers, inherited_sessions};
use crate::waiting::WaitingLines;

/// All running exports.
pub struct Exports {
    folder: SocketDir,
    rights: SocketRights,
    reactors: Vec<ReactorHandle>,
    buffers: Arc<Buffers>,
    waiting: Option<Arc<WaitingLines>>,
    meters: Arc<Meters>,
    running: BTreeMap<DiskName, Running>,
    vault: Arc<Vault>,
    doors: Arc<Doors>,
    /// Of a dead server: descriptors, and sessions by serial number.
    inherited: Inheritance,
    sessions: BTreeMap<String, Vec<Inherited>>,
}

/// What all exports share.
pub(crate) struct SharedByAll {
    /// The memory of all requests.
    pub(crate) buffers: Arc<Buffers>,
    /// Where requests wait that find the store full, if they are to.
    pub(crate) waiting: Option<Arc<WaitingLines>>,
    /// What is asked of the disks.
    pub(crate) meters: Arc<Meters>,
    /// What outlives us.
    pub(crate) vault: Arc<Vault>,
    /// Who watches the sockets.
    pub(crate) doors: Arc<Doors>,
}

struct Running {
    attachment: Attachment,
    throttle: Arc<Throttle>,
    export: Export,
}

impl Exports {
    /// No exports yet.
    pub(crate) fn new(
        folder: SocketDir,
        rights: SocketRights,
        reactors: Vec<ReactorHandle>,
        shared: SharedByAll,
        mut inherited: Inheritance,
    ) -> Self {
        let SharedByAll { buffers, waiting, meters, vault, doors } = shared;
        let sessions = inherited_sessions(&mut inherited, &vault);
        let running = BTreeMap::new();
        Self {
            folder,
            rights,
            reactors,
            buffers,
            waiting,
            meters,
            running,
            vault,
            doors,
            inherited,
            sessions,
        }
    }

    /// Everything is offered again that was: what a dead server has left beyond that is nobody's.
    pub(crate) fn settle(&mut self, inherited: Vec<Identity>) {
        let unclaimed = std::mem::take(&mut self.sessions);
        unclaimed.into_values().flatten().for_each(Inherited::turn_away);
        self.inherited = Inheritance::default();
        self.vault.release_all_but_kept(inherited);
    }

    /// Who holds what outlives us.
    pub fn keepers(&self) -> Vec<String> {
        self.vault.keepers()
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
        limits: Limits,
    ) -> Result<(), SocketError> {
        let throttle = Arc::new(Throttle::new(limits));
        let socket = disk_socket(self.folder.path(), name);
        let inherited = self.inherited.take_listener(&socket);
        let listener = SocketDir::listen(&socket, self.rights, inherited)?;
        let options = ExportOptions {
            name: name.to_string(),
            queues: attachment.queues,
            read_only: attachment.read_only,
            serial: serial_of(&disk),
            buffers: Arc::clone(&self.buffers),
            waiting: self.waiting.clone(),
            throttle: Arc::clone(&throttle),
            meter: self.meters.begin(name.as_str()),
            vault: Arc::clone(&self.vault),
            doors: Arc::clone(&self.doors),
        };
        let serial = String::from_utf8_lossy(&options.serial).into_owned();
        let sessions = self.sessions.remove(&serial).unwrap_or_default();
        let reactor = self.reactor_of(&disk);
        let export = Export::resume(disk, listener, socket.clone(), options, reactor, sessions)
            .map_err(|source| SocketError::at(&socket, source))?;
        self.running.insert(name.clone(), Running { attachment, throttle, export });
        Ok(())
    }

    /// Front ends of a disk that may be about to leave.
    pub(crate) fn leavers(&self, disk: &DiskName) -> Option<Leavers> {
        self.running.get(disk).map(|running| running.export.leavers())
    }

    /// Has a disk's guests keep to other limits from now on.
    pub fn limit(&self, disk: &DiskName, limits: Limits) {
        if let Some(running) = self.running.get(disk) {
            running.throttle.set(limits);
        }
    }

    /// Disks are dealt to the reactors in turn, and a disk always to the same one.
    fn reactor_of(&self, disk: &Disk) -> ReactorHandle {
        let count = to_u64(self.reactors.len());
        self.reactors[to_usize(u64::from(disk.id().0) % count)].clone()
    }

    /// Stops offering a disk: connected front ends lose it once what is under way has ended.
    pub async fn stop(&mut self, disk: &DiskName) {
        if let Some(running) = self.running.remove(disk) {
            self.meters.end(disk.as_str());
            // Waits for what guests have under way: not on a thread that serves others.
            let stopped = tokio::task::spawn_blocking(move || running.export.stop()).await;
            if let Err(error) = stopped {
                tracing::error!(%disk, %error, "an export did not stop");
            }
        }
    }

    /// Stops everything without cutting front ends off: a successor serves them.
    pub async fn hand_over(&mut self) {
        self.vault.begin_to_leave();
        let running = std::mem::take(&mut self.running);
        running.values().for_each(|running| running.export.begin_handing_over());
        for (disk, running) in running {
            let stopped = tokio::task::spawn_blocking(move || running.export.hand_over()).await;
            if let Err(error) = stopped {
                tracing::error!(%disk, %error, "an export did not stop");
            }
        }
        self.vault.leave();
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
