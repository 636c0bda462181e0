//! One queue of a session: what the front end has said of it, and its ring where it runs.

use std::fs::File;
use std::sync::Arc;

use bough_blockstore::ReactorHandle;
use serde::{Deserialize, Serialize};

use crate::disk::BlockDisk;
use crate::keep::{Identity, Kept};
use crate::vhost::config::Features;
use crate::vhost::ledger::Ledger;
use crate::vhost::memory::MemoryMap;
use crate::vhost::record::Snapshot;
use crate::vhost::ring::{Layout, Past, Prepared, Ring, Surroundings};
use crate::vhost::{InflightRegion, VhostError};

/// Descriptors in a ring at most; virtio's own bound.
const MAX_SIZE: u32 = 32768;

/// Where a ring lies, as the front end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// What a successor has to know of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueueRecord {
    size: u16,
    addresses: Option<Addresses>,
    base: u16,
    enabled: bool,
    /// Of a ring that runs: how far the available ring was ahead, as in [`Past`].
    ahead: Option<u16>,
    pub(crate) kick: Option<Identity>,
    pub(crate) call: Option<Identity>,
    pub(crate) error: Option<Identity>,
}

impl QueueRecord {
    /// The eventfds that it names.
    pub(crate) fn bells(&self) -> impl Iterator<Item = &Identity> {
        [&self.kick, &self.call, &self.error].into_iter().flatten()
    }
}

/// A queue, running or not.
pub(crate) struct QueueSetup<D: BlockDisk> {
    index: u16,
    size: u16,
    addresses: Option<Addresses>,
    /// The next entry of the available ring, while it does not run.
    base: u16,
    enabled: bool,
    /// Given: the ring is started.
    kick: Option<Kept>,
    call: Option<Kept>,
    error: Option<Kept>,
    /// The ring, where it is started and enabled, and its place when it was started.
    running: Option<(Arc<Ring<D>>, Layout)>,
    /// What that ring is to begin with, until it has begun.
    to_begin: Option<Vec<u16>>,
    /// How far its available ring was ahead.
    ahead: Option<u16>,
}

impl<D: BlockDisk> QueueSetup<D> {
    /// A queue of which nothing is known.
    pub(crate) fn new(index: u16) -> Self {
        Self {
            index,
            size: 0,
            addresses: None,
            base: 0,
            enabled: false,
            kick: None,
            call: None,
            error: None,
            running: None,
            to_begin: None,
            ahead: None,
        }
    }

    /// Back to that.
    pub(crate) fn reset(&mut self) {
        self.stop();
        *self = Self::new(self.index);
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn addresses(&self) -> Option<Addresses> {
        self.addresses
    }

    pub(crate) fn set_size(&mut self, size: u32) -> Result<(), VhostError> {
        let bad = VhostError::BadQueueSize { queue: usize::from(self.index), size };
        if size == 0 || size > MAX_SIZE || !size.is_power_of_two() {
            return Err(bad);
        }
        self.size = u16::try_from(size).map_err(|_| bad)?;
        Ok(())
    }

    pub(crate) fn set_addresses(&mut self, addresses: Addresses) {
        self.addresses = Some(addresses);
    }

    pub(crate) fn set_base(&mut self, base: u16) {
        self.base = base;
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        if !enabled {
            self.rest();
        }
    }

    /// Another kick means another start.
    pub(crate) fn set_kick(&mut self, kick: Kept) {
        self.rest();
        self.kick = Some(kick);
    }

    pub(crate) fn set_call(&mut self, call: Option<Kept>) {
        self.call = call;
        if let Some((ring, _)) = &self.running {
            ring.set_call(file(self.call.as_ref()));
        }
    }

    pub(crate) fn set_error(&mut self, error: Option<Kept>) {
        self.error = error;
        if let Some((ring, _)) = &self.running {
            ring.set_error(file(self.error.as_ref()));
        }
    }

    /// Makes the ring ready to [begin](Self::begin) if it is started and enabled and does not run. A
    /// kick that came too early is not missed: a ring begins by looking.
    pub(crate) fn start_if_ready(
        &mut self,
        map: &MemoryMap,
        region: Option<&InflightRegion>,
        features: Features,
        around: Surroundings<D>,
        ledger: &Ledger,
    ) -> Result<(), VhostError> {
        if self.kick.is_none() || !self.enabled || self.runs() {
            return Ok(());
        }
        let layout = self.layout(map, features)?;
        let past = match region {
            Some(region) => Past { region: region.clone(), part: self.index, ahead: Some(0) },
            None => Past {
                region: ledger.region(self.index, self.size)?,
                part: 0,
                ahead: self.ahead.take(),
            },
        };
        let Prepared { ring, unanswered, ahead } = Ring::prepare(&layout, around, &past)?;
        ring.set_error(file(self.error.as_ref()));
        if self.call.is_some() {
            ring.set_call(file(self.call.as_ref()));
        }
        self.running = Some((ring, layout));
        self.to_begin = Some(unanswered);
        self.ahead = Some(ahead);
        Ok(())
    }

    /// Begins to serve a ring that has become ready. What makes it run must be written down by now: a
    /// successor that did not know that it ran would start it once more.
    pub(crate) fn begin(&mut self, reactor: &ReactorHandle) {
        let (Some((ring, _)), Some(kick)) = (&self.running, &self.kick) else { return };
        if let Some(unanswered) = self.to_begin.take() {
            Arc::clone(ring).begin(Arc::clone(kick.file()), unanswered, reactor);
        }
    }

    /// What a successor has to know of me.
    pub(crate) fn describe(&self, all: &mut Snapshot) -> QueueRecord {
        let mut name = |kept: &Option<Kept>| kept.as_ref().map(|kept| all.name(kept));
        QueueRecord {
            size: self.size,
            addresses: self.addresses,
            base: self.base,
            enabled: self.enabled,
            ahead: self.ahead,
            kick: name(&self.kick),
            call: name(&self.call),
            error: name(&self.error),
        }
    }

    /// Becomes a dead server's queue.
    pub(crate) fn take_up(&mut self, known: &QueueRecord, bells: [Option<Kept>; 3]) {
        let [kick, call, error] = bells;
        let QueueRecord { size, addresses, base, enabled, ahead, .. } = *known;
        let fresh = Self::new(self.index);
        *self = Self { size, addresses, base, enabled, ahead, kick, call, error, ..fresh };
    }

    fn layout(&self, map: &MemoryMap, features: Features) -> Result<Layout, VhostError> {
        let incomplete = VhostError::QueueIncomplete { queue: usize::from(self.index) };
        let addresses = self.addresses.filter(|_| self.size > 0).ok_or(incomplete)?;
        Ok(Layout {
            index: self.index,
            size: self.size,
            descriptors: map.guest_address(addresses.descriptors)?,
            available: map.guest_address(addresses.available)?,
            used: map.guest_address(addresses.used)?,
            base: self.base,
            event_index: features.event_index(),
        })
    }

    /// Goes over to another memory map. `true`: the ring lies elsewhere now, was stopped, and has
    /// to be started again.
    pub(crate) fn follow(&mut self, map: &MemoryMap) -> Result<bool, VhostError> {
        let (Some((ring, layout)), Some(addresses)) = (&self.running, self.addresses) else {
            return Ok(false);
        };
        let stays = map.guest_address(addresses.descriptors)? == layout.descriptors
            && map.guest_address(addresses.available)? == layout.available
            && map.guest_address(addresses.used)? == layout.used;
        if stays {
            ring.set_memory(map.memory())?;
        } else {
            self.rest();
        }
        Ok(!stays)
    }

    /// Stops the ring, all answered, ready to go on where it was.
    fn rest(&mut self) {
        if let Some((ring, _)) = self.running.take() {
            self.base = ring.drain();
            (self.to_begin, self.ahead) = (None, None);
        }
    }

    /// Stops the ring for good, all answered. Returns the next entry of the available ring.
    pub(crate) fn stop(&mut self) -> u16 {
        self.rest();
        self.kick = None;
        self.base
    }

    /// Answers nothing more, without waiting.
    pub(crate) fn stop_answering(&self) {
        if let Some((ring, _)) = &self.running {
            ring.stop_answering();
        }
    }

    /// Answers nothing more; returns when nothing is under way.
    pub(crate) fn abandon(&mut self) {
        if let Some((ring, _)) = self.running.take() {
            ring.abandon();
        }
    }
}

fn file(kept: Option<&Kept>) -> Option<Arc<File>> {
    kept.map(|kept| Arc::clone(kept.file()))
}
