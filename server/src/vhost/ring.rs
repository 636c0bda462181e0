//! One ring being served: taking requests, carrying them out side by side, answering them.
//!
//! I own a virtqueue from its start to its stop. The reactor takes and answers; the thread of
//! the connection starts me, stops me and swaps my memory map. Each does so under one short
//! lock, never held across a wait.
//!
//! Invariants: a chain is taken at most once before it is answered, so there are never more
//! requests than descriptors. Nothing is published after [`Ring::abandon`] was called. A
//! stopped ring has nothing under way.

mod begin;
mod patience;

use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

use bough_blockstore::{Lull, ReactorHandle, Runtime, UringRuntime, lull, to_u64};

use crate::buffers::Buffers;
use crate::complete::{self, Finished};
use crate::disk::BlockDisk;
use crate::execute::{Outcome, Policy};
use crate::guest::Memory;
use crate::metrics::Meter;
use crate::reactor;
use crate::request::{self, Request, RequestError, Table};
use crate::throttle::Throttle;
use crate::vhost::fault::Fault;
use crate::vhost::turn::{Right, Turn};
use crate::vhost::{InflightQueue, InflightRegion, VhostError, eventfd, memory};
use crate::waiting::WaitingLine;

/// Memory that a disk's requests under way may need of us, shared by its rings; more waits in
/// the rings. A guest can ask for much with little, so each request counts for its own sake, too.
const BUDGET_BYTES: u64 = 32 << 20;
/// What each ring gets at least: two large requests.
const LEAST_BUDGET_BYTES: u64 = 2 << 20;
const REQUEST_BYTES: u64 = 1024;
const RUN_BYTES: u64 = 16;
/// Requests taken before others on the reactor get their turn.
const MAX_TAKEN_PER_TURN: usize = 256;
/// How often a ring is looked at in vain, at most, while other things keep the reactor awake. That
/// takes about a millisecond.
const MAX_LOOKS: u32 = 10_000;

/// Where a ring lies and how it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) descriptors: GuestAddress,
    pub(crate) available: GuestAddress,
    pub(crate) used: GuestAddress,
    /// The next entry of the available ring.
    pub(crate) base: u16,
    pub(crate) event_index: bool,
}

/// What a ring needs from its surroundings.
pub(crate) struct Surroundings<D> {
    pub(crate) disk: Arc<D>,
    pub(crate) policy: Policy,
    pub(crate) memory: Arc<Memory>,
    pub(crate) fault: Arc<Fault>,
    /// Rings of the disk, this one included.
    pub(crate) rings: u16,
    /// What the requests of all guests share.
    pub(crate) buffers: Arc<Buffers>,
    /// Where requests wait that find the store full, if they are to wait.
    pub(crate) waiting: Option<WaitingLine>,
    /// How much may be asked of the disk.
    pub(crate) throttle: Arc<Throttle>,
    /// What is counted of it.
    pub(crate) meter: Arc<Meter>,
}

/// Where it is noted which requests were taken and not answered.
pub(crate) struct Past {
    pub(crate) region: InflightRegion,
    /// Which of the region's parts is the ring's.
    pub(crate) part: u16,
    /// How far the available ring was ahead of the used ring when nothing was under way; known of
    /// a ring that goes on. A front end's region knows better than the front end's base, which may not
    /// count what a killed server took: zero there. `None`: the ring begins, whatever the region says.
    pub(crate) ahead: Option<u16>,
}

/// A ring that is ready to [begin](Ring::begin).
pub(crate) struct Prepared<D> {
    pub(crate) ring: Arc<Ring<D>>,
    /// Taken by a dead server, in order.
    pub(crate) unanswered: Vec<u16>,
    /// As in [`Past`], for a successor.
    pub(crate) ahead: u16,
}

/// A virtqueue being served.
pub(crate) struct Ring<D> {
    index: u16,
    table: Table,
    disk: Arc<D>,
    policy: Policy,
    fault: Arc<Fault>,
    budget_bytes: u64,
    buffers: Arc<Buffers>,
    waiting: Option<WaitingLine>,
    throttle: Arc<Throttle>,
    meter: Arc<Meter>,
    state: Mutex<State>,
    /// Signalled when the last request under way has ended.
    idle: Condvar,
    /// Wakes the server task from its wait for a kick.
    wake: Notify,
    /// Wakes requests from their wait for room.
    stopping: Notify,
}

struct State {
    phase: Phase,
    queue: Queue,
    memory: Arc<Memory>,
    log: InflightQueue,
    /// Which chains are taken, by first descriptor.
    taken: Vec<bool>,
    under_way: usize,
    bytes_under_way: u64,
    call: Option<Arc<File>>,
    error: Option<Arc<File>>,
    signal_due: bool,
    /// The driver was asked for a kick.
    kick_wanted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Taking and answering.
    Serving,
    /// Answering what was taken, taking nothing.
    Draining,
    /// Neither: the front end is gone, or cannot be trusted any more.
    Abandoned,
}

/// What a look at the available ring found.
enum Taken {
    Request(Claim, Request, Arc<Memory>),
    /// Nothing is there.
    Nothing,
    /// Whatever is there has to wait for a completion.
    Later,
    /// Other guests' requests need all the memory there is for them.
    NoRoom,
    /// The disk's limits allow no more before that moment.
    Throttled(Duration),
    /// The ring has stopped.
    Stopped,
}

/// A request's place among those under way.
struct Claim {
    head: u16,
    bytes: u64,
    /// What of that it takes though it only waits.
    own_bytes: u64,
}

impl<D: BlockDisk> Ring<D> {
    /// Checks a ring and makes it ready to be served.
    pub(crate) fn prepare(
        layout: &Layout,
        around: Surroundings<D>,
        past: &Past,
    ) -> Result<Prepared<D>, VhostError> {
        let (state, unanswered, ahead) = begin::prepare(layout, around.memory, past)?;
        let ring = Arc::new(Self {
            index: layout.index,
            table: Table { address: layout.descriptors, count: layout.size },
            disk: around.disk,
            policy: around.policy,
            fault: around.fault,
            budget_bytes: (BUDGET_BYTES / u64::from(around.rings.max(1))).max(LEAST_BUDGET_BYTES),
            buffers: around.buffers,
            waiting: around.waiting,
            throttle: around.throttle,
            meter: around.meter,
            state: Mutex::new(state),
            idle: Condvar::new(),
            wake: Notify::new(),
            stopping: Notify::new(),
        });
        Ok(Prepared { ring, unanswered, ahead })
    }

    /// Begins to serve. What a dead server left unanswered goes first.
    pub(crate) fn begin(
        self: Arc<Self>,
        kick: Arc<File>,
        unanswered: Vec<u16>,
        reactor: &ReactorHandle,
    ) {
        reactor.spawn(move || Box::pin(self.serve(kick, unanswered)));
    }

    /// Where to tell the driver of completions. It is told at once: what was published before it
    /// said where to call would otherwise go unnoticed.
    pub(crate) fn set_call(&self, call: Option<Arc<File>>) {
        if let Some(call) = &call {
            // Where it is stuck, the next call will be, too.
            let _ = eventfd::signal(call);
        }
        self.lock().call = call;
    }

    /// Where to tell the front end of a broken ring.
    pub(crate) fn set_error(&self, error: Option<Arc<File>>) {
        self.lock().error = error;
    }

    /// Serves from another map. Requests under way keep theirs.
    pub(crate) fn set_memory(&self, memory: Arc<Memory>) -> Result<(), VhostError> {
        let mut state = self.lock();
        if !state.queue.is_valid(&*memory) {
            return Err(VhostError::BadRing { queue: usize::from(self.index) });
        }
        state.memory = memory;
        Ok(())
    }

    /// Takes nothing more, waits until everything taken is answered, and returns the next
    /// entry of the available ring.
    pub(crate) fn drain(&self) -> u16 {
        let next = self.finish(Phase::Draining).queue.next_avail();
        self.tell_driver();
        next
    }

    /// Takes and answers nothing more, without waiting for what is under way.
    pub(crate) fn stop_answering(&self) {
        self.lock().phase = Phase::Abandoned;
        self.wake.notify_one();
        self.stopping.notify_waiters();
    }

    /// Takes and answers nothing more; returns when nothing is under way. What was not answered
    /// stays marked in the in-flight region.
    pub(crate) fn abandon(&self) {
        drop(self.finish(Phase::Abandoned));
    }

    fn finish(&self, phase: Phase) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.phase != Phase::Abandoned {
            state.phase = phase;
        }
        self.wake.notify_one();
        self.stopping.notify_waiters();
        while state.under_way > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// The ring's task.
    async fn serve(self: Arc<Self>, kick: Arc<File>, unanswered: Vec<u16>) {
        for head in unanswered {
            match self.claim_again(head) {
                Ok((claim, request, memory)) => self.launch(claim, request, memory),
                Err(error) => return self.broken(error),
            }
        }
        if let Err(error) = self.take_all(&kick).await {
            self.broken(error);
        }
    }

    async fn take_all(self: &Arc<Self>, kick: &Arc<File>) -> Result<(), VhostError> {
        let mut looks_in_vain = 0;
        let mut right = Right::Common;
        loop {
            let turn = self.take_turn(right);
            if std::mem::replace(&mut right, Right::Common) == Right::Turn {
                self.buffers.pass_on();
            }
            let turn = turn?;
            if matches!(turn, Turn::More | Turn::Taken) {
                looks_in_vain = 0;
            }
            match turn {
                Turn::More => reactor::yield_now().await,
                // While the reactor is awake, looking is cheaper than being kicked; what was taken
                // comes first.
                Turn::Taken | Turn::Idle
                    if looks_in_vain < MAX_LOOKS && lull().await == Lull::Awake =>
                {
                    looks_in_vain += 1;
                }
                Turn::Taken | Turn::Idle => {
                    looks_in_vain = 0;
                    if !self.lock().ask_for_kick().map_err(|error| self.ring_error(error))? {
                        self.wait_for_work(kick).await?;
                    }
                }
                Turn::Wait => self.wait_for_work(kick).await?,
                Turn::WaitForRoom => {
                    reactor::either(self.buffers.turn(), self.wake.notified()).await;
                    right = Right::Turn;
                }
                Turn::WaitUntil(until) => {
                    let due = UringRuntime.sleep(until.saturating_sub(UringRuntime.now()));
                    let woken = reactor::either(self.throttle.changed(), self.wake.notified());
                    reactor::either(due, woken).await;
                }
                Turn::Stop => return Ok(()),
            }
        }
    }

    /// Takes what is there, up to a fair share; `right` is good for one request.
    fn take_turn(self: &Arc<Self>, right: Right) -> Result<Turn, VhostError> {
        for count in 0..MAX_TAKEN_PER_TURN {
            match self.take(if count == 0 { right } else { Right::Common })? {
                Taken::Request(claim, request, memory) => self.launch(claim, request, memory),
                Taken::Nothing if count == 0 => return Ok(Turn::Idle),
                Taken::Nothing => return Ok(Turn::Taken),
                Taken::Later => return Ok(Turn::Wait),
                Taken::NoRoom => return Ok(Turn::WaitForRoom),
                Taken::Throttled(until) => return Ok(Turn::WaitUntil(until)),
                Taken::Stopped => return Ok(Turn::Stop),
            }
        }
        Ok(Turn::More)
    }

    async fn wait_for_work(&self, kick: &Arc<File>) -> Result<(), VhostError> {
        let woken = async {
            self.wake.notified().await;
            Ok(())
        };
        reactor::either(reactor::kicked(kick), woken)
            .await
            .map_err(|source| VhostError::Kick { queue: self.index, source: Arc::new(source) })
    }

    fn take(&self, right: Right) -> Result<Taken, VhostError> {
        let mut state = self.lock();
        if state.phase != Phase::Serving {
            return Ok(Taken::Stopped);
        }
        if state.memory_vanished() {
            return Err(VhostError::MemoryVanished);
        }
        if state.bytes_under_way >= self.budget_bytes {
            return Ok(Taken::Later); // a completion wakes us
        }
        let has_room = match right {
            Right::Common => self.buffers.has_room(),
            Right::Turn => self.buffers.is_free(),
        };
        if !has_room {
            return Ok(Taken::NoRoom);
        }
        // What has to wait stays in the ring, and holds nothing that others need.
        if let Some(until) = self.throttle.wait_until(|| UringRuntime.now()) {
            return Ok(Taken::Throttled(until));
        }
        let Some(head) = state.next_head().map_err(|error| self.ring_error(error))? else {
            return Ok(Taken::Nothing);
        };
        if head >= self.table.count {
            let source = RequestError::BeyondTable { index: head, count: self.table.count };
            return Err(self.request_error(source));
        }
        if state.taken[usize::from(head)] {
            return Err(VhostError::TakenTwice { queue: self.index, head });
        }
        state.log.taken(head);
        self.claim(&mut state, head)
            .map(|(claim, request, memory)| Taken::Request(claim, request, memory))
    }

    fn claim_again(&self, head: u16) -> Result<(Claim, Request, Arc<Memory>), VhostError> {
        self.claim(&mut self.lock(), head)
    }

    /// Parses a chain and counts it among those under way.
    fn claim(
        &self,
        state: &mut State,
        head: u16,
    ) -> Result<(Claim, Request, Arc<Memory>), VhostError> {
        let memory = Arc::clone(&state.memory);
        let request = request::parse(&memory, self.table, head)
            .map_err(|source| self.request_error(source))?;
        let own_bytes = REQUEST_BYTES + RUN_BYTES * to_u64(request.data.run_count());
        let bytes = request.data.bytes().min(crate::execute::CHUNK_BYTES) + own_bytes;
        if let Some(bytes) = request.charged_bytes() {
            self.throttle.charge(bytes, || UringRuntime.now());
        }
        state.taken[usize::from(head)] = true;
        state.under_way += 1;
        state.bytes_under_way += bytes;
        self.buffers.take(bytes);
        let claim = Claim { head, bytes, own_bytes };
        Ok((claim, request, memory))
    }

    /// So much memory less is needed: the ring may go on.
    fn ease(&self, state: &mut State, bytes: u64) {
        let was_full = state.bytes_under_way >= self.budget_bytes;
        state.bytes_under_way -= bytes;
        if was_full {
            self.wake.notify_one();
        }
    }

    /// Carries a request out beside the others.
    fn launch(self: &Arc<Self>, claim: Claim, request: Request, memory: Arc<Memory>) {
        let under_way = UnderWay { ring: Arc::clone(self), claim, answered: false };
        let begun = UringRuntime.now();
        reactor::spawn(Box::pin(async move {
            let outcome = under_way.carry_out(&memory, &request).await;
            let took = UringRuntime.now().saturating_sub(begun);
            under_way.ring.meter.count(&request, outcome, took);
            under_way.answer(request.status, outcome);
        }));
    }

    /// Publishes an answer, unless nobody is there to read it.
    fn answer(self: &Arc<Self>, finished: &Finished) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase == Phase::Abandoned {
            return;
        }
        if state.memory_vanished() {
            drop(guard);
            return self.broken(VhostError::MemoryVanished);
        }
        let published = complete::publish(&state.memory, &mut state.queue, &state.log, finished);
        if let Err(error) = published {
            drop(guard);
            return self.broken(self.ring_error(error));
        }
        if state.under_way == 1 {
            // There is none to wait for.
            drop(guard);
            return self.tell_driver();
        }
        if !state.signal_due {
            // At the end of the turn, so that a burst of completions makes one interrupt.
            state.signal_due = true;
            let ring = Arc::clone(self);
            reactor::defer(move || ring.tell_driver());
        }
    }

    /// A request has ended, answered or not.
    fn release(&self, claim: &Claim) {
        let mut state = self.lock();
        self.ease(&mut state, claim.bytes);
        self.buffers.give_back(claim.bytes);
        state.taken[usize::from(claim.head)] = false;
        state.under_way -= 1;
        // Nobody waits while we serve, and telling nobody is a system call, too.
        if state.under_way == 0 && state.phase != Phase::Serving {
            self.idle.notify_all();
        }
    }

    /// Interrupts the driver if it wants to hear of what was published.
    fn tell_driver(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.signal_due = false;
        if state.phase == Phase::Abandoned {
            return;
        }
        match complete::wants_interrupt(&state.memory, &mut state.queue) {
            Ok(false) => {}
            Ok(true) => {
                let signalled = state.call.as_ref().map_or(Ok(()), eventfd::signal);
                if let Err(eventfd::Stuck) = signalled {
                    drop(guard);
                    self.broken(VhostError::CallFull { queue: self.index });
                }
            }
            Err(error) => {
                drop(guard);
                self.broken(self.ring_error(error));
            }
        }
    }

    /// Ends the connection: what the driver or the front end put into shared memory cannot
    /// be made sense of.
    fn broken(&self, error: VhostError) {
        let mut state = self.lock();
        state.phase = Phase::Abandoned;
        if let Some(file) = &state.error {
            // It is cut off anyway.
            let _ = eventfd::signal(file);
        }
        // Where memory was cut short we read zeros, which make no sense: that is the cause then.
        let vanished = state.memory_vanished();
        drop(state);
        self.stopping.notify_waiters();
        self.fault.report(if vanished { VhostError::MemoryVanished } else { error });
    }

    fn ring_error(&self, error: virtio_queue::Error) -> VhostError {
        VhostError::Ring { queue: self.index, source: Arc::new(error) }
    }

    fn request_error(&self, source: RequestError) -> VhostError {
        VhostError::Request { queue: self.index, source }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the front end cut its memory short: what we read there now is not its.
    fn memory_vanished(&self) -> bool {
        memory::vanished(&self.memory) || self.log.vanished()
    }

    /// The next chain's first descriptor. Where there is one, kicks tell us nothing for now.
    fn next_head(&mut self) -> Result<Option<u16>, virtio_queue::Error> {
        let Some(chain) = self.queue.iter(&*self.memory)?.next() else { return Ok(None) };
        let head = chain.head_index();
        if std::mem::take(&mut self.kick_wanted) {
            complete::decline_kicks(&self.memory, &mut self.queue)?;
        }
        Ok(Some(head))
    }

    /// Asks the driver for a kick. `true`: something came in between, look again.
    fn ask_for_kick(&mut self) -> Result<bool, virtio_queue::Error> {
        if self.phase != Phase::Serving || self.memory_vanished() {
            return Ok(true);
        }
        self.kick_wanted = true;
        complete::ask_for_kick(&self.memory, &mut self.queue)
    }
}

/// A request under way. However it ends, it is counted off.
struct UnderWay<D: BlockDisk> {
    ring: Arc<Ring<D>>,
    claim: Claim,
    answered: bool,
}

impl<D: BlockDisk> UnderWay<D> {
    fn answer(mut self, status_at: GuestAddress, outcome: Outcome) {
        self.answered = true;
        let Outcome { status, data_bytes } = outcome;
        self.ring.answer(&Finished { head: self.claim.head, status_at, status, data_bytes });
    }
}

impl<D: BlockDisk> Drop for UnderWay<D> {
    fn drop(&mut self) {
        self.ring.release(&self.claim);
        if !self.answered {
            // Its reactor stopped or its task panicked: silence would hang the guest.
            self.ring.broken(VhostError::Dropped { queue: self.ring.index });
        }
    }
}
