//! The memory map of one front end: its regions, and where its own addresses lie in them.
//!
//! The map that requests use is frozen; every change makes a new one. A region leaves our
//! address space when the last request that was parsed against it has ended.

use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use bough_blockstore::to_usize;

use crate::guest::Memory;
use crate::keep::Kept;
use crate::vhost::record::{RegionRecord, Snapshot};
use crate::vhost::{SharedMapping, SharedRegion, VhostError};

/// Regions accepted at most; what libvhost-user offers.
pub(crate) const MAX_REGIONS: usize = 509;

/// Where a region lies in the guest's and in the front end's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    guest: u64,
    user: u64,
    bytes: u64,
}

impl Place {
    fn of(region: &VhostUserMemoryRegion) -> Self {
        Self { guest: region.guest_phys_addr, user: region.user_addr, bytes: region.memory_size }
    }
}

/// The regions that a front end shares now.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryMap {
    memory: Arc<Memory>,
    places: Vec<(Place, Origin)>,
}

/// What a region is a mapping of.
#[derive(Clone, Debug)]
struct Origin {
    file: Kept,
    offset: u64,
}

impl MemoryMap {
    /// The map as requests use it.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// Adds a region.
    pub(crate) fn add(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: Kept,
    ) -> Result<(), VhostError> {
        if self.places.len() >= MAX_REGIONS {
            return Err(VhostError::TooManyRegions);
        }
        let place = Place::of(region);
        let bad = VhostError::BadRegion { guest: place.guest, bytes: place.bytes };
        let end = place.guest.checked_add(place.bytes);
        if place.bytes == 0 || end.is_none() || place.user.checked_add(place.bytes).is_none() {
            return Err(bad);
        }
        let offset = region.mmap_offset;
        let mapping = SharedMapping::new(Arc::clone(file.file()), offset, to_usize(place.bytes))?;
        let region = SharedRegion::new(mapping, GuestAddress(place.guest)).ok_or(bad)?;
        let memory = self.memory.insert_region(Arc::new(region)).map_err(|_| {
            VhostError::OverlappingRegion { guest: place.guest, bytes: place.bytes }
        })?;
        self.memory = Arc::new(memory);
        self.places.push((place, Origin { file, offset }));
        Ok(())
    }

    /// Removes a region, named by guest address, user address and size.
    pub(crate) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), VhostError> {
        let place = Place::of(region);
        let unknown = VhostError::UnknownRegion { guest: place.guest, bytes: place.bytes };
        let Some(index) = self.places.iter().position(|(known, _)| *known == place) else {
            return Err(unknown);
        };
        let (memory, _) = self
            .memory
            .remove_region(GuestAddress(place.guest), place.bytes)
            .map_err(|_| unknown)?;
        self.memory = Arc::new(memory);
        self.places.swap_remove(index);
        Ok(())
    }

    /// What a successor has to map.
    pub(crate) fn describe(&self, all: &mut Snapshot) -> Vec<RegionRecord> {
        let describe = |(place, origin): &(Place, Origin)| {
            let Place { guest, user, bytes } = *place;
            RegionRecord { guest, user, bytes, offset: origin.offset, file: all.name(&origin.file) }
        };
        self.places.iter().map(describe).collect()
    }

    /// The guest address of one of the front end's own addresses.
    pub(crate) fn guest_address(&self, user: u64) -> Result<GuestAddress, VhostError> {
        self.places
            .iter()
            .map(|(place, _)| place)
            .find(|place| (place.user..place.user + place.bytes).contains(&user))
            .map(|place| GuestAddress(user - place.user + place.guest))
            .ok_or(VhostError::UnknownAddress { user })
    }
}

/// Whether the front end took a region of this map away.
pub(crate) fn vanished(memory: &Memory) -> bool {
    memory.iter().any(SharedRegion::vanished)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::keep::{Role, Vault};

    const FILE_BYTES: u64 = 0x4000;

    fn file() -> Kept {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("guest", flags).unwrap();
        rustix::fs::ftruncate(&file, FILE_BYTES).unwrap();
        Arc::new(Vault::default()).keep(file, Role::FrontEnds).unwrap()
    }

    fn region(guest: u64, bytes: u64, user: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, bytes, user, offset)
    }

    #[test]
    fn a_region_of_any_length_is_mapped_and_found_by_both_addresses() {
        let mut map = MemoryMap::default();
        map.add(&region(0x10_0000, 0x1234, 0x7f00_0000_0000, 0x1000), file()).unwrap();
        assert_eq!(map.guest_address(0x7f00_0000_0010).unwrap(), GuestAddress(0x10_0010));
        assert!(map.guest_address(0x7f00_0000_1234).is_err());
        assert!(map.memory().check_range(GuestAddress(0x10_0000), 0x1234));
        assert!(!map.memory().check_range(GuestAddress(0x10_0000), 0x1235));
    }

    #[test]
    fn a_request_under_way_keeps_the_region_it_was_parsed_against() {
        let mut map = MemoryMap::default();
        let shared = file();
        let first = region(0, 0x1000, 0x1000, 0);
        map.add(&first, shared.clone()).unwrap();
        let kept = map.memory();
        map.remove(&first).unwrap();
        assert!(!map.memory().check_range(GuestAddress(0), 1));
        kept.write_slice(b"late", GuestAddress(0)).unwrap();
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&**shared.file(), &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"late");
    }

    #[test]
    fn impossible_regions_are_refused() {
        let mut map = MemoryMap::default();
        map.add(&region(0x1000, 0x2000, 0x1000, 0), file()).unwrap();
        for (what, bad) in [
            ("overlapping", region(0x2000, 0x1000, 0x9000, 0)),
            ("empty", region(0x8000, 0, 0x9000, 0)),
            ("wrapping", region(u64::MAX - 5, 0x1000, 0x9000, 0)),
            ("wrapping in the front end", region(0x8000, 0x1000, u64::MAX - 5, 0)),
            ("past the file's end", region(0x8000, FILE_BYTES, 0x9000, 0x1000)),
            ("at a ragged offset", region(0x8000, 0x1000, 0x9000, 5)),
            ("larger than any memory", region(0x8000, 1 << 60, 0x9000, 0)),
        ] {
            assert!(map.add(&bad, file()).is_err(), "{what} region was accepted");
        }
        assert!(map.remove(&region(0x1000, 0x1000, 0x1000, 0)).is_err());
        assert!(map.remove(&region(0x1000, 0x2000, 0x9000, 0)).is_err());
        map.remove(&region(0x1000, 0x2000, 0x1000, 0)).unwrap();
        map.add(&region(0x2000, 0x1000, 0x9000, 0), file()).unwrap();
    }
}
