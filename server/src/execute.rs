//! Carrying out one request on a disk.
//!
//! I own the meaning of a request: ranges, read-only, what a driver without FLUSH is owed. I
//! never touch a ring. Large requests go in pieces, so one guest's gigabyte takes no gigabyte
//! of ours. One that finds the store full can be carried on with later: what to do meanwhile
//! others decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bough_blockstore::{Runtime, UringRuntime, to_u64, to_usize};
use bough_radix::Piece;

use crate::complete::scatter;
use crate::disk::BlockDisk;
use crate::guest::{Memory, Segments};
use crate::request::{Operation, Request, SECTOR_BYTES, Sector, SectorRanges, Status};

/// A request is carried out in pieces of at most this size.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// Bytes in a disk's identification.
pub const SERIAL_BYTES: usize = 20;

/// What was negotiated and what was configured, as far as it decides about requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Whether writing is refused.
    pub(crate) read_only: bool,
    /// The driver will never flush: a write is durable before it is answered.
    pub(crate) write_through: bool,
    /// Whether the driver took DISCARD.
    pub(crate) discard: bool,
    /// Whether the driver took WRITE_ZEROES.
    pub(crate) write_zeroes: bool,
    /// What GET_ID says.
    pub(crate) serial: [u8; SERIAL_BYTES],
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    /// Bytes of data written into the guest.
    pub(crate) data_bytes: u64,
}

/// Why a request failed; only for the log.
enum Failure<E> {
    /// Beyond the disk's end, or writing where that is refused: the guest's own fault.
    Refused(Status),
    /// The disk could not.
    Disk(E),
}

/// How far a request has come: pieces of a write, ranges of a discard.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: usize,
}

/// Carries out a request, from where it has come to.
///
/// # Errors
/// Where the store is full. The request may be carried on with, or [refused](refuse).
pub(crate) async fn execute<D: BlockDisk>(
    disk: &Arc<D>,
    memory: &Memory,
    request: &Request,
    policy: &Policy,
    progress: &mut Progress,
) -> Result<Outcome, D::Error> {
    let done = match &request.operation {
        Operation::Read(from) => return Ok(read(disk, memory, *from, &request.data).await),
        Operation::GetId => return Ok(identify(memory, &request.data, policy)),
        Operation::Refused(status) => Err(Failure::Refused(*status)),
        Operation::Write(to) => write(disk, memory, *to, &request.data, policy, progress).await,
        Operation::Flush => disk.flush().await.map_err(Failure::Disk),
        Operation::Discard(ranges) => clear(disk, ranges, Clear::Discard, policy, progress).await,
        Operation::WriteZeroes(ranges) => {
            clear(disk, ranges, Clear::WriteZeroes, policy, progress).await
        }
    };
    match done {
        Err(Failure::Disk(error)) if D::is_full(&error) => Err(error),
        done => Ok(Outcome { status: status_of(done, &request.operation), data_bytes: 0 }),
    }
}

/// What a request is answered that found the store full.
pub(crate) fn refuse<E: std::error::Error>(error: &E, request: &Request) -> Outcome {
    complain(error, &request.operation);
    Outcome { status: Status::IoError, data_bytes: 0 }
}

fn status_of<E: std::error::Error>(done: Result<(), Failure<E>>, operation: &Operation) -> Status {
    match done {
        Ok(()) => Status::Ok,
        Err(Failure::Refused(status)) => status,
        Err(Failure::Disk(error)) => {
            complain(&error, operation);
            Status::IoError
        }
    }
}

/// Logs a failure, once a second at most: a guest on a full disk repeats itself.
fn complain<E: std::error::Error>(error: &E, operation: &Operation) {
    static LAST_SECOND: AtomicU64 = AtomicU64::new(u64::MAX);
    static UNSAID: AtomicU64 = AtomicU64::new(0);
    let second = UringRuntime.now().as_secs();
    if LAST_SECOND.swap(second, Ordering::Relaxed) == second {
        UNSAID.fetch_add(1, Ordering::Relaxed);
    } else {
        let unsaid = UNSAID.swap(0, Ordering::Relaxed);
        tracing::warn!(%error, ?operation, unsaid, "a guest's request failed");
    }
}

async fn read<D: BlockDisk>(
    disk: &Arc<D>,
    memory: &Memory,
    from: Sector,
    data: &Segments,
) -> Outcome {
    let done = read_chunks(disk, memory, from, data).await;
    let status = status_of(done, &Operation::Read(from));
    if status != Status::Ok {
        // Whatever arrived before the failure, or failed its checksum, is not for the guest.
        zero_all(memory, data);
    }
    Outcome { status, data_bytes: data.bytes() }
}

async fn read_chunks<D: BlockDisk>(
    disk: &Arc<D>,
    memory: &Memory,
    from: Sector,
    data: &Segments,
) -> Result<(), Failure<D::Error>> {
    let offset = within(disk, from, data.bytes())?;
    for (at, length) in chunks(data.bytes()) {
        let mut sink = |distance: usize, piece: Piece<'_>| {
            // Checked when the request was parsed, against this very map: it cannot fail.
            let copied = scatter(memory, data, to_usize(at) + distance, piece);
            debug_assert!(copied.is_ok(), "a checked buffer left the memory map");
        };
        let read = disk.read(offset + at, to_usize(length), &mut sink);
        read.await.map_err(Failure::Disk)?;
    }
    Ok(())
}

fn zero_all(memory: &Memory, data: &Segments) {
    let copied = scatter(memory, data, 0, Piece::Zeros(to_usize(data.bytes())));
    debug_assert!(copied.is_ok(), "a checked buffer left the memory map");
}

async fn write<D: BlockDisk>(
    disk: &Arc<D>,
    memory: &Memory,
    to: Sector,
    data: &Segments,
    policy: &Policy,
    progress: &mut Progress,
) -> Result<(), Failure<D::Error>> {
    if policy.read_only {
        return Err(Failure::Refused(Status::IoError));
    }
    let offset = within(disk, to, data.bytes())?;
    for (at, length) in chunks(data.bytes()).skip(progress.done) {
        let mut fill = |distance: usize, out: &mut [u8]| {
            let copied = data.copy_out(memory, to_usize(at) + distance, out);
            debug_assert!(copied.is_ok(), "a checked buffer left the memory map");
        };
        let write = disk.write(offset + at, to_usize(length), &mut fill);
        write.await.map_err(Failure::Disk)?;
        progress.done += 1;
    }
    settle(disk, policy).await
}

#[derive(Clone, Copy)]
enum Clear {
    Discard,
    WriteZeroes,
}

async fn clear<D: BlockDisk>(
    disk: &Arc<D>,
    ranges: &SectorRanges,
    clear: Clear,
    policy: &Policy,
    progress: &mut Progress,
) -> Result<(), Failure<D::Error>> {
    let taken = match clear {
        Clear::Discard => policy.discard,
        Clear::WriteZeroes => policy.write_zeroes,
    };
    if !taken {
        return Err(Failure::Refused(Status::Unsupported));
    }
    if policy.read_only {
        return Err(Failure::Refused(Status::IoError));
    }
    // All are checked before any is done.
    for range in ranges {
        within(disk, range.first, u64::from(range.count) * SECTOR_BYTES)?;
    }
    for range in ranges.iter().skip(progress.done) {
        let length = u64::from(range.count) * SECTOR_BYTES;
        let offset = within(disk, range.first, length)?;
        match clear {
            _ if length == 0 => Ok(()),
            Clear::Discard => disk.discard(offset, length).await,
            Clear::WriteZeroes => disk.write_zeroes(offset, length).await,
        }
        .map_err(Failure::Disk)?;
        progress.done += 1;
    }
    settle(disk, policy).await
}

/// What a driver is owed that has no way to ask for durability.
async fn settle<D: BlockDisk>(disk: &Arc<D>, policy: &Policy) -> Result<(), Failure<D::Error>> {
    if policy.write_through { disk.flush().await.map_err(Failure::Disk) } else { Ok(()) }
}

fn identify(memory: &Memory, data: &Segments, policy: &Policy) -> Outcome {
    let count = to_usize(data.bytes().min(to_u64(SERIAL_BYTES)));
    let copied = scatter(memory, data, 0, Piece::Bytes(&policy.serial[..count]));
    debug_assert!(copied.is_ok(), "a checked buffer left the memory map");
    Outcome { status: Status::Ok, data_bytes: to_u64(count) }
}

/// Where `length` bytes from `first` on begin; refused where the disk does not reach.
fn within<D: BlockDisk>(
    disk: &Arc<D>,
    first: Sector,
    length: u64,
) -> Result<u64, Failure<D::Error>> {
    let refused = Failure::Refused(Status::IoError);
    let Some(offset) = first.offset_bytes() else { return Err(refused) };
    match offset.checked_add(length) {
        Some(end) if end <= disk.size_bytes() => Ok(offset),
        _ => Err(refused),
    }
}

/// `(distance, length)` of each piece.
fn chunks(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes.div_ceil(CHUNK_BYTES)).map(move |index| {
        let at = index * CHUNK_BYTES;
        (at, (bytes - at).min(CHUNK_BYTES))
    })
}
