//! A disk in memory that does what the test says: hold, fail, count.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bough_radix::{Access, Piece};
use bough_server::BlockDisk;
use tokio::sync::watch;

/// A request that the disk has carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Read from here, so much.
    Read(u64, usize),
    /// Written there, so much, beginning with this byte.
    Write(u64, usize, u8),
    /// Zeroed.
    Zero(u64, u64),
    /// Discarded.
    Discard(u64, u64),
    /// Flushed.
    Flush,
}

/// What the double fails with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskFailure {
    /// By the test's order.
    #[error("the test ordered a failure")]
    Ordered,
    /// By the test's order, too.
    #[error("the disk is full")]
    Full,
    /// Somebody else writes.
    #[error("{holder} is connected for writing")]
    Held {
        /// Who.
        holder: String,
    },
}

#[derive(Default)]
struct Contents {
    bytes: Vec<u8>,
    done: Vec<Done>,
    failing: bool,
    /// Writes that are still carried out before the disk is full.
    room: usize,
}

/// The double.
pub struct MemoryDisk {
    contents: Mutex<Contents>,
    /// `true`: requests wait.
    held: watch::Sender<bool>,
    /// How many requests have come as far as the gate.
    arrived: watch::Sender<usize>,
    /// Changes when room may have come.
    roomier: watch::Sender<()>,
    size: watch::Sender<u64>,
    writer: Arc<Mutex<Option<String>>>,
}

impl MemoryDisk {
    /// A disk of this size, every 512 bytes filled with a number of their own.
    pub fn new(bytes: usize) -> Self {
        let pattern = (0..bytes).map(|at| u8::try_from(at / 512 % 251).unwrap_or_default());
        Self {
            contents: Mutex::new(Contents {
                bytes: pattern.collect(),
                room: usize::MAX,
                ..Contents::default()
            }),
            roomier: watch::Sender::new(()),
            held: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
            size: watch::Sender::new(u64::try_from(bytes).unwrap_or(u64::MAX)),
            writer: Arc::default(),
        }
    }

    /// From now on requests wait (`true`) or go on (`false`).
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// How many requests have arrived.
    pub fn arrivals(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until so many requests have arrived since the beginning.
    pub fn wait_for_arrivals(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let wait = async move { arrived.wait_for(|now| *now >= count).await.map(|_| ()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let limit = std::time::Duration::from_secs(20);
        runtime
            .expect("a runtime")
            .block_on(async move { tokio::time::timeout(limit, wait).await })
            .expect("the requests never arrived")
            .expect("the disk is there");
    }

    /// Waits until nobody follows the disk's size any more. A connection stops following after it
    /// has stopped answering.
    pub fn wait_until_unwatched(&self) {
        while self.size.receiver_count() > 0 {
            std::thread::yield_now();
        }
    }

    /// From now on requests fail, or not.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// From now on so many writes, discards and the like are carried out; the others find the
    /// disk full.
    pub fn make_room(&self, writes: usize) {
        self.lock().room = writes;
        self.roomier.send_replace(());
    }

    /// Changes the size, as a resize would.
    pub fn resize(&self, bytes: usize) {
        self.lock().bytes.resize(bytes, 0);
        self.size.send_replace(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// What was carried out, in order.
    pub fn done(&self) -> Vec<Done> {
        self.lock().done.clone()
    }

    /// What the disk holds.
    pub fn bytes(&self, at: usize, length: usize) -> Vec<u8> {
        self.lock().bytes[at..at + length].to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn gate(&self) -> Result<MutexGuard<'_, Contents>, DiskFailure> {
        self.arrived.send_modify(|count| *count += 1);
        let mut held = self.held.subscribe();
        // The sender is ours, so it is there.
        let _ = held.wait_for(|held| !held).await;
        let contents = self.lock();
        if contents.failing { Err(DiskFailure::Ordered) } else { Ok(contents) }
    }

    async fn gate_of_changes(&self) -> Result<MutexGuard<'_, Contents>, DiskFailure> {
        let mut contents = self.gate().await?;
        contents.room = contents.room.checked_sub(1).ok_or(DiskFailure::Full)?;
        Ok(contents)
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a double is small")
}

impl BlockDisk for MemoryDisk {
    type Error = DiskFailure;
    type Connection = Connected;

    fn size_bytes(&self) -> u64 {
        *self.size.borrow()
    }

    fn on_resize(&self) -> watch::Receiver<u64> {
        self.size.subscribe()
    }

    fn connect(self: &Arc<Self>, client: &str, access: Access) -> Result<Connected, DiskFailure> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if access == Access::ReadOnly {
            return Ok(Connected { writer: None });
        }
        if let Some(holder) = writer.clone() {
            return Err(DiskFailure::Held { holder });
        }
        *writer = Some(client.to_owned());
        Ok(Connected { writer: Some(Arc::clone(&self.writer)) })
    }

    async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        sink: &mut dyn FnMut(usize, Piece<'_>),
    ) -> Result<(), DiskFailure> {
        let mut contents = self.gate().await?;
        contents.done.push(Done::Read(offset, length));
        // Backwards and in pieces: nobody may rely on the order.
        let start = index(offset);
        let mut at = length;
        while at > 0 {
            let from = at.saturating_sub(700);
            sink(from, Piece::Bytes(&contents.bytes[start + from..start + at]));
            at = from;
        }
        Ok(())
    }

    async fn write(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), DiskFailure> {
        let mut contents = self.gate_of_changes().await?;
        let start = index(offset);
        fill(0, &mut contents.bytes[start..start + length / 2]);
        fill(length / 2, &mut contents.bytes[start + length / 2..start + length]);
        let first = contents.bytes[start];
        contents.done.push(Done::Write(offset, length, first));
        Ok(())
    }

    async fn write_zeroes(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskFailure> {
        let mut contents = self.gate_of_changes().await?;
        contents.bytes[index(offset)..index(offset + length)].fill(0);
        contents.done.push(Done::Zero(offset, length));
        Ok(())
    }

    async fn discard(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskFailure> {
        let mut contents = self.gate_of_changes().await?;
        contents.bytes[index(offset)..index(offset + length)].fill(0);
        contents.done.push(Done::Discard(offset, length));
        Ok(())
    }

    fn is_full(error: &DiskFailure) -> bool {
        *error == DiskFailure::Full
    }

    async fn room(self: &Arc<Self>) {
        let mut roomier = self.roomier.subscribe();
        if self.lock().room == 0 {
            let _ = roomier.changed().await;
        }
    }

    async fn flush(self: &Arc<Self>) -> Result<(), DiskFailure> {
        let mut contents = self.gate().await?;
        contents.done.push(Done::Flush);
        Ok(())
    }
}

/// A client that the disk has let in.
pub struct Connected {
    writer: Option<Arc<Mutex<Option<String>>>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            *writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}
