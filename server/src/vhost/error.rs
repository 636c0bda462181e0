//! Why a front end was turned away or cut off.

use std::io;
use std::sync::Arc;

use crate::request::RequestError;

/// Why a vhost-user connection was refused or ended. It never outlives its connection, nor
/// touches another.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VhostError {
    /// The disk does not let this client in.
    #[error("{client} may not use the disk: {source}")]
    Refused {
        /// Who asked.
        client: String,
        /// What the disk said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A message that is not vhost-user, or not in its place.
    #[error("the front end broke the vhost-user protocol: {source}")]
    Protocol {
        /// What was wrong.
        source: Arc<vhost::vhost_user::Error>,
    },
    /// The socket failed.
    #[error("the vhost-user socket failed: {source}")]
    Socket {
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// Feature bits that we did not offer.
    #[error("feature bits {bits:#x} were set but not offered")]
    UnknownFeatures {
        /// The surplus bits.
        bits: u64,
    },
    /// Features may change only while no ring runs.
    #[error("feature bits were changed while queue {queue} runs")]
    FeaturesWhileRunning {
        /// A running queue.
        queue: usize,
    },
    /// A queue that does not exist.
    #[error("queue {queue} was named where there are {queues}")]
    NoSuchQueue {
        /// The index given.
        queue: usize,
        /// How many there are.
        queues: usize,
    },
    /// A ring's size, base or place was set while it runs.
    #[error("queue {queue} was reconfigured while it runs")]
    QueueRuns {
        /// Which.
        queue: usize,
    },
    /// Enabled and kicked, but never told where its ring lies.
    #[error("queue {queue} was started before its ring was described")]
    QueueIncomplete {
        /// Which.
        queue: usize,
    },
    /// Size zero, not a power of two, or too large.
    #[error("queue {queue} has an impossible size of {size}")]
    BadQueueSize {
        /// Which.
        queue: usize,
        /// The size given.
        size: u32,
    },
    /// The ring is misaligned or (partly) outside the shared memory.
    #[error("queue {queue}'s ring is misaligned or outside the shared memory")]
    BadRing {
        /// Which.
        queue: usize,
    },
    /// A kick or call descriptor that is not an eventfd: reading it would keep us busy for ever.
    #[error("queue {queue} was given something other than an eventfd")]
    NotAnEventfd {
        /// Which.
        queue: usize,
    },
    /// It filled the counter of its own call eventfd: telling it of anything blocks.
    #[error("queue {queue}'s call eventfd was full: the front end has filled it itself")]
    CallFull {
        /// Which.
        queue: u16,
    },
    /// A ring without a kick descriptor would have to be polled.
    #[error("queue {queue} was given no kick eventfd; polled rings are not supported")]
    NoKick {
        /// Which.
        queue: usize,
    },
    /// A memory region that is empty or wraps around.
    #[error("an impossible memory region of {bytes} bytes at guest address {guest:#x}")]
    BadRegion {
        /// Its guest address.
        guest: u64,
        /// Its size.
        bytes: u64,
    },
    /// A memory region over another.
    #[error("a memory region of {bytes} bytes at guest address {guest:#x} overlaps another")]
    OverlappingRegion {
        /// Its guest address.
        guest: u64,
        /// Its size.
        bytes: u64,
    },
    /// A region to remove that was never added.
    #[error("no memory region of {bytes} bytes at guest address {guest:#x} to remove")]
    UnknownRegion {
        /// Its guest address.
        guest: u64,
        /// Its size.
        bytes: u64,
    },
    /// More regions than offered.
    #[error("more memory regions than the 509 offered")]
    TooManyRegions,
    /// An address of the front end's that no region holds.
    #[error("the front end's address {user:#x} lies in no memory region")]
    UnknownAddress {
        /// The address.
        user: u64,
    },
    /// Shared memory could not be mapped.
    #[error("shared memory cannot be mapped: {source}")]
    Map {
        /// Why.
        source: Arc<vm_memory::mmap::MmapRegionError>,
    },
    /// The file behind shared memory is shorter than what is to be shared.
    #[error("shared memory of {needed} bytes is backed by a file of {bytes}")]
    ShortFile {
        /// The file's length.
        bytes: u64,
        /// What was to be mapped, up to its end.
        needed: u64,
    },
    /// Shared memory went away under us: the file behind it was cut short.
    #[error("the front end cut its shared memory short while it was in use")]
    MemoryVanished,
    /// A descriptor could not be kept, nor what a successor needs be written down.
    #[error("the session cannot be kept for a successor: {source}")]
    Keep {
        /// Why.
        source: Arc<io::Error>,
    },
    /// A dead server's session cannot be taken up.
    #[error("a dead server's session cannot be taken up: not everything was held, or it changed")]
    NotInherited,
    /// The server died while it answered, and nobody can tell whether it did.
    #[error("the server died in the middle of an answer; the front end has to connect again")]
    AnswerUnknown,
    /// No memory for an in-flight region.
    #[error("an in-flight region cannot be made: {source}")]
    InflightMemory {
        /// Why.
        source: Arc<io::Error>,
    },
    /// The in-flight region handed back is too small.
    #[error("the in-flight region has {bytes} bytes where {needed} are needed")]
    InflightTooSmall {
        /// Its size.
        bytes: u64,
        /// What its own queue counts need.
        needed: u64,
    },
    /// The in-flight region has no place for this ring.
    #[error("the in-flight region has no place for queue {queue} with {ring_size} descriptors")]
    InflightShape {
        /// Which queue.
        queue: u16,
        /// Its size.
        ring_size: u16,
    },
    /// The in-flight region is of another version or shape.
    #[error("queue {queue}'s in-flight region has version {version} or another size")]
    InflightVersion {
        /// Which queue.
        queue: u16,
        /// The version found.
        version: u16,
    },
    /// The in-flight region names a request that the ring cannot hold.
    #[error("queue {queue}'s in-flight region names descriptor {head} of {size}")]
    InflightHead {
        /// Which queue.
        queue: u16,
        /// The descriptor.
        head: u16,
        /// The ring's size.
        size: u16,
    },
    /// A chain that cannot be answered.
    #[error("queue {queue}: {source}")]
    Request {
        /// Which queue.
        queue: u16,
        /// What is wrong with it.
        source: RequestError,
    },
    /// A chain handed over again before it was answered.
    #[error("queue {queue}: descriptor {head} was made available while it is in use")]
    TakenTwice {
        /// Which queue.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
    },
    /// The ring's indexes make no sense, or it left the shared memory.
    #[error("queue {queue}: {source}")]
    Ring {
        /// Which queue.
        queue: u16,
        /// What is wrong with it.
        source: Arc<virtio_queue::Error>,
    },
    /// The kick eventfd failed.
    #[error("queue {queue}: its kick eventfd cannot be waited for: {source}")]
    Kick {
        /// Which queue.
        queue: u16,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// The reactor that served a ring is gone.
    #[error("queue {queue}: its requests were dropped unfinished")]
    Dropped {
        /// Which queue.
        queue: u16,
    },
}

impl VhostError {
    /// What could not be kept.
    pub(crate) fn keeping(source: io::Error) -> Self {
        Self::Keep { source: Arc::new(source) }
    }
}

impl From<vhost::vhost_user::Error> for VhostError {
    fn from(source: vhost::vhost_user::Error) -> Self {
        Self::Protocol { source: Arc::new(source) }
    }
}

impl From<VhostError> for vhost::vhost_user::Error {
    fn from(error: VhostError) -> Self {
        Self::ReqHandlerError(io::Error::other(error))
    }
}
