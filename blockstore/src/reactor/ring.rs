//! The io_uring of one thread and the operations that are in it.
//!
//! The invariant that makes this sound: a [`Request`] sits in its slot, untouched, from its
//! submission until its last completion has been taken from the ring. Dropping the ring waits
//! for that, too.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{Builder, IoUring, opcode, squeue, types};

use super::request::{Next, Progress, Request};
use crate::addr::{to_u64, to_usize};

/// What is worth a system call of its own while a turn goes on. Submitting everything at its end
/// would have the device wait for us, and then us for the device.
const BATCH: usize = 2;
/// One transfer of so many bytes is worth it, too.
const BATCH_BYTES: usize = 128 << 10;
/// All that is ever asked of a ring.
const OPERATIONS: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
];
/// User data of a completion that nobody waits for.
const IGNORED: u64 = u64::MAX;
/// User data of the poll that wakes a sleeping reactor.
const WAKE: u64 = u64::MAX - 1;

/// See the module's documentation.
pub(super) struct Ring {
    is_restricted: bool,
    /// Before the slots, for order's sake: by the time either goes, nothing is under way.
    io: IoUring,
    slots: Vec<Option<Slot>>,
    vacant: Vec<usize>,
    /// What does not fit into the submission queue yet, in order.
    backlog: VecDeque<squeue::Entry>,
    /// What the backlog is to move.
    backlog_bytes: usize,
    /// Submissions whose completion has not been taken.
    under_way: usize,
    /// Completions being taken; here to keep its memory.
    arrived: Vec<(u64, i32)>,
    wake: Arc<OwnedFd>,
    wake_armed: bool,
}

struct Slot {
    request: Request,
    progress: Progress,
    state: State,
}

enum State {
    Waiting(Option<Waker>),
    Over(io::Result<()>),
    /// Nobody wants the answer; the slot is kept for the kernel.
    Abandoned,
    /// Whom to call with the answer.
    Handed(Done),
}

/// What is to be done with an answer.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>)>;

/// Who is to hear of what has been completed, without holding the ring.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) wakers: Vec<Waker>,
    pub(super) calls: Vec<(Done, io::Result<()>)>,
}

impl Ring {
    /// Must run on the thread that will use the ring.
    pub(super) fn new(entries: u32, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let (io, is_restricted) = build(entries)?;
        Ok(Self {
            is_restricted,
            io,
            slots: Vec::new(),
            vacant: Vec::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            under_way: 0,
            arrived: Vec::new(),
            wake,
            wake_armed: false,
        })
    }

    /// Whether the kernel refuses every operation that no [`Request`] makes.
    pub(super) fn is_restricted(&self) -> bool {
        self.is_restricted
    }

    /// Takes a request in; it is submitted at the end of the turn. Returns its slot.
    pub(super) fn insert(&mut self, request: Request) -> usize {
        self.insert_as(request, State::Waiting(None))
    }

    /// Takes a request in whose answer goes to `done`.
    pub(super) fn insert_then(&mut self, request: Request, done: Done) {
        self.insert_as(request, State::Handed(done));
    }

    /// Takes away who was to be called: the reactor ends.
    #[must_use = "what is dropped here may run foreign code: not while the ring is borrowed"]
    pub(super) fn take_calls(&mut self) -> Vec<Done> {
        let mut calls = Vec::new();
        for slot in self.slots.iter_mut().flatten() {
            if let State::Handed(_) = slot.state {
                let before = std::mem::replace(&mut slot.state, State::Abandoned);
                calls.extend(if let State::Handed(done) = before { Some(done) } else { None });
            }
        }
        calls
    }

    fn insert_as(&mut self, request: Request, state: State) -> usize {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(Slot { request, progress: Progress::default(), state });
        self.enqueue(index);
        index
    }

    fn enqueue(&mut self, index: usize) {
        let slot = self.slots[index].as_mut().expect("only slots in use are submitted");
        let entry = slot.request.entry(&slot.progress).user_data(to_u64(index));
        self.backlog.push_back(entry);
        self.backlog_bytes += slot.request.bytes().unwrap_or_default();
        self.under_way += 1;
    }

    /// The answer to a request, which is handed back with its buffers; its slot is free then.
    pub(super) fn poll(
        &mut self,
        index: usize,
        context: &mut Context<'_>,
    ) -> Poll<(Request, io::Result<()>)> {
        let slot = self.slots[index].as_mut().expect("a future owns its slot until it is ready");
        if let State::Waiting(waker) = &mut slot.state {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let slot = self.vacate(index);
        let State::Over(result) = slot.state else { unreachable!("given away and still polled") };
        Poll::Ready((slot.request, result))
    }

    /// Takes away who waits for a request.
    #[must_use = "a waker may run foreign code when dropped: not while the ring is borrowed"]
    pub(super) fn take_waker(&mut self, index: usize) -> Option<Waker> {
        match &mut self.slots[index].as_mut()?.state {
            State::Waiting(waker) => waker.take(),
            State::Over(_) | State::Abandoned | State::Handed(_) => None,
        }
    }

    fn vacate(&mut self, index: usize) -> Slot {
        self.vacant.push(index);
        self.slots[index].take().expect("only slots in use are vacated")
    }

    /// Nobody waits for this request any more.
    #[must_use = "a waker may run foreign code when dropped: not while the ring is borrowed"]
    pub(super) fn abandon(&mut self, index: usize) -> Option<Waker> {
        let slot = self.slots[index].as_mut()?;
        if let State::Over(_) = slot.state {
            self.vacate(index);
            return None;
        }
        let endless = slot.request.is_endless();
        let before = std::mem::replace(&mut slot.state, State::Abandoned);
        if endless {
            self.cancel(index);
        }
        if let State::Waiting(waker) = before { waker } else { None }
    }

    fn cancel(&mut self, index: usize) {
        let entry = opcode::AsyncCancel::new(to_u64(index)).build().user_data(IGNORED);
        self.backlog.push_back(entry);
        self.under_way += 1;
    }

    /// Whether anything waits to be submitted.
    fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Submits early what makes up a batch: the device works on it while the turn goes on.
    pub(super) fn submit_batch(&mut self) -> io::Result<()> {
        let is_worth_it = self.backlog.len() >= BATCH || self.backlog_bytes >= BATCH_BYTES;
        if is_worth_it { self.submit() } else { Ok(()) }
    }

    /// Submits what has come up and lets the kernel finish what it has put off: at most one
    /// system call, none where there is nothing of either.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        loop {
            self.fill_queue();
            let queue = self.io.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return Ok(());
            }
            drop(queue);
            match self.io.submit() {
                Ok(_) if self.has_backlog() => {}
                Ok(_) => return Ok(()),
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn fill_queue(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut queue = self.io.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the entry's descriptor and buffers belong to a request in `self.slots`
            // (or it has none), where they stay in place on the heap until the completion has
            // been taken: see the module's invariant.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
        if self.backlog.is_empty() {
            self.backlog_bytes = 0;
        }
    }

    /// Sleeps until something completes, the wake descriptor is written to, or time is up.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.arm_wake();
        self.fill_queue();
        let waited = match timeout {
            None => self.io.submit_and_wait(1),
            Some(timeout) => {
                let timespec = types::Timespec::from(timeout);
                let arguments = types::SubmitArgs::new().timespec(&timespec);
                self.io.submitter().submit_with_args(1, &arguments)
            }
        };
        match waited {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn arm_wake(&mut self) {
        if self.wake_armed {
            return;
        }
        let descriptor = types::Fd(self.wake.as_raw_fd());
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(descriptor, events).build().user_data(WAKE);
        self.backlog.push_back(entry);
        self.under_way += 1;
        self.wake_armed = true;
    }

    /// Takes every completion that has arrived and adds who waited for them to `arrivals`, to be
    /// told without holding the ring. Says whether there was any.
    pub(super) fn reap(&mut self, arrivals: &mut Arrivals) -> bool {
        let mut arrived = std::mem::take(&mut self.arrived);
        let completions = self.io.completion();
        arrived.extend(completions.map(|entry| (entry.user_data(), entry.result())));
        self.under_way -= arrived.len();
        let any = !arrived.is_empty();
        for (user_data, result) in arrived.drain(..) {
            match user_data {
                IGNORED => {}
                WAKE => self.woken(),
                index => self.completed(to_usize(index), result, arrivals),
            }
        }
        self.arrived = arrived;
        any
    }

    fn woken(&mut self) {
        self.wake_armed = false;
        // Resets the counter; where it is zero already (EAGAIN) there is nothing to reset.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn completed(&mut self, index: usize, result: i32, arrivals: &mut Arrivals) {
        let slot = self.slots[index].as_mut().expect("a slot outlives its completion");
        let result = match slot.request.judge(&mut slot.progress, result) {
            Next::Again => return self.enqueue(index),
            Next::Over(result) => result,
        };
        if let State::Waiting(waker) = &mut slot.state {
            arrivals.wakers.extend(waker.take());
            slot.state = State::Over(result);
            return;
        }
        match self.vacate(index).state {
            State::Handed(done) => arrivals.calls.push((done, result)),
            State::Abandoned => {}
            State::Waiting(_) | State::Over(_) => unreachable!("a request ends once"),
        }
    }

    /// Waits until the kernel has let go of everything.
    fn drain(&mut self) -> io::Result<()> {
        for index in 0..self.slots.len() {
            if self.slots[index].as_ref().is_some_and(|slot| slot.request.is_endless()) {
                self.cancel(index);
            }
        }
        if self.wake_armed {
            let entry = opcode::AsyncCancel::new(WAKE).build().user_data(IGNORED);
            self.backlog.push_back(entry);
            self.under_way += 1;
        }
        let mut arrivals = Arrivals::default();
        while self.under_way > 0 {
            self.submit()?;
            if !self.reap(&mut arrivals) {
                self.io.submit_and_wait(1).map(drop).or_else(ignore_passing)?;
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Err(error) = self.drain() {
            // The kernel may still write to these buffers: better lost than reused.
            tracing::error!(%error, "cannot drain a ring; leaking its buffers");
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

/// Deferring completions to the thread's own system calls saves interrupts (Linux 6.1); older
/// kernels do without.
fn build(entries: u32) -> io::Result<(IoUring, bool)> {
    let mut modern = IoUring::builder();
    modern.setup_clamp().setup_submit_all().setup_single_issuer();
    modern.setup_defer_taskrun().setup_taskrun_flag();
    match build_restricted(&mut modern, entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok((IoUring::builder().setup_clamp().build(entries)?, false))
        }
        built => built.map(|ring| (ring, true)),
    }
}

/// A seccomp filter does not see what a ring is asked to do: the ring itself refuses everything
/// else, and whatever is to be registered with it, for good.
fn build_restricted(builder: &mut Builder, entries: u32) -> io::Result<IoUring> {
    let ring: IoUring = builder.setup_r_disabled().build(entries)?;
    ring.submitter().register_restrictions(&mut OPERATIONS.map(Restriction::sqe_op))?;
    ring.submitter().register_enable_rings()?;
    Ok(ring)
}

/// Errors of a submission that the next turn cures.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME))
}

fn ignore_passing(error: io::Error) -> io::Result<()> {
    if is_passing(&error) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_refuses_what_no_request_asks_for() {
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut ring = Ring::new(8, Arc::new(wake)).unwrap();
        if !ring.is_restricted() {
            eprintln!("not tried: the kernel restricts no ring of this kind (6.1 does)");
            return;
        }
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        // SAFETY: the path is static.
        unsafe { ring.io.submission().push(&open.user_data(7)) }.unwrap();
        ring.io.submit_and_wait(1).unwrap();
        let answers: Vec<i32> = ring.io.completion().map(|entry| entry.result()).collect();
        assert_eq!(answers, [-libc::EACCES]);
    }
}
