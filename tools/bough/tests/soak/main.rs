//! Everything at once, on one store: guests that write, snapshots of one disk and of all, clones that
//! are used and thrown away, exports, deletes, rollbacks, checks, and a server that is killed or
//! stopped in the middle and started again.
//!
//! A short form runs with all tests; `cargo xtask soak --minutes N` runs a long one. A run is
//! random: threads race. What it found is made a test of its own elsewhere.

#[path = "../rig/mod.rs"]
mod rig;

mod guest;
mod keeper;
mod visitor;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bough_tests::stamp::Dice;
use guest::Guest;
use keeper::Keeper;
use rig::Rig;
use visitor::Visitor;

const GUESTS: usize = 3;
const USUAL_SECONDS: u64 = 20;
/// One life of the server in so many ends as a service manager has it end.
const STOPS: u64 = 4;

/// How far a server's life has come, for all threads.
#[derive(Default)]
pub struct Life {
    /// How many have found everything as they left it.
    settled: AtomicUsize,
    /// The end is near: failures are excused.
    ending: AtomicBool,
    /// The server is gone.
    over: AtomicBool,
    /// Somebody has found a broken promise.
    failed: AtomicBool,
}

/// Tells everybody when its thread panics.
pub struct Watch<'a>(&'a Life);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

impl Life {
    /// Has everybody told if this thread panics while what it gives is there.
    pub fn watch(&self) -> Watch<'_> {
        Watch(self)
    }

    /// Whoever calls this has looked at what an earlier life left.
    pub fn settle(&self) {
        self.settled.fetch_add(1, Ordering::Release);
    }

    /// Whether a failure may be the server's end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether nothing is answered any more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// What there was, for people.
#[derive(Default)]
struct Tally {
    lives: u64,
    kills: u64,
    writes: u64,
    visits: u64,
}

#[test]
fn everything_at_once_keeps_every_promise() {
    let time = Duration::from_secs(seconds());
    let begun = Instant::now();
    let mut rig = Rig::new();
    let mut guests: Vec<Guest> = (0..GUESTS).map(|index| Guest::new(&rig, index)).collect();
    let (mut keeper, mut visitor) = (Keeper::new(), Visitor::new());
    let (mut dice, mut tally, mut told) = (Dice(7), Tally::default(), 0);
    while tally.lives < 3 || begun.elapsed() < time {
        live(&mut rig, &mut guests, &mut keeper, &mut visitor, &mut dice, &mut tally);
        let checked = rig.bough(&["check"]);
        assert_eq!(checked.code, 0, "life {}: {checked:?}", tally.lives);
        if begun.elapsed().as_secs() / 60 > told {
            told = begun.elapsed().as_secs() / 60;
            println!("{told} min: {}", tell(&tally, &keeper));
        }
    }
    keeper.throw_all_away(&rig);
    assert_eq!(rig.bough(&["check"]).code, 0);
    println!("{} s: {}", begun.elapsed().as_secs(), tell(&tally, &keeper));
}

fn seconds() -> u64 {
    std::env::var("BOUGH_SOAK_SECONDS").map_or(USUAL_SECONDS, |text| text.parse().unwrap())
}

fn tell(tally: &Tally, keeper: &Keeper) -> String {
    let Tally { lives, kills, writes, visits } = tally;
    format!(
        "{lives} lives of the server, {kills} of them killed, {writes} writes acknowledged, {visits} \
         visits to clones, {keeper}"
    )
}

/// A server from its start to its end, and everybody at work on it.
fn live(
    rig: &mut Rig,
    guests: &mut [Guest],
    keeper: &mut Keeper,
    visitor: &mut Visitor,
    dice: &mut Dice,
    tally: &mut Tally,
) {
    rig.serve();
    let (life, server) = (Life::default(), &*rig);
    let is_killed = dice.roll(STOPS) > 0;
    let delay = Duration::from_millis(200 + dice.roll(3000));
    let workers = guests.len() + 2;
    let floors: Vec<_> = guests.iter().map(Guest::floor).collect();
    let connections: Vec<_> = thread::scope(|scope| {
        let life = &life;
        let guests: Vec<_> =
            guests.iter_mut().map(|guest| scope.spawn(move || guest.work(server, life))).collect();
        let others = [
            scope.spawn(|| keeper.work(server, life, &floors)),
            scope.spawn(|| visitor.work(server, life)),
        ];
        while life.settled.load(Ordering::Acquire) < workers && !life.failed.load(Ordering::Acquire)
        {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(delay);
        life.ending.store(true, Ordering::Release);
        server.signal(if is_killed { "-KILL" } else { "-TERM" });
        life.over.store(true, Ordering::Release);
        let connections = guests.into_iter().map(|guest| guest.join().unwrap()).collect();
        others.into_iter().for_each(|other| other.join().unwrap());
        connections
    });
    if is_killed {
        rig.kill();
    } else {
        rig.stop();
    }
    for (guest, connection) in guests.iter_mut().zip(connections) {
        guest.take_what_was_answered(connection);
    }
    tally.lives += 1;
    tally.kills += u64::from(is_killed);
    tally.writes = guests.iter().map(Guest::acknowledged).sum();
    tally.visits = visitor.visits;
}
