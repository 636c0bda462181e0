//! What serving a guest asks of a disk.
//!
//! The engine's disks are one implementation. Tests have another, which holds requests back,
//! fails them and counts them at will: what a guest sees of a slow or broken disk must not
//! depend on luck.

use std::future::Future;
use std::sync::Arc;

use bough_radix::{Access, Connection, Disk, DiskError, ErrorKind, Piece};
use tokio::sync::watch;

/// A disk as guests are served from it. Offsets and lengths are bytes, multiples of 512, and
/// within the size; anything may be asked for twice with the same result.
///
/// Futures stay on the reactor that polls them first.
pub trait BlockDisk: Send + Sync + 'static {
    /// Why something failed. The guest hears only that it did; the log hears why.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Held while a client is connected; dropping it lets the next one in.
    type Connection: Send;

    /// How large the disk is now.
    fn size_bytes(&self) -> u64;

    /// Follows the disk's size.
    fn on_resize(&self) -> watch::Receiver<u64>;

    /// Lets a client in, or says who is in its way. `client` is for messages.
    fn connect(
        self: &Arc<Self>,
        client: &str,
        access: Access,
    ) -> Result<Self::Connection, Self::Error>;

    /// Reads. `sink` gets pieces with their distance from `offset`, in any order, covering all.
    fn read(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        sink: &mut dyn FnMut(usize, Piece<'_>),
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Writes. `fill` is asked for bytes by their distance from `offset`, each at least once.
    fn write(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Makes a range zeros.
    fn write_zeroes(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Forgets a range, which reads as zeros afterwards.
    fn discard(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Whether a failure says that the store is full: room may come.
    fn is_full(error: &Self::Error) -> bool;

    /// Returns when room may have come to a full store.
    fn room(self: &Arc<Self>) -> impl Future<Output = ()>;

    /// Makes everything answered before survive a power cut.
    fn flush(self: &Arc<Self>) -> impl Future<Output = Result<(), Self::Error>>;
}

impl BlockDisk for Disk {
    type Error = DiskError;
    type Connection = Connection;

    fn size_bytes(&self) -> u64 {
        Self::size_bytes(self)
    }

    fn on_resize(&self) -> watch::Receiver<u64> {
        Self::on_resize(self)
    }

    fn connect(self: &Arc<Self>, client: &str, access: Access) -> Result<Connection, DiskError> {
        Self::connect(self, client, access)
    }

    async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        sink: &mut dyn FnMut(usize, Piece<'_>),
    ) -> Result<(), DiskError> {
        Self::read(self, offset, length, sink).await
    }

    async fn write(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), DiskError> {
        Self::write(self, offset, length, fill).await
    }

    async fn write_zeroes(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskError> {
        Self::write_zeroes(self, offset, length).await
    }

    async fn discard(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskError> {
        Self::discard(self, offset, length).await
    }

    fn is_full(error: &DiskError) -> bool {
        error.kind() == ErrorKind::Full
    }

    async fn room(self: &Arc<Self>) {
        Self::room(self).await;
    }

    async fn flush(self: &Arc<Self>) -> Result<(), DiskError> {
        Self::flush(self).await
    }
}
