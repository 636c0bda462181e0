//! What the chain tells a disk: a record has reached the device, as have all before it.

use std::sync::{Arc, Weak};

use bough_blockstore::{ChainEntry, ChainStart, Publish, PublishedRecord};

use super::{Disk, Slot};
use crate::overlay::Point;
use crate::tails::Tail;

/// The chain's way to its disk. Weak: the disk owns the chain.
pub(super) struct Follower {
    pub disk: Weak<Disk>,
    pub tail: Option<Box<dyn Tail>>,
}

impl Publish for Follower {
    fn publish(&self, record: &PublishedRecord) {
        if let Some(disk) = self.disk.upgrade() {
            disk.apply(record);
        }
    }

    fn published_before(&self, next: &ChainStart) {
        if let Some(tail) = &self.tail {
            tail.set(next);
        }
    }
}

impl Disk {
    fn apply(self: &Arc<Self>, record: &PublishedRecord) {
        let mut replaced = Vec::new();
        let chain = {
            let mut state = self.lock();
            let before = state.active.entry_count();
            for entry in &record.entries {
                match entry {
                    ChainEntry::Data { vba, addr, crc } => {
                        let point = Point { addr: *addr, crc: *crc, epoch: record.epoch };
                        replaced.extend(state.active.put(vba.raw(), point));
                    }
                    ChainEntry::Zero { range } => {
                        replaced.extend(state.active.zero(range.clone(), record.epoch));
                    }
                    ChainEntry::Require { .. } => {}
                }
            }
            self.store.overlays.changed(before, state.active.entry_count());
            match &state.slot {
                Slot::Live(chain) => Some(Arc::clone(chain)),
                _ => None,
            }
        };
        let Some(chain) = chain else { return };
        chain.retire(&replaced, record.sequence);
        if chain.stats().bytes > self.store.config.chain_bytes {
            self.queue_checkpoint();
        }
    }
}
