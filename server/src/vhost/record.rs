//! A session in words: all that its messages have brought about, for a successor to go on with.
//!
//! Descriptors are named, not contained. What a ring has taken and answered is not in here: the
//! used ring and the in-flight region say that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vhost::vhost_user::message::VhostUserMemoryRegion;

use crate::disk::BlockDisk;
use crate::keep::{Identity, Kept};
use crate::vhost::VhostError;
use crate::vhost::memory::MemoryMap;
use crate::vhost::queue::QueueRecord;
use crate::vhost::session::{InflightRecord, Session};

/// Grows when a successor of the version before could misunderstand.
const VERSION: u32 = 1;

/// Descriptors by the names that a record has for them.
pub(crate) type Files = BTreeMap<Identity, Kept>;

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// The disk's serial number, which no rename changes.
    pub(crate) disk: String,
    pub(crate) socket: Option<Identity>,
    pub(crate) features: u64,
    pub(crate) protocol: u64,
    pub(crate) back_channel: Option<Identity>,
    pub(crate) memory: Vec<RegionRecord>,
    pub(crate) inflight: Option<InflightRecord>,
    pub(crate) queues: Vec<QueueRecord>,
    /// The answer to the message that led here, until it was given.
    pub(crate) reply: Vec<u8>,
}

/// A memory region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegionRecord {
    pub(crate) guest: u64,
    pub(crate) user: u64,
    pub(crate) bytes: u64,
    pub(crate) offset: u64,
    pub(crate) file: Identity,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let record = Self { version: VERSION, ..self.clone() };
        serde_json::to_vec(&record).unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }

    /// All descriptors that it names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Identity> {
        let own = self.socket.iter().chain(&self.back_channel);
        own.chain(self.memory.iter().map(|region| &region.file))
            .chain(self.inflight.iter().map(|inflight| &inflight.file))
            .chain(self.queues.iter().flat_map(QueueRecord::bells))
    }

    /// `None` for what another version wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(bytes).ok()?;
        (record.version == VERSION).then_some(Self { version: 0, ..record })
    }
}

/// A session's record, and the descriptors that it names: they stay open for as long as a successor
/// may read of them.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) record: Record,
    pub(crate) kept: Vec<Kept>,
}

impl Snapshot {
    /// Names a descriptor.
    pub(crate) fn name(&mut self, kept: &Kept) -> Identity {
        self.kept.push(kept.clone());
        kept.name().clone()
    }
}

impl<D: BlockDisk> Session<D> {
    /// What there is to know of me.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::default();
        all.record.features = self.features.0;
        all.record.protocol = self.protocol.bits();
        all.record.memory = self.map.describe(&mut all);
        all.record.inflight = self.describe_region(&mut all);
        all.record.queues = self.queues.iter().map(|queue| queue.describe(&mut all)).collect();
        all
    }

    /// Goes on where a dead server's session was, whose features are agreed on already. Rings that
    /// ran are to [begin](Self::begin) again.
    pub(crate) fn take_up(&mut self, record: &Record, files: &Files) -> Result<(), VhostError> {
        let find = |name: &Identity| files.get(name).cloned().ok_or(VhostError::NotInherited);
        let mut map = MemoryMap::default();
        for known in &record.memory {
            let RegionRecord { guest, user, bytes, offset, .. } = *known;
            map.add(&VhostUserMemoryRegion::new(guest, bytes, user, offset), find(&known.file)?)?;
        }
        self.map = map;
        if let Some(inflight) = &record.inflight {
            self.adopt_region(inflight, find(&inflight.file)?)?;
        }
        if record.queues.len() != self.queues.len() {
            return Err(VhostError::NotInherited);
        }
        for (index, known) in record.queues.iter().enumerate() {
            let find = |name: &Option<Identity>| name.as_ref().map(find).transpose();
            let bells = [find(&known.kick)?, find(&known.call)?, find(&known.error)?];
            self.queues[index].take_up(known, bells);
            self.start_if_ready(index)?;
        }
        Ok(())
    }
}
