//! Shell commands inside the guest, over a virtio-serial port.
//!
//! The other end is `image/agent`. Requests carry an id, so that many run at once: one command
//! may load the disk while another looks at it. Owns the socket and its reader thread.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What most commands may take; everything is slow under software emulation.
pub const USUAL: Duration = Duration::from_secs(180);

/// The id under which the guest's agent says that it has started.
const HELLO: u64 = 0;

type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Answer>>>>;

/// What a command in the guest ended with.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As a shell gives it: 128 + N for signal N.
    pub status: u32,
    /// stdout and stderr, in order.
    pub output: String,
}

/// The connection to one guest's agent.
pub struct Agent {
    socket: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU64,
    hello: Mutex<Receiver<Answer>>,
}

/// A command that runs in the guest.
pub struct Job {
    command: String,
    answer: Receiver<Answer>,
}

impl Agent {
    /// Connects to QEMU's end of the port; the guest need not have started.
    pub fn connect(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path)?;
        let waiting = Waiting::default();
        let (send, hello) = channel();
        lock(&waiting).insert(HELLO, send);
        let (reader, shared) = (BufReader::new(socket.try_clone()?), waiting.clone());
        std::thread::Builder::new().name("agent".into()).spawn(move || listen(reader, &shared))?;
        Ok(Self {
            socket: Mutex::new(socket),
            waiting,
            next: AtomicU64::new(HELLO + 1),
            hello: Mutex::new(hello),
        })
    }

    /// Whether the guest has come up far enough to run commands.
    pub fn is_up(&self) -> bool {
        lock(&self.hello).try_recv().is_ok()
    }

    /// Starts a command and does not wait for it.
    pub fn start(&self, command: &str) -> Result<Job> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = channel();
        lock(&self.waiting).insert(id, send);
        let line = format!("{id} {}\n", to_hex(command.as_bytes()));
        lock(&self.socket).write_all(line.as_bytes())?;
        Ok(Job { command: command.to_owned(), answer })
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn run(&self, command: &str) -> Result<String> {
        self.start(command)?.succeed(USUAL)
    }
}

impl Job {
    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> Result<Answer> {
        self.answer.recv_timeout(limit).with_context(|| {
            format!("no answer from the guest within {} s: {}", limit.as_secs(), self.command)
        })
    }

    /// Waits for its end, which must be a good one.
    pub fn succeed(&self, limit: Duration) -> Result<String> {
        let answer = self.wait(limit)?;
        if answer.status != 0 {
            bail!("in the guest: {} ({}):\n{}", self.command, answer.status, answer.output);
        }
        Ok(answer.output)
    }

    /// Whether it has not ended yet. An answer seen here is lost: ask only to fail.
    pub fn check_running(&self) -> Result<()> {
        match self.answer.try_recv() {
            Ok(a) => bail!("ended early: {} ({}):\n{}", self.command, a.status, a.output),
            Err(_) => Ok(()),
        }
    }
}

fn listen(reader: BufReader<UnixStream>, waiting: &Waiting) {
    for line in reader.lines() {
        let Ok(line) = line else { return };
        if let Some((id, answer)) = parse(&line)
            && let Some(sender) = lock(waiting).remove(&id)
        {
            // Nobody waits any more: then nobody minds.
            let _ = sender.send(answer);
        }
    }
}

fn parse(line: &str) -> Option<(u64, Answer)> {
    let mut words = line.split(' ');
    let id = words.next()?.parse().ok()?;
    let status = words.next()?.parse().ok()?;
    let output = from_hex(words.next().unwrap_or(""))?;
    Some((id, Answer { status, output: String::from_utf8_lossy(&output).into_owned() }))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    Some(
        digits?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect(),
    )
}

/// A thread that panicked while it held one of these has broken nothing in it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_parsed_and_nonsense_is_not() {
        let (id, answer) = parse("7 1 6f6b0a").unwrap();
        assert_eq!((id, answer.status, answer.output.as_str()), (7, 1, "ok\n"));
        assert_eq!(parse("8 0 ").unwrap().1.output, "");
        assert!(parse("x 0 00").is_none());
        assert!(parse("7 0 zz").is_none());
    }
}
