//! A disk offered on a socket: letting front ends in, one thread each, until told to stop; and going
//! on with those of a dead server.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bough_blockstore::ReactorHandle;
use bough_radix::Access;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SocketFlags, accept_with};

use crate::buffers::Buffers;
use crate::disk::BlockDisk;
use crate::execute::SERIAL_BYTES;
use crate::keep::{Kept, Role, Vault};
use crate::metrics::Meter;
use crate::throttle::Throttle;
use crate::vhost::config::MAX_QUEUES;
use crate::vhost::connection::{self, End, Past};
use crate::vhost::doors::{Door, Doors};
use crate::vhost::fault::Fault;
use crate::vhost::ledger::Ledger;
use crate::vhost::session::Subject;
use crate::vhost::{Inherited, VhostError, sigbus};
use crate::waiting::WaitingLines;

/// Front ends waiting or served on one socket; more are turned away at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a newcomer waits for a live predecessor, which may be about to go.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take until one that has hung up is gone: what it had under way ends first.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often it looks whether the predecessor is still alive.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a disk is offered.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The disk's name, for messages.
    pub name: String,
    /// Virtqueues offered, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What GET_ID answers, padded with zeros.
    pub serial: [u8; SERIAL_BYTES],
    /// What its requests may need of us, shared with other exports.
    pub buffers: Arc<Buffers>,
    /// Where its requests wait that find the store full; none: they are answered with an error.
    pub waiting: Option<Arc<WaitingLines>>,
    /// How much may be asked of it.
    pub throttle: Arc<Throttle>,
    /// What is counted of it.
    pub meter: Arc<Meter>,
    /// What outlives us.
    pub vault: Arc<Vault>,
    /// Who tells us of newcomers.
    pub doors: Arc<Doors>,
}

/// A disk being offered. Dropping it stops: front ends are cut off, what they had under way ends,
/// the socket's path is removed.
pub struct Export {
    shared: Arc<Shared>,
    /// Open until we begin to stop.
    door: Option<Door<Kept>>,
    path: PathBuf,
}

struct Shared {
    listener: Kept,
    /// Readable from the moment on at which everybody is to stop.
    stop: OwnedFd,
    options: ExportOptions,
    state: Mutex<State>,
    /// Signalled when a connection has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    next_id: u64,
    connections: Vec<Connected>,
    last_fault: Option<VhostError>,
}

struct Connected {
    id: u64,
    client: String,
    fault: Arc<Fault>,
    /// Let in by the disk, not waiting for another to go.
    served: bool,
}

impl Export {
    /// Begins to accept front ends on `listener`, which is bound to `path`.
    ///
    /// # Errors
    /// Where there are no descriptors left.
    pub fn start<D: BlockDisk>(
        disk: Arc<D>,
        listener: UnixListener,
        path: PathBuf,
        options: ExportOptions,
        reactor: ReactorHandle,
    ) -> io::Result<Self> {
        Self::resume(disk, listener, path, options, reactor, Vec::new())
    }

    /// As [`Self::start`], and goes on with a dead server's sessions.
    pub(crate) fn resume<D: BlockDisk>(
        disk: Arc<D>,
        listener: UnixListener,
        path: PathBuf,
        options: ExportOptions,
        reactor: ReactorHandle,
        sessions: Vec<Inherited>,
    ) -> io::Result<Self> {
        sigbus::guard()?;
        // One thread accepts for all, and one who has gone again must not make it wait.
        listener.set_nonblocking(true)?;
        let listener = options.vault.keep(listener.into(), Role::Listener)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let queues = options.queues.clamp(1, MAX_QUEUES);
        let options = ExportOptions { queues, ..options };
        let shared = Arc::new(Shared {
            listener,
            stop,
            options,
            state: Mutex::default(),
            ended: Condvar::new(),
        });
        for Inherited { socket, ledger, past } in sessions {
            admit(&shared, &disk, &reactor, socket, Some((ledger, past)));
        }
        let accepting = Arc::clone(&shared);
        let on_knock = move || accept_one(&accepting, &disk, &reactor);
        let door = shared.options.doors.open(shared.listener.clone(), on_knock)?;
        Ok(Self { shared, door: Some(door), path })
    }

    /// Who is being served.
    pub fn clients(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.connections.iter().filter(|c| c.served).map(|c| c.client.clone()).collect()
    }

    /// Whoever has hung up and may not have been seen to, to be waited for.
    pub(crate) fn leavers(&self) -> Leavers {
        Leavers(Arc::clone(&self.shared))
    }

    /// Why the last front end was refused or cut off, if one was.
    pub fn last_fault(&self) -> Option<VhostError> {
        self.shared.lock().last_fault.clone()
    }

    /// Where front ends connect.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Cuts all front ends off and waits until what they had under way has ended.
    pub fn stop(mut self) {
        self.shut();
    }

    /// Begins to stop without cutting anybody off: whoever holds what we leave hands it to a
    /// successor. Does not wait.
    pub(crate) fn begin_handing_over(&self) {
        self.shared.lock().stopping = true;
        // Wakes the connections.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
    }

    /// Waits until what front ends had under way has ended, or stays for the successor.
    pub(crate) fn hand_over(mut self) {
        self.begin_handing_over();
        self.wait();
    }

    fn shut(&mut self) {
        if self.door.is_none() {
            return;
        }
        // The path first: nobody finds a socket that nobody answers.
        let _ = std::fs::remove_file(&self.path);
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.connections.iter().for_each(|connected| connected.fault.hang_up());
        }
        // Whoever is waiting to be accepted hears of it now, even if somebody else has the socket.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        self.wait();
    }

    /// For the connections. Whoever is being accepted finds us stopping.
    fn wait(&mut self) {
        if self.door.take().is_some() {
            self.shared.wait_for_all();
        }
    }
}

/// See [`Export::leavers`].
pub(crate) struct Leavers(Arc<Shared>);

impl Leavers {
    /// Returns when they are gone, or not going. Blocks its thread.
    pub(crate) fn see_off(&self) {
        let deadline = Instant::now() + FAREWELL;
        let mut state = self.0.lock();
        while state.connections.iter().any(|c| c.fault.front_end_is_gone()) {
            if Instant::now() >= deadline {
                return;
            }
            let waited = self.0.ended.wait_timeout(state, LOOK_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a newcomer into the list, unless there is no room or no future.
    fn enter(&self, client: &str, fault: &Arc<Fault>) -> Option<u64> {
        let mut state = self.lock();
        if state.stopping || state.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let (client, fault) = (client.to_owned(), Arc::clone(fault));
        state.connections.push(Connected { id, client, fault, served: false });
        Some(id)
    }

    /// Notes why a front end does not go on.
    fn note(&self, client: &str, error: &VhostError) {
        tracing::warn!(disk = self.options.name, %client, %error, "a front end was cut off");
        self.lock().last_fault = Some(error.clone());
    }

    fn leave(&self, id: u64) {
        self.lock().connections.retain(|connected| connected.id != id);
        self.ended.notify_all();
    }

    fn wait_for_all(&self) {
        let mut state = self.lock();
        while !state.connections.is_empty() {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks the disk to let a newcomer in. One that is in its way but already gone, or going, is
    /// waited for: a front end that was restarted connects before its predecessor's requests have
    /// ended.
    fn let_in<D: BlockDisk>(
        &self,
        disk: &Arc<D>,
        id: u64,
        client: &str,
    ) -> Result<D::Connection, VhostError> {
        let access = if self.options.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            let refusal = match disk.connect(client, access) {
                Ok(connection) => {
                    state
                        .connections
                        .iter_mut()
                        .filter(|c| c.id == id)
                        .for_each(|c| c.served = true);
                    return Ok(connection);
                }
                Err(error) => error,
            };
            let mut others = state.connections.iter().filter(|c| c.served);
            let waiting_helps = others.clone().next().is_some()
                && (Instant::now() < deadline || others.any(|c| c.fault.front_end_is_gone()));
            if !waiting_helps || state.stopping {
                let source = Arc::new(refusal);
                return Err(VhostError::Refused { client: client.to_owned(), source });
            }
            let waited = self.ended.wait_timeout(state, LOOK_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Somebody knocks, or has gone again.
fn accept_one<D: BlockDisk>(shared: &Arc<Shared>, disk: &Arc<D>, reactor: &ReactorHandle) {
    if shared.lock().stopping {
        return;
    }
    let accepted = accept_with(&shared.listener, SocketFlags::CLOEXEC).map_err(io::Error::from);
    match accepted.and_then(|socket| shared.options.vault.keep(socket, Role::FrontEnds)) {
        Ok(socket) => admit(shared, disk, reactor, socket, None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) if shared.lock().stopping => {}
        Err(error) => {
            // Out of descriptors, most likely; it passes.
            tracing::warn!(disk = shared.options.name, %error, "cannot accept a front end");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Gives a front end its thread.
fn admit<D: BlockDisk>(
    shared: &Arc<Shared>,
    disk: &Arc<D>,
    reactor: &ReactorHandle,
    socket: Kept,
    inherited: Option<(Ledger, Past)>,
) {
    let client = connection::describe(&socket);
    let name = &shared.options.name;
    let fault = Arc::new(Fault::new(socket.clone()));
    let (ledger, past) = match inherited {
        Some((ledger, past)) => (Ok(ledger), Some(past)),
        None => (Ledger::create(&shared.options.vault), None),
    };
    let ledger = match ledger {
        Ok(ledger) => ledger,
        Err(error) => {
            fault.hang_up();
            return tracing::warn!(disk = name, %client, %error, "cannot serve a front end");
        }
    };
    let Some(id) = shared.enter(&client, &fault) else {
        fault.hang_up();
        return tracing::warn!(disk = name, %client, "turned away: too many front ends");
    };
    let (shared_there, disk, reactor) = (Arc::clone(shared), Arc::clone(disk), reactor.clone());
    let spawned = thread::Builder::new().name(format!("vhost:{name}")).spawn(move || {
        let shared = shared_there;
        // Whatever happens in here, the list is kept right.
        let _leaving = Leaving { shared: &shared, id };
        let newcomer = Newcomer { id, client, socket, fault, ledger, past };
        serve_one(&shared, &disk, reactor, newcomer);
    });
    if let Err(error) = spawned {
        tracing::warn!(disk = name, %error, "cannot serve a front end");
        shared.leave(id);
    }
}

struct Leaving<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

struct Newcomer {
    id: u64,
    client: String,
    socket: Kept,
    fault: Arc<Fault>,
    ledger: Ledger,
    past: Option<Past>,
}

fn serve_one<D: BlockDisk>(
    shared: &Shared,
    disk: &Arc<D>,
    reactor: ReactorHandle,
    newcomer: Newcomer,
) {
    let options = &shared.options;
    let Newcomer { id, client, socket, fault, ledger, past } = newcomer;
    let client = client.as_str();
    let connection = match shared.let_in(disk, id, client) {
        Ok(connection) => connection,
        Err(error) => {
            shared.note(client, &error);
            return fault.hang_up();
        }
    };
    let how = if past.is_some() { "a front end is served on" } else { "a front end connected" };
    tracing::info!(disk = options.name, %client, "{how}");
    let subject = Subject {
        disk: Arc::clone(disk),
        reactor,
        fault,
        queues: options.queues,
        read_only: options.read_only,
        serial: options.serial,
        buffers: Arc::clone(&options.buffers),
        waiting: options.waiting.as_ref().map(|lines| lines.line(&options.name)),
        throttle: Arc::clone(&options.throttle),
        meter: Arc::clone(&options.meter),
        ledger: Arc::new(ledger),
        vault: Arc::clone(&options.vault),
    };
    match connection::serve(socket, subject, past, &shared.stop) {
        Ok(End::HandedOver) => {}
        Ok(End::Gone) => tracing::info!(disk = options.name, %client, "a front end left"),
        Err(error) => shared.note(client, &error),
    }
    // Only now may another write: nothing of this one's is under way.
    drop(connection);
}
