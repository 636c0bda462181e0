//! Requests that wait for room in a full store, a line for each disk.
//!
//! Whoever is first in a line tries again whenever room may have come; the others come after it. I
//! own who waits, and since when, and tell people: the log, and `status`. I never touch a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::disk::BlockDisk;

/// One disk's line, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// How many of its requests wait.
    pub requests: u64,
    /// Since when some have, without a break.
    pub since_unix: u64,
}

/// The lines of all disks.
#[derive(Debug, Default)]
pub struct WaitingLines {
    lines: Mutex<BTreeMap<String, Line>>,
}

/// A disk's line, there while anybody is in it.
#[derive(Debug)]
struct Line {
    waiting: Waiting,
    /// Held by whoever is first.
    first: Arc<tokio::sync::Mutex<()>>,
}

/// Where one disk's requests wait.
#[derive(Clone, Debug)]
pub(crate) struct WaitingLine {
    lines: Arc<WaitingLines>,
    disk: String,
}

/// A request's place in a line; dropping it makes way for the next.
pub(crate) struct Place {
    line: WaitingLine,
    first: Arc<tokio::sync::Mutex<()>>,
    is_first: Option<OwnedMutexGuard<()>>,
}

impl WaitingLines {
    /// The line of a disk, by its name for messages.
    pub(crate) fn line(self: &Arc<Self>, disk: &str) -> WaitingLine {
        WaitingLine { lines: Arc::clone(self), disk: disk.to_owned() }
    }

    /// Who waits of a disk's requests, if any do.
    pub fn of(&self, disk: &str) -> Option<Waiting> {
        self.lock().get(disk).map(|line| line.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingLine {
    /// Joins the line, at its end.
    pub(crate) fn join(&self) -> Place {
        let mut lines = self.lines.lock();
        let line = lines.entry(self.disk.clone()).or_insert_with(|| {
            tracing::warn!(
                disk = self.disk,
                "the store, or the file system that it is on, is full: writes wait and go on by \
                 themselves when there is room; delete disks or snapshots, run `bough grow`, or free \
                 space on the host"
            );
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let waiting = Waiting { requests: 0, since_unix: since.as_secs() };
            Line { waiting, first: Arc::default() }
        });
        line.waiting.requests += 1;
        Place { line: self.clone(), first: Arc::clone(&line.first), is_first: None }
    }
}

impl Place {
    /// Returns when it is time to try: at once for who becomes the first, then whenever room may
    /// have come.
    pub(crate) async fn turn<D: BlockDisk>(&mut self, disk: &Arc<D>) {
        match self.is_first {
            Some(_) => disk.room().await,
            None => self.is_first = Some(Arc::clone(&self.first).lock_owned().await),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.line.lines.lock();
        let Some(line) = lines.get_mut(&self.line.disk) else { return };
        line.waiting.requests -= 1;
        if line.waiting.requests == 0 {
            lines.remove(&self.line.disk);
            tracing::info!(disk = self.line.disk, "no write waits for room any more");
        }
    }
}
