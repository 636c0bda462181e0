//! The state of one front end's device: features, memory, queues; and what each vhost-user
//! message does to it.
//!
//! Everything here happens on the connection's thread, one message at a time. I never read a
//! ring: a queue that is set up, enabled and kicked becomes a [`Ring`], which does.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error as ProtocolError, GpuBackend, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
};

use bough_blockstore::{ReactorHandle, to_usize};
use serde::{Deserialize, Serialize};

use crate::buffers::Buffers;
use crate::disk::BlockDisk;
use crate::execute::{Policy, SERIAL_BYTES};
use crate::keep::{Identity, Kept, Role, Vault};
use crate::metrics::Meter;
use crate::throttle::Throttle;
use crate::vhost::config::{self, Features};
use crate::vhost::fault::Fault;
use crate::vhost::ledger::Ledger;
use crate::vhost::memory::{MAX_REGIONS, MemoryMap};
use crate::vhost::queue::{Addresses, QueueSetup};
use crate::vhost::record::Snapshot;
use crate::vhost::ring::Surroundings;
use crate::vhost::{InflightRegion, Shape, VhostError, eventfd};
use crate::waiting::WaitingLine;

type Answer<T> = Result<T, ProtocolError>;

/// What a session is about.
pub(crate) struct Subject<D> {
    pub(crate) disk: Arc<D>,
    pub(crate) reactor: ReactorHandle,
    pub(crate) fault: Arc<Fault>,
    pub(crate) queues: u16,
    pub(crate) read_only: bool,
    pub(crate) serial: [u8; SERIAL_BYTES],
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) waiting: Option<WaitingLine>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) vault: Arc<Vault>,
}

/// A front end's in-flight region, for a successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InflightRecord {
    pub(crate) file: Identity,
    offset: u64,
    bytes: u64,
    queues: u16,
    entries: u16,
}

/// One front end's device.
pub(crate) struct Session<D: BlockDisk> {
    subject: Subject<D>,
    pub(super) features: Features,
    pub(super) protocol: VhostUserProtocolFeatures,
    pub(super) map: MemoryMap,
    region: Option<Region>,
    pub(super) queues: Vec<QueueSetup<D>>,
}

/// A front end's in-flight region.
struct Region {
    region: InflightRegion,
    record: InflightRecord,
    file: Kept,
}

impl<D: BlockDisk> Session<D> {
    /// A device that nothing is known of yet.
    pub(crate) fn new(subject: Subject<D>) -> Self {
        let queues = (0..subject.queues).map(QueueSetup::new).collect();
        Self {
            subject,
            features: Features(0),
            protocol: VhostUserProtocolFeatures::empty(),
            map: MemoryMap::default(),
            region: None,
            queues,
        }
    }

    /// What the front end agreed to, beyond virtio's features.
    pub(crate) fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    /// The front end is gone: answers nothing more.
    pub(crate) fn stop_answering(&self) {
        self.queues.iter().for_each(QueueSetup::stop_answering);
    }

    /// As [`Self::stop_answering`]; returns when nothing is under way.
    pub(crate) fn abandon(&mut self) {
        self.stop_answering();
        for queue in &mut self.queues {
            queue.abandon();
        }
    }

    /// Begins to serve the rings that have become ready since the last time.
    pub(crate) fn begin(&mut self) {
        let reactor = &self.subject.reactor;
        self.queues.iter_mut().for_each(|queue| queue.begin(reactor));
    }

    /// Has a descriptor outlive us.
    fn keep(&self, file: File) -> Result<Kept, VhostError> {
        self.subject.vault.keep(OwnedFd::from(file), Role::FrontEnds).map_err(VhostError::keeping)
    }

    /// Maps a front end's in-flight region.
    pub(super) fn adopt_region(
        &mut self,
        record: &InflightRecord,
        file: Kept,
    ) -> Result<(), VhostError> {
        let shape = Shape { queues: record.queues, entries: record.entries };
        let mapped = Arc::clone(file.file());
        let region = InflightRegion::adopt(mapped, record.offset, record.bytes, shape)?;
        self.region = Some(Region { region, record: record.clone(), file });
        Ok(())
    }

    pub(super) fn describe_region(&self, all: &mut Snapshot) -> Option<InflightRecord> {
        let region = self.region.as_ref()?;
        all.name(&region.file);
        Some(region.record.clone())
    }

    fn queue(&mut self, index: usize) -> Result<&mut QueueSetup<D>, VhostError> {
        let queues = self.queues.len();
        self.queues.get_mut(index).ok_or(VhostError::NoSuchQueue { queue: index, queues })
    }

    /// A queue whose ring does not run, for what may only change then.
    fn resting_queue(&mut self, index: u32) -> Result<&mut QueueSetup<D>, VhostError> {
        let index = to_usize(u64::from(index));
        let queue = self.queue(index)?;
        if queue.runs() { Err(VhostError::QueueRuns { queue: index }) } else { Ok(queue) }
    }

    /// Makes a queue ready to begin if all that it needs is there.
    pub(super) fn start_if_ready(&mut self, index: usize) -> Result<(), VhostError> {
        let subject = &self.subject;
        let around = Surroundings {
            disk: Arc::clone(&subject.disk),
            policy: Policy {
                read_only: subject.read_only,
                write_through: !self.features.flush(),
                discard: self.features.discard(),
                write_zeroes: self.features.write_zeroes(),
                serial: subject.serial,
            },
            memory: self.map.memory(),
            fault: Arc::clone(&subject.fault),
            rings: subject.queues,
            buffers: Arc::clone(&subject.buffers),
            waiting: subject.waiting.clone(),
            throttle: Arc::clone(&subject.throttle),
            meter: Arc::clone(&subject.meter),
        };
        let (map, region, features) = (&self.map, self.region.as_ref(), self.features);
        let queues = self.queues.len();
        let queue =
            self.queues.get_mut(index).ok_or(VhostError::NoSuchQueue { queue: index, queues })?;
        let region = region.map(|region| &region.region);
        queue.start_if_ready(map, region, features, around, &subject.ledger)
    }

    /// Puts another memory map under everything.
    fn replace_map(&mut self, map: MemoryMap) -> Result<(), VhostError> {
        self.map = map;
        for index in 0..self.queues.len() {
            if self.queues[index].follow(&self.map)? {
                self.start_if_ready(index)?;
            }
        }
        Ok(())
    }

    fn set_features_checked(&mut self, features: Features) -> Result<(), VhostError> {
        let offered = Features::offered(self.subject.read_only);
        if !offered.include(features) {
            return Err(VhostError::UnknownFeatures { bits: features.0 & !offered.0 });
        }
        if let (Some(queue), true) =
            (self.queues.iter().position(QueueSetup::runs), features != self.features)
        {
            return Err(VhostError::FeaturesWhileRunning { queue });
        }
        self.features = features;
        if !features.protocol_features() {
            // Such a front end has no way to enable them.
            for index in 0..self.queues.len() {
                self.queues[index].set_enabled(true);
                self.start_if_ready(index)?;
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for queue in &mut self.queues {
            queue.reset();
        }
    }
}

/// The file of a message that names a queue, checked to be an eventfd.
fn checked_eventfd(index: u8, file: Option<File>) -> Result<Option<File>, VhostError> {
    match file {
        Some(file) if !eventfd::is_eventfd(&file) => {
            Err(VhostError::NotAnEventfd { queue: usize::from(index) })
        }
        other => Ok(other),
    }
}

impl<D: BlockDisk> VhostUserBackendReqHandlerMut for Session<D> {
    fn set_owner(&mut self) -> Answer<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Answer<()> {
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> Answer<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Answer<u64> {
        Ok(Features::offered(self.subject.read_only).0)
    }

    fn set_features(&mut self, features: u64) -> Answer<()> {
        Ok(self.set_features_checked(Features(features))?)
    }

    fn get_protocol_features(&mut self) -> Answer<VhostUserProtocolFeatures> {
        Ok(config::protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Answer<()> {
        let offered = config::protocol_features();
        self.protocol = VhostUserProtocolFeatures::from_bits(features)
            .filter(|features| offered.contains(*features))
            .ok_or(VhostError::UnknownFeatures { bits: features & !offered.bits() })?;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Answer<u64> {
        Ok(u64::from(self.subject.queues))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Answer<Option<Vec<u64>>> {
        let mut map = MemoryMap::default();
        for (region, file) in regions.iter().zip(files) {
            map.add(region, self.keep(file)?)?;
        }
        self.replace_map(map)?;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Answer<u64> {
        Ok(bough_blockstore::to_u64(MAX_REGIONS))
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Answer<Option<u64>> {
        let mut map = self.map.clone();
        map.add(region, self.keep(file)?)?;
        self.replace_map(map)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Answer<()> {
        let mut map = self.map.clone();
        map.remove(region)?;
        Ok(self.replace_map(map)?)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Answer<()> {
        Ok(self.resting_queue(index)?.set_size(size)?)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Answer<()> {
        let addresses = Addresses { descriptors, available, used };
        let queue = self.queue(to_usize(u64::from(index)))?;
        if queue.addresses() != Some(addresses) {
            // The same addresses again are how logging is switched on a running ring.
            self.resting_queue(index)?.set_addresses(addresses);
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Answer<()> {
        // 16 bits of index; the others are for packed rings, which we do not offer.
        let base = u16::try_from(base & 0xffff).unwrap_or_default();
        self.resting_queue(index)?.set_base(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Answer<VhostUserVringState> {
        let base = self.queue(to_usize(u64::from(index)))?.stop();
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Answer<()> {
        let kick = checked_eventfd(index, file)?;
        let queue = usize::from(index);
        let kick = kick.ok_or(VhostError::NoKick { queue })?;
        let kick = self.keep(kick)?;
        self.queue(queue)?.set_kick(kick);
        Ok(self.start_if_ready(queue)?)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Answer<()> {
        let call = checked_eventfd(index, file)?;
        let call = call.map(|call| self.keep(call)).transpose()?;
        self.queue(usize::from(index))?.set_call(call);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Answer<()> {
        let error = checked_eventfd(index, file)?;
        let error = error.map(|error| self.keep(error)).transpose()?;
        self.queue(usize::from(index))?.set_error(error);
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Answer<()> {
        let index = to_usize(u64::from(index));
        self.queue(index)?.set_enabled(enable);
        Ok(self.start_if_ready(index)?)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Answer<Vec<u8>> {
        let space = config::config_space(self.subject.disk.size_bytes(), self.subject.queues);
        let from = to_usize(u64::from(offset));
        let to = from.saturating_add(to_usize(u64::from(size)));
        space.get(from..to).map(<[u8]>::to_vec).ok_or(ProtocolError::InvalidParam)
    }

    /// The one writable field, `wce`, belongs to a feature that is not offered: a write changes
    /// nothing, as virtio has it for read-only fields.
    fn set_config(
        &mut self,
        _offset: u32,
        _bytes: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Answer<()> {
        Ok(())
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Answer<(VhostUserInflight, File)> {
        let shape = Shape::to_cut(asked, self.subject.queues)?;
        let (file, bytes) = InflightRegion::create(shape)?;
        Ok((VhostUserInflight::new(bytes, 0, asked.num_queues, asked.queue_size), file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Answer<()> {
        if let Some(queue) = self.queues.iter().position(QueueSetup::runs) {
            return Err(VhostError::QueueRuns { queue }.into());
        }
        let shape = Shape::as_cut(given, self.subject.queues)?;
        let (offset, bytes) = (given.mmap_offset, given.mmap_size);
        let file = self.keep(file)?;
        let Shape { queues, entries } = shape;
        let record = InflightRecord { file: file.name().clone(), offset, bytes, queues, entries };
        Ok(self.adopt_region(&record, file)?)
    }

    // What follows is not offered; the crate lets none of it through.

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Answer<()> {
        Err(ProtocolError::InvalidMessage)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Answer<File> {
        Err(ProtocolError::InvalidMessage)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Answer<Option<File>> {
        Err(ProtocolError::InvalidMessage)
    }

    fn check_device_state(&mut self) -> Answer<()> {
        Err(ProtocolError::InvalidMessage)
    }

    fn get_shmem_config(&mut self) -> Answer<VhostUserShMemConfig> {
        Err(ProtocolError::InvalidMessage)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Answer<()> {
        Err(ProtocolError::InvalidMessage)
    }
}
