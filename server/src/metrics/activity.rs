//! What has happened so far, as it travels.

use serde::{Deserialize, Serialize};

/// `GET /v1/activity`: what guests asked for since their disks were attached or the server started.
/// All numbers only grow; what happens in a second is the difference of two answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// When this was so: nanoseconds on a clock that nobody sets.
    pub at_ns: u64,
    /// The nodes of trees that are held in memory.
    pub cache: CacheActivity,
    /// The disks that are attached, by name.
    pub disks: Vec<DiskActivity>,
}

/// How often a node of a tree was in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheActivity {
    /// Bytes held now.
    pub held_bytes: u64,
    /// Bytes that it may hold.
    pub budget_bytes: u64,
    /// Times that a node was there.
    pub hits: u64,
    /// Times that it had to be read.
    pub misses: u64,
}

/// What was asked of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskActivity {
    /// Its name.
    pub name: String,
    /// Requests that wait for room in a full store, now.
    pub waiting: u64,
    /// Reads.
    pub read: OperationActivity,
    /// Writes.
    pub write: OperationActivity,
    /// Flushes.
    pub flush: OperationActivity,
    /// Discards.
    pub discard: OperationActivity,
    /// Zeroings.
    pub write_zeroes: OperationActivity,
    /// Requests for the disk's name, and what no disk does.
    pub other: OperationActivity,
}

impl DiskActivity {
    /// All sorts of requests, each with its name.
    pub fn operations(&self) -> [(&'static str, &OperationActivity); 6] {
        [
            ("read", &self.read),
            ("write", &self.write),
            ("flush", &self.flush),
            ("discard", &self.discard),
            ("write_zeroes", &self.write_zeroes),
            ("other", &self.other),
        ]
    }
}

/// What was asked in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationActivity {
    /// Requests answered.
    pub requests: u64,
    /// Of these, with an error.
    pub failed: u64,
    /// Bytes read, written, discarded or zeroed by the others.
    pub bytes: u64,
    /// What all requests took together, from taking to answering.
    pub total_ns: u64,
    /// How long how many took; ascending, without empty ones.
    pub latency: Vec<LatencyBucket>,
}

/// Some requests that took about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyBucket {
    /// They took less than this; and at least four fifths of it, the shortest excepted.
    pub upto_ns: u64,
    /// How many.
    pub requests: u64,
}
