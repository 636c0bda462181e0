//! The one state of a simulation: clock, events to come, devices, the trace.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::device::DeviceState;
use super::rng::SimRng;
use crate::device::Operation;

/// When an event is due; the number tells apart those due at once.
pub(super) type EventKey = (Duration, u64);

/// What happens when nobody is ready to run.
pub(super) enum Event {
    /// Somebody's sleep ends.
    Timer(Waker),
    /// An operation of a device completes.
    Io { device: usize, operation: u64 },
}

/// See the module's documentation.
pub(super) struct Core {
    pub(super) now: Duration,
    pub(super) rng: SimRng,
    pub(super) secrets: SimRng,
    /// Which life of the machine this is; handles of earlier ones are dead.
    pub(super) life: u64,
    pub(super) devices: Vec<DeviceState>,
    /// Turns of the executor so far.
    pub(super) turn: u64,
    /// Those who gave way since the last turn began.
    pub(super) yielded: Vec<Waker>,
    /// Operations may still begin or complete this often.
    pub(super) stop_after: Option<u64>,
    pub(super) trace: Trace,
    events: BTreeMap<EventKey, Event>,
    next_event: u64,
}

impl Core {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let secrets = rng.fork();
        Self {
            now: Duration::from_secs(1),
            rng,
            secrets,
            life: 0,
            devices: Vec::new(),
            turn: 0,
            yielded: Vec::new(),
            stop_after: None,
            trace: Trace::default(),
            events: BTreeMap::new(),
            next_event: 0,
        }
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop_after == Some(0)
    }

    pub(super) fn schedule(&mut self, due: Duration, event: Event) -> EventKey {
        let key = (due, self.next_event);
        self.next_event += 1;
        self.events.insert(key, event);
        key
    }

    pub(super) fn cancel(&mut self, key: EventKey) -> Option<Event> {
        self.events.remove(&key)
    }

    /// Replaces the waker of a sleep and returns the old one; `None` where the sleep is over.
    pub(super) fn rewake(&mut self, key: EventKey, waker: &Waker) -> Option<Waker> {
        match self.events.get_mut(&key) {
            Some(Event::Timer(held)) => Some(std::mem::replace(held, waker.clone())),
            _ => None,
        }
    }

    /// How long until the next event.
    pub(super) fn next_in(&self) -> Option<Duration> {
        self.events.first_key_value().map(|((due, _), _)| due.saturating_sub(self.now))
    }

    /// Moves on to the next event; `Err` where there is none.
    pub(super) fn advance(&mut self) -> Result<Option<Waker>, NothingToDo> {
        let ((due, _), event) = self.events.pop_first().ok_or(NothingToDo)?;
        self.now = self.now.max(due);
        Ok(match event {
            Event::Timer(waker) => Some(waker),
            Event::Io { device, operation } => self.complete(device, operation),
        })
    }

    /// An operation begins or completes: counted, and written to the trace.
    pub(super) fn note(&mut self, entry: TraceEntry) {
        self.stop_after = self.stop_after.map(|left| left.saturating_sub(1));
        self.trace.note(self.now, entry);
    }

    /// The end of this life: nothing scheduled happens any more.
    pub(super) fn end_life(&mut self) -> (Vec<DeviceState>, Vec<Waker>) {
        self.life += 1;
        self.stop_after = None;
        let mut wakers = std::mem::take(&mut self.yielded);
        for event in std::mem::take(&mut self.events).into_values() {
            if let Event::Timer(waker) = event {
                wakers.push(waker);
            }
        }
        (std::mem::take(&mut self.devices), wakers)
    }
}

/// Neither a timer nor an operation is under way.
pub(super) struct NothingToDo;

/// A moment in the life of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    Begins,
    Done,
    Failed,
}

/// What an operation does, for people and for comparing two runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct TraceEntry {
    pub(super) moment: Moment,
    pub(super) what: Operation,
    pub(super) device: usize,
    pub(super) operation: u64,
    pub(super) at: u64,
    pub(super) count: u64,
}

/// A digest of everything that happened and the end of it in words.
#[derive(Default)]
pub(super) struct Trace {
    digest: u64,
    events: u64,
    recent: VecDeque<(Duration, TraceEntry)>,
}

const RECENT: usize = 40;

impl Trace {
    fn note(&mut self, now: Duration, entry: TraceEntry) {
        let nanos = u64::from(now.subsec_nanos()) ^ (now.as_secs() << 30);
        let kind = match (entry.what, entry.moment) {
            (what, Moment::Begins) => 10 + kind_number(what),
            (what, Moment::Done) => 20 + kind_number(what),
            (what, Moment::Failed) => 30 + kind_number(what),
        };
        for word in [nanos, kind, entry.operation, entry.at, entry.count] {
            self.mix(word);
        }
        self.events += 1;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((now, entry));
    }

    /// Adds contents to the digest.
    pub(super) fn mix(&mut self, word: u64) {
        self.digest = (self.digest ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) const fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (now, entry) in &self.recent {
            let TraceEntry { moment, what, device, operation, at, count } = entry;
            writeln!(
                f,
                "{now:>14.3?} device {device} #{operation} {what} {at}+{count} {moment:?}"
            )?;
        }
        Ok(())
    }
}

const fn kind_number(operation: Operation) -> u64 {
    match operation {
        Operation::Read => 1,
        Operation::Write => 2,
        Operation::Sync => 3,
        Operation::Discard => 4,
        Operation::Grow => 5,
        Operation::Reserve => 6,
    }
}

/// A test that panics elsewhere while holding the lock has reported itself; a later look at the
/// state (to print the seed) must not hide that behind a second panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
