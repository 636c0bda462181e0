//! How long a guest waits when its server is killed: the longest pause between two answers around each
//! kill, by the way in which the next server comes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bough_tests::manager::Manager;
use serde::Serialize;

use crate::client::{Client, Kind, Length, Order, Workload};
use crate::figures::percentile;
use crate::peers::Store;

const DISK_BYTES: u64 = 1 << 30;
/// How long a server serves before it is killed.
const LIFE: Duration = Duration::from_millis(200);
const LOAD: Workload = Workload {
    kind: Kind::Write,
    order: Order::Random,
    block_bytes: 4096,
    depth: 8,
    flush_every: Some(64),
};

/// How the next server comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It is started; the front end connects again at once.
    Reconnect,
    /// It is started, with the connections that a service manager held.
    DescriptorStore,
    /// It waits already.
    Spare,
}

/// One row.
#[derive(Debug, Serialize)]
pub struct Row {
    pub way: Way,
    pub kills: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Measures every way, each with a store of its own in `folder`.
pub fn measure(binary: &Path, folder: &Path, kills: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for way in [Way::Reconnect, Way::DescriptorStore, Way::Spare] {
        let folder = folder.join(format!("{way:?}"));
        std::fs::create_dir(&folder)?;
        let mut stalls = stalls(way, Store::create(binary, &folder, DISK_BYTES, 4)?, kills)?;
        let [p50_ms, p99_ms, max_ms] = [50, 99, 100].map(|part| percentile(&mut stalls, part));
        let row = Row { way, kills, p50_ms, p99_ms, max_ms };
        eprintln!("{row:?}");
        rows.push(row);
    }
    Ok(rows)
}

fn stalls(way: Way, store: Store, kills: usize) -> Result<Vec<f64>> {
    let mut bed = Servers::start(way, store)?;
    let mut client = Client::connect(&bed.store.socket())?;
    client.fill()?;
    let mut stalls = Vec::new();
    for _ in 0..kills {
        let stall = if way == Way::Reconnect {
            client.run(LOAD, Length::For(LIFE))?;
            let killed = Instant::now();
            bed.kill_and_restart()?;
            client = connect_again(&bed.store)?;
            client.flush()?;
            killed.elapsed()
        } else {
            longest_pause(&mut client, &mut bed)?
        };
        stalls.push(stall.as_secs_f64() * 1e3);
        bed.settle()?;
    }
    Ok(stalls)
}

/// Kills the server while the client is at it. The client is the one with a thread of its own: who
/// starts a server may not end before it, see [`crate::peers`].
fn longest_pause(client: &mut Client, bed: &mut Servers) -> Result<Duration> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let at_it = scope.spawn(|| client.run(LOAD, Length::Until(&over)));
        thread::sleep(LIFE);
        let restarted = bed.kill_and_restart();
        // What is under way now is answered by the next server only.
        over.store(true, Ordering::Relaxed);
        let outcome = at_it.join().ok().context("the client panicked")?;
        restarted?;
        Ok(outcome?.longest_pause)
    })
}

fn connect_again(store: &Store) -> Result<Client> {
    let begun = Instant::now();
    loop {
        match Client::connect(&store.socket()) {
            Ok(client) => return Ok(client),
            Err(error) if begun.elapsed() > Duration::from_secs(20) => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The server, and whoever is ready to bring the next one.
struct Servers {
    way: Way,
    store: Store,
    manager: Option<Manager>,
    server: Option<Child>,
    spare: Option<Child>,
}

impl Servers {
    fn start(way: Way, store: Store) -> Result<Self> {
        let manager = (way == Way::DescriptorStore).then(|| Manager::new(&store.folder()));
        let mut servers = Self { way, store, manager, server: None, spare: None };
        servers.server = Some(servers.serve()?);
        servers.store.await_served()?;
        servers.settle()?;
        Ok(servers)
    }

    fn serve(&self) -> Result<Child> {
        let mut command = self.store.serve();
        if self.way == Way::Spare {
            command.arg("--spare");
        }
        match &self.manager {
            Some(manager) => Ok(manager.start(&command)),
            None => Ok(quiet(&mut command).spawn()?),
        }
    }

    fn kill_and_restart(&mut self) -> Result<()> {
        let mut dead = self.server.take().context("a server runs")?;
        dead.kill()?;
        if self.way == Way::Spare {
            self.server = self.spare.take();
            thread::sleep(Duration::from_millis(5));
        }
        dead.wait()?;
        if self.server.is_none() {
            self.server = Some(self.serve()?);
        }
        Ok(())
    }

    /// Has everything ready for the next kill.
    fn settle(&mut self) -> Result<()> {
        self.store.await_served()?;
        if self.way == Way::Spare && self.spare.is_none() {
            self.spare = Some(self.serve()?);
            thread::sleep(LIFE);
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // The spare first: it would take over.
        for server in [&mut self.spare, &mut self.server].into_iter().flatten() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}
