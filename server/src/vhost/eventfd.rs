//! Eventfds that a front end gave us.
//!
//! Writing to one blocks while its counter is full, and whether it may is for the front end to say:
//! the flag is shared. No honest counter is ever full. A hostile front end that fills its own would have
//! a reactor wait for ever, and all its guests; so each thread says what it is writing to, and
//! [`Rescuer`] empties a counter that somebody waits for.

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{ReadWriteFlags, preadv2};

/// What each thread is writing to.
static ALL: Mutex<Vec<Arc<Mutex<Ringing>>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Mine = Mine::register();
}

/// What a thread is writing to.
#[derive(Default)]
struct Ringing {
    /// How often it has begun to.
    count: u64,
    now: Option<Arc<File>>,
    /// Its last write was stuck, and freed.
    was_freed: bool,
}

/// A thread's entry in [`ALL`], for as long as it lives.
struct Mine(Arc<Mutex<Ringing>>);

impl Mine {
    fn register() -> Self {
        let ringing = Arc::default();
        lock(&ALL).push(Arc::clone(&ringing));
        Self(ringing)
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        lock(&ALL).retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// Whether it is one. A front end may send anything; a file that is always readable would have
/// us spin for ever.
pub(crate) fn is_eventfd(file: &File) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .is_ok_and(|target| target.to_str() == Some("anon_inode:[eventfd]"))
}

/// The front end has filled its own counter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stuck;

/// Adds one to it.
///
/// # Errors
/// Where it was full, which took a while to mend: who does that once will do it again.
pub(crate) fn signal(file: &Arc<File>) -> Result<(), Stuck> {
    // A thread that is ending signals nobody.
    let signalled = MINE.try_with(|Mine(mine)| {
        {
            let mut ringing = lock(mine);
            ringing.count += 1;
            ringing.now = Some(Arc::clone(file));
        }
        // Nobody to report a failure to: the front end's own descriptor.
        let _ = rustix::io::write(file, &1u64.to_ne_bytes());
        let mut ringing = lock(mine);
        ringing.now = None;
        std::mem::take(&mut ringing.was_freed)
    });
    if signalled == Ok(true) { Err(Stuck) } else { Ok(()) }
}

/// Frees threads that are stuck in [`signal`].
#[derive(Default)]
pub(super) struct Rescuer {
    /// How often each thread had begun to write when it was last looked at, if it was at it.
    seen: HashMap<usize, u64>,
}

impl Rescuer {
    /// Looks. Who is found twice in the same place is stuck, if what it writes to is full.
    pub(super) fn look(&mut self) {
        let before = std::mem::take(&mut self.seen);
        for mine in &*lock(&ALL) {
            let mut ringing = lock(mine);
            let Some(file) = &ringing.now else { continue };
            let thread = Arc::as_ptr(mine).addr();
            self.seen.insert(thread, ringing.count);
            if before.get(&thread) == Some(&ringing.count) && is_full(file) {
                // Never waits. Nobody loses a call by it: the thread that waits adds its own.
                let taken = &mut [0; 8];
                let mut taken = [IoSliceMut::new(taken)];
                let _ = preadv2(file, &mut taken, u64::MAX, ReadWriteFlags::NOWAIT);
                ringing.was_freed = true;
            }
        }
    }
}

fn is_full(file: &File) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&now)), Ok(0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing between lock and unlock leaves it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn only_eventfds_pass_for_eventfds() {
        assert!(is_eventfd(&File::from(eventfd(0, EventfdFlags::empty()).unwrap())));
        assert!(!is_eventfd(&File::open("/dev/zero").unwrap()));
        assert!(!is_eventfd(&File::open("/").unwrap()));
    }

    #[test]
    fn a_full_counter_does_not_block_for_ever_and_is_told_of() {
        let full = Arc::new(File::from(eventfd(0, EventfdFlags::empty()).unwrap()));
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let own = Arc::clone(&full);
        let writer = std::thread::spawn(move || (signal(&own), signal(&own)));
        let mut rescuer = Rescuer::default();
        while !writer.is_finished() {
            rescuer.look();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(writer.join().unwrap(), (Err(Stuck), Ok(())));
        let mut count = [0; 8];
        rustix::io::read(&full, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2, "both were told");
    }
}
