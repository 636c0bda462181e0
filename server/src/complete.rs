//! Everything we write into a guest's memory: data, status bytes, the used ring.
//!
//! This is the one place. Whoever has to know which pages changed (live migration), or to ask
//! for a page before it is touched (lazy restore), needs to look nowhere else. I never decide
//! what is written, and never write where [`crate::request`] has not checked.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use bough_blockstore::{to_u64, to_usize};
use bough_radix::Piece;

use crate::guest::{Memory, Segments};
use crate::request::Status;
use crate::vhost::InflightQueue;

static ZEROS: [u8; 4096] = [0; 4096];

/// Writes a piece of data into a request's buffer, `at` bytes from its beginning.
pub(crate) fn scatter(
    memory: &Memory,
    data: &Segments,
    at: usize,
    piece: Piece<'_>,
) -> Result<(), GuestMemoryError> {
    match piece {
        Piece::Bytes(bytes) => {
            let mut rest = bytes;
            for run in data.part(at, bytes.len()) {
                let (now, later) = rest.split_at(to_usize(run.bytes));
                memory.write_slice(now, run.address)?;
                rest = later;
            }
        }
        Piece::Zeros(count) => {
            for run in data.part(at, count) {
                zero(memory, run.address, run.bytes)?;
            }
        }
    }
    Ok(())
}

fn zero(memory: &Memory, address: GuestAddress, bytes: u64) -> Result<(), GuestMemoryError> {
    let mut done = 0;
    while done < bytes {
        let count = (bytes - done).min(to_u64(ZEROS.len()));
        memory.write_slice(&ZEROS[..to_usize(count)], GuestAddress(address.0 + done))?;
        done += count;
    }
    Ok(())
}

/// A request that has been carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// The chain's first descriptor.
    pub(crate) head: u16,
    /// Where the status byte goes.
    pub(crate) status_at: GuestAddress,
    /// What it says.
    pub(crate) status: Status,
    /// Bytes of data written into the guest.
    pub(crate) data_bytes: u64,
}

/// Answers a request. The steps are in the order that lets a killed server's successor tell
/// what was answered: `log` outlives it.
pub(crate) fn publish(
    memory: &Memory,
    queue: &mut Queue,
    log: &InflightQueue,
    finished: &Finished,
) -> Result<(), virtio_queue::Error> {
    memory
        .write_obj(finished.status.byte(), finished.status_at)
        .map_err(virtio_queue::Error::GuestMemory)?;
    let used_bytes = u32::try_from(finished.data_bytes + 1).unwrap_or(u32::MAX);
    log.finishing(finished.head);
    queue.add_used(memory, finished.head, used_bytes)?;
    log.finished(finished.head, queue.next_used());
    Ok(())
}

/// Whether the driver wants to be told of what was published since the last time I was asked.
pub(crate) fn wants_interrupt(
    memory: &Memory,
    queue: &mut Queue,
) -> Result<bool, virtio_queue::Error> {
    // Has the full fence between publishing and looking at what the driver wants.
    let wanted = queue.needs_notification(memory)?;
    if queue.event_idx_enabled() {
        return Ok(wanted);
    }
    let flags: u16 = memory
        .load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
        .map_err(virtio_queue::Error::GuestMemory)?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}

/// Asks the driver for a kick at its next request. `true`: one came in between, look again.
pub(crate) fn ask_for_kick(
    memory: &Memory,
    queue: &mut Queue,
) -> Result<bool, virtio_queue::Error> {
    queue.enable_notification(memory)
}

/// Tells the driver that kicks are a waste of time: we are looking anyway.
pub(crate) fn decline_kicks(memory: &Memory, queue: &mut Queue) -> Result<(), virtio_queue::Error> {
    queue.disable_notification(memory)
}
