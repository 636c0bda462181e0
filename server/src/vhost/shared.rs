//! Memory that a front end shares with us, mapped and guarded.

use std::fs::File;
use std::sync::Arc;

use vm_memory::bitmap::BS;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestMemoryResult,
    GuestRegionMmap, GuestUsize, MemoryRegionAddress, MmapRegion, VolatileSlice,
};

use bough_blockstore::to_u64;

use crate::vhost::VhostError;
use crate::vhost::sigbus::Guarded;

/// A file of a front end's, mapped. Whatever happens to the file, touching the mapping is safe.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    // Dropped in this order: a guard may not outlive what it guards.
    guarded: Guarded,
    mapping: Arc<MmapRegion>,
}

impl SharedMapping {
    /// Maps `bytes` of `file` from `offset` on.
    pub(crate) fn new(file: Arc<File>, offset: u64, bytes: usize) -> Result<Self, VhostError> {
        check_length(&file, offset, bytes)?;
        let page_bytes = page_bytes(&file);
        let mapping = MmapRegion::from_file(FileOffset::from_arc(file, offset), bytes)
            .map_err(|source| VhostError::Map { source: Arc::new(source) })?;
        let guarded = Guarded::new(mapping.as_ptr(), bytes, page_bytes);
        Ok(Self { guarded, mapping: Arc::new(mapping) })
    }

    /// The mapping.
    pub(crate) fn region(&self) -> &MmapRegion {
        &self.mapping
    }

    /// Whether the front end cut the file short, so that we see zeros now.
    pub(crate) fn vanished(&self) -> bool {
        self.guarded.vanished()
    }
}

/// Refuses a file that does not reach as far as it is to be mapped.
fn check_length(file: &File, offset: u64, bytes: usize) -> Result<(), VhostError> {
    let needed = offset.saturating_add(to_u64(bytes));
    match file.metadata() {
        Ok(data) if data.is_file() && data.len() < needed => {
            Err(VhostError::ShortFile { bytes: data.len(), needed })
        }
        _ => Ok(()), // a device has no length; mapping it shows whether it can be mapped
    }
}

/// The unit in which a file's mapping can be replaced: the host's page, or a huge one.
fn page_bytes(file: &File) -> usize {
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    match rustix::fs::fstatfs(file) {
        Ok(stat) if u64::try_from(stat.f_type).is_ok_and(|kind| kind == HUGETLBFS_MAGIC) => {
            usize::try_from(stat.f_bsize).unwrap_or(rustix::param::page_size())
        }
        _ => rustix::param::page_size(),
    }
}

/// A region of guest memory.
#[derive(Debug)]
pub(crate) struct SharedRegion {
    shared: SharedMapping,
    region: GuestRegionMmap,
}

impl SharedRegion {
    /// `None` where the region would wrap around.
    pub(crate) fn new(shared: SharedMapping, guest: GuestAddress) -> Option<Self> {
        let region = GuestRegionMmap::with_arc(Arc::clone(&shared.mapping), guest)?;
        Some(Self { shared, region })
    }

    /// Whether the front end took it away.
    pub(crate) fn vanished(&self) -> bool {
        self.shared.vanished()
    }
}

impl GuestMemoryRegion for SharedRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.region.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        self.region.bitmap()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, Self::B>>> {
        self.region.get_slice(offset, count)
    }
}

impl GuestMemoryRegionBytes for SharedRegion {}
