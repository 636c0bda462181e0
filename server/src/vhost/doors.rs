//! One thread that watches all listening sockets, however many disks are attached.
//!
//! I own who is told when somebody knocks. I never accept anybody: whoever opened the door does,
//! with one call that does not block, since everybody waits for the same thread. Being the one
//! thread that never waits for a guest, it frees those that do, too: [`Rescuer`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::vhost::eventfd::Rescuer;

/// Sockets looked at in one go.
const EVENTS_AT_ONCE: usize = 64;
/// How often somebody stuck is looked for: 250 ms.
const RESCUE_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// What the thread itself is told with.
const OVER: u64 = 0;

/// Called when somebody waits to be accepted.
type OnKnock = Arc<dyn Fn() + Send + Sync>;

/// See the module. The thread ends with the last clone of the [`Arc`] it is in.
#[derive(Debug)]
pub struct Doors {
    shared: Arc<Shared>,
}

struct Shared {
    epoll: OwnedFd,
    /// Readable when the thread is to end.
    over: OwnedFd,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    open: BTreeMap<u64, OnKnock>,
}

/// A socket that is watched, until dropped.
#[derive(Debug)]
pub(crate) struct Door<L: AsFd> {
    shared: Weak<Shared>,
    number: u64,
    listener: L,
}

impl Doors {
    /// Begins to watch, nothing as yet.
    ///
    /// # Errors
    /// Where there are no descriptors or threads left.
    pub fn new() -> io::Result<Arc<Self>> {
        let (epoll, over) =
            (epoll::create(CreateFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?);
        epoll::add(&epoll, &over, EventData::new_u64(OVER), EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, over, table: Mutex::default() });
        let watching = Arc::clone(&shared);
        thread::Builder::new().name("accept".into()).spawn(move || watching.watch())?;
        Ok(Arc::new(Self { shared }))
    }

    /// Has `on_knock` called whenever somebody waits at `listener`.
    pub(crate) fn open<L: AsFd>(
        &self,
        listener: L,
        on_knock: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Door<L>> {
        let number = {
            let mut table = self.shared.lock();
            table.last += 1;
            let number = table.last;
            table.open.insert(number, Arc::new(on_knock));
            number
        };
        let door = Door { shared: Arc::downgrade(&self.shared), number, listener };
        let data = EventData::new_u64(number);
        epoll::add(&self.shared.epoll, &door.listener, data, EventFlags::IN)?;
        Ok(door)
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.shared.over, &1u64.to_ne_bytes());
    }
}

impl<L: AsFd> Drop for Door<L> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let _ = epoll::delete(&shared.epoll, &self.listener);
        let closed = shared.lock().open.remove(&self.number);
        drop(closed); // without the lock: it may be the last to know of an export
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut rescuer = Rescuer::default();
        loop {
            rescuer.look();
            let room = rustix::buffer::spare_capacity(&mut events);
            let waited = epoll::wait(&self.epoll, room, Some(&RESCUE_EVERY));
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return tracing::error!(%error, "no front end can connect any more");
                }
            }
            for event in events.drain(..) {
                let number = event.data.u64();
                if number == OVER {
                    return;
                }
                // Whoever has closed a door meanwhile is not called.
                let on_knock = self.lock().open.get(&number).cloned();
                if let Some(on_knock) = on_knock {
                    on_knock();
                }
            }
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("open", &self.lock().open.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn one_thread_tells_every_door_of_its_own_knocks_and_none_once_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let doors = Doors::new().unwrap();
        let (told, heard) = mpsc::channel();
        let (mut open, mut bound) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let listener = Arc::new(UnixListener::bind(folder.path().join(name)).unwrap());
            listener.set_nonblocking(true).unwrap();
            let (told, accepting) = (told.clone(), Arc::clone(&listener));
            bound.push(Arc::clone(&listener));
            let on_knock = move || {
                if let Ok((socket, _)) = accepting.accept() {
                    told.send((name, thread::current().id(), socket)).unwrap();
                }
            };
            open.push(doors.open(listener, on_knock).unwrap());
        }
        let knock = |name| UnixStream::connect(folder.path().join(name)).unwrap();
        let _clients = [knock("b"), knock("a"), knock("b")];
        let calls: Vec<_> = (0..3).map(|_| heard.recv().unwrap()).collect();
        let mut names: Vec<_> = calls.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "b"]);
        assert!(calls.iter().all(|(_, thread, _)| *thread == calls[0].1), "one thread for all");
        drop(open.pop());
        let _unheard = knock("b");
        let _client = knock("a");
        assert_eq!(heard.recv().unwrap().0, "a");
        assert!(heard.try_recv().is_err(), "a closed door is not answered");
    }
}
