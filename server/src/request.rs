//! What a guest asks for: one descriptor chain, read once, checked whole.
//!
//! I own the reading of descriptors and request headers. I never do what they ask for, nor
//! write guest memory. Whatever I return lies inside the memory map and is bounded; bytes are
//! copied out of the guest once, and only the copy decides anything.
//!
//! Two kinds of trouble are told apart. A chain that cannot be answered (it leads outside
//! memory, has no place for a status) breaks the ring: [`RequestError`]. A chain that can be
//! answered, but asks for nonsense, gets its answer: [`Operation::Refused`].

use smallvec::SmallVec;
use virtio_bindings::virtio_blk;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use bough_blockstore::{to_u64, to_usize};

use crate::guest::{Memory, Segments};

/// The longest chain accepted, direct and indirect descriptors together. Our `seg_max`
/// lets a driver make 128.
pub(crate) const MAX_DESCRIPTORS: u16 = 1024;
/// Ranges accepted in one DISCARD or WRITE_ZEROES.
pub(crate) const MAX_RANGES: u32 = 32;
/// Sectors accepted in one range of a DISCARD or WRITE_ZEROES: 2 GiB.
pub(crate) const MAX_RANGE_SECTORS: u32 = 1 << 22;
/// Data in one read or write at most. Far more than any driver asks for; without a bound, one
/// request could name the same memory a thousand times and keep a reactor busy for minutes.
pub(crate) const MAX_DATA_BYTES: u64 = 32 << 20;
/// Bytes in a sector.
pub(crate) const SECTOR_BYTES: u64 = 512;

const DESCRIPTOR_BYTES: u64 = 16;
const HEADER_BYTES: u64 = 16;
const RANGE_BYTES: u64 = 16;
/// The only flag that a range may carry, and only in WRITE_ZEROES.
const RANGE_MAY_UNMAP: u32 = 1;

/// 512 bytes of a disk, virtio's unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Sector(pub(crate) u64);

impl Sector {
    /// Where it begins, in bytes; `None` where no disk reaches.
    pub(crate) fn offset_bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES)
    }
}

/// The answer to a request: the status byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// Done.
    Ok,
    /// Not done, or not wholly.
    IoError,
    /// Not something that we do.
    Unsupported,
}

impl Status {
    /// As virtio writes it.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

/// A run of sectors, of DISCARD or WRITE_ZEROES.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SectorRange {
    pub(crate) first: Sector,
    pub(crate) count: u32,
}

/// The ranges of one request; nearly always one.
pub(crate) type SectorRanges = SmallVec<[SectorRange; 1]>;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// Fill the buffer from the disk.
    Read(Sector),
    /// Write the buffer to the disk.
    Write(Sector),
    /// Make what was answered survive a power cut.
    Flush,
    /// Fill the buffer with the disk's name.
    GetId,
    /// Forget these ranges; they read as zeros afterwards.
    Discard(SectorRanges),
    /// Make these ranges zeros.
    WriteZeroes(SectorRanges),
    /// Nothing, but say so.
    Refused(Status),
}

/// One request of a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// The buffer to read from, or to write to.
    pub(crate) data: Segments,
    /// Where the status byte goes.
    pub(crate) status: GuestAddress,
}

impl Request {
    /// What it counts for where a disk is limited; none for what is free.
    pub(crate) fn charged_bytes(&self) -> Option<u64> {
        match &self.operation {
            Operation::Read(_) | Operation::Write(_) => Some(self.data.bytes()),
            Operation::Discard(_) | Operation::WriteZeroes(_) => Some(0),
            Operation::Flush | Operation::GetId | Operation::Refused(_) => None,
        }
    }
}

/// A descriptor table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) address: GuestAddress,
    pub(crate) count: u16,
}

/// Why a chain cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// An index leads out of the table.
    #[error("descriptor {index} is beyond its table of {count}")]
    BeyondTable {
        /// The index.
        index: u16,
        /// The table's size.
        count: u16,
    },
    /// Longer than its table, so it comes back to itself, or longer than any driver makes.
    #[error("a descriptor chain does not end within {limit} descriptors")]
    Endless {
        /// How far it was followed.
        limit: u16,
    },
    /// An address that the front end has not shared.
    #[error("{bytes} bytes at guest address {address:#x} are outside the guest's memory")]
    OutsideMemory {
        /// Where.
        address: u64,
        /// How many.
        bytes: u64,
    },
    /// A table inside an indirect table.
    #[error("an indirect descriptor table names another one")]
    NestedIndirect,
    /// A table that is empty, ragged, or too long.
    #[error("an indirect descriptor table has {bytes} bytes")]
    BadIndirectTable {
        /// Its length.
        bytes: u32,
    },
    /// Device-readable after device-writable: then nobody knows where the data begin.
    #[error("a readable descriptor follows a writable one")]
    OutOfOrder,
    /// Too short to hold a request header.
    #[error("a request has a header of {bytes} bytes where 16 are needed")]
    NoHeader {
        /// Readable bytes in all.
        bytes: u64,
    },
    /// Nothing writable: nowhere to put the answer.
    #[error("a request has no status byte")]
    NoStatus,
}

/// A chain's two halves, each a buffer.
#[derive(Default)]
struct Chain {
    readable: Segments,
    writable: Segments,
}

/// Reads the chain that begins at `head`.
pub(crate) fn parse(memory: &Memory, table: Table, head: u16) -> Result<Request, RequestError> {
    let Chain { mut readable, mut writable } = walk(memory, table, head)?;
    let mut header = [0; to_usize(HEADER_BYTES)];
    copy_out(memory, &readable, 0, &mut header)?;
    if !readable.drop_front(HEADER_BYTES) {
        return Err(RequestError::NoHeader { bytes: readable.bytes() });
    }
    let status = writable.pop_last_byte().ok_or(RequestError::NoStatus)?;
    let (operation, data) = interpret(memory, &header, readable, writable)?;
    Ok(Request { operation, data, status })
}

/// Follows a chain to its end.
fn walk(memory: &Memory, mut table: Table, head: u16) -> Result<Chain, RequestError> {
    let mut chain = Chain::default();
    let mut index = head;
    let mut indirect = false;
    let mut left = table.count.min(MAX_DESCRIPTORS);
    loop {
        let limit = table.count.min(MAX_DESCRIPTORS);
        left = left.checked_sub(1).ok_or(RequestError::Endless { limit })?;
        let descriptor = read_descriptor(memory, table, index)?;
        if descriptor.refers_to_indirect_table() {
            if indirect {
                return Err(RequestError::NestedIndirect);
            }
            indirect = true;
            table = indirect_table(&descriptor)?;
            left = table.count;
            index = 0;
            continue;
        }
        add(memory, &mut chain, &descriptor)?;
        if !descriptor.has_next() {
            return Ok(chain);
        }
        index = descriptor.next();
    }
}

fn read_descriptor(memory: &Memory, table: Table, index: u16) -> Result<Descriptor, RequestError> {
    if index >= table.count {
        return Err(RequestError::BeyondTable { index, count: table.count });
    }
    let at = table.address.0.saturating_add(u64::from(index) * DESCRIPTOR_BYTES);
    memory
        .read_obj(GuestAddress(at))
        .map_err(|_| RequestError::OutsideMemory { address: at, bytes: DESCRIPTOR_BYTES })
}

fn indirect_table(descriptor: &Descriptor) -> Result<Table, RequestError> {
    let bytes = descriptor.len();
    let count = u16::try_from(u64::from(bytes) / DESCRIPTOR_BYTES).unwrap_or(u16::MAX);
    let ragged = u64::from(bytes) % DESCRIPTOR_BYTES != 0;
    if ragged || count == 0 || count > MAX_DESCRIPTORS {
        return Err(RequestError::BadIndirectTable { bytes });
    }
    Ok(Table { address: descriptor.addr(), count })
}

fn add(memory: &Memory, chain: &mut Chain, descriptor: &Descriptor) -> Result<(), RequestError> {
    let (address, bytes) = (descriptor.addr(), descriptor.len());
    if bytes > 0 && !memory.check_range(address, to_usize(u64::from(bytes))) {
        return Err(RequestError::OutsideMemory { address: address.0, bytes: u64::from(bytes) });
    }
    if descriptor.is_write_only() {
        chain.writable.push(address, bytes);
    } else if chain.writable.bytes() > 0 {
        return Err(RequestError::OutOfOrder);
    } else {
        chain.readable.push(address, bytes);
    }
    Ok(())
}

/// Decides what a header asks for and which half of the chain is its buffer.
fn interpret(
    memory: &Memory,
    header: &[u8; 16],
    readable: Segments,
    writable: Segments,
) -> Result<(Operation, Segments), RequestError> {
    let kind = le32(header, 0);
    let sector = Sector(le64(header, 8));
    let whole_sectors = |data: Segments, operation: Operation| {
        if data.bytes().is_multiple_of(SECTOR_BYTES) && data.bytes() <= MAX_DATA_BYTES {
            (operation, data)
        } else {
            (Operation::Refused(Status::IoError), data)
        }
    };
    Ok(match kind {
        virtio_blk::VIRTIO_BLK_T_IN => whole_sectors(writable, Operation::Read(sector)),
        virtio_blk::VIRTIO_BLK_T_OUT => whole_sectors(readable, Operation::Write(sector)),
        virtio_blk::VIRTIO_BLK_T_FLUSH => (Operation::Flush, Segments::default()),
        virtio_blk::VIRTIO_BLK_T_GET_ID => (Operation::GetId, writable),
        virtio_blk::VIRTIO_BLK_T_DISCARD => {
            (ranges(memory, &readable, 0, Operation::Discard)?, Segments::default())
        }
        virtio_blk::VIRTIO_BLK_T_WRITE_ZEROES => {
            let allowed = RANGE_MAY_UNMAP;
            (ranges(memory, &readable, allowed, Operation::WriteZeroes)?, Segments::default())
        }
        _ => (Operation::Refused(Status::Unsupported), Segments::default()),
    })
}

/// Reads the ranges of a DISCARD or WRITE_ZEROES.
fn ranges(
    memory: &Memory,
    data: &Segments,
    allowed_flags: u32,
    make: fn(SectorRanges) -> Operation,
) -> Result<Operation, RequestError> {
    let count = data.bytes() / RANGE_BYTES;
    let ragged = !data.bytes().is_multiple_of(RANGE_BYTES);
    if ragged || count == 0 || count > u64::from(MAX_RANGES) {
        return Ok(Operation::Refused(Status::IoError));
    }
    let mut found = SectorRanges::new();
    for index in 0..to_usize(count) {
        let mut bytes = [0; to_usize(RANGE_BYTES)];
        copy_out(memory, data, index * bytes.len(), &mut bytes)?;
        let range = SectorRange { first: Sector(le64(&bytes, 0)), count: le32(&bytes, 8) };
        if le32(&bytes, 12) & !allowed_flags != 0 {
            return Ok(Operation::Refused(Status::Unsupported));
        }
        if range.count > MAX_RANGE_SECTORS {
            return Ok(Operation::Refused(Status::IoError));
        }
        found.push(range);
    }
    Ok(make(found))
}

fn copy_out(
    memory: &Memory,
    data: &Segments,
    at: usize,
    out: &mut [u8],
) -> Result<(), RequestError> {
    data.copy_out(memory, at, out)
        .map_err(|_| RequestError::OutsideMemory { address: 0, bytes: to_u64(out.len()) })
}

fn le32(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn le64(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
