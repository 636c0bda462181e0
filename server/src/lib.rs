//! Disks over vhost-user-blk, and the control API. Knows no KVM.

mod buffers;
#[cfg(test)]
mod buffers_tests;
mod complete;
mod control;
mod disk;
mod execute;
mod exports;
mod folder;
mod guest;
mod health;
mod keep;
mod metrics;
mod reactor;
mod request;
mod sandbox;
mod serve;
mod sockets;
mod store;
mod sync;
mod tails;
mod throttle;
mod vhost;
mod waiting;
mod watch;

pub use buffers::Buffers;
pub use control::{
    ApiError, Attached, CloneDisks, Control, CreateDisk, Delete, DiffEvent, DiffQuery, DiskState,
    ErrorBody, ErrorDetail, FRAME_MAX_BYTES, FRAMES_MEDIA_TYPE, Frame, FrameDecoder, FrameError,
    Grow, ImportQuery, Imported, OPENAPI_DOCUMENT, Rename, Resize, RollBack, SIZE_HEADER, Scrub,
    ScrubEvent, ServerInfo, SetSealed, StatusReport, TakeSnapshots, router,
};
pub use disk::BlockDisk;
pub use execute::SERIAL_BYTES;
pub use folder::{FolderError, StoreFolder};
pub use keep::Vault;
pub use metrics::{
    Activity, CacheActivity, DiskActivity, LatencyBucket, Meter, MetricsPort, OperationActivity,
    PortError,
};
pub use request::RequestError;
pub use sandbox::{Sandbox, SandboxLevel};
pub use serve::{OnFull, ServeError, ServeOptions, serve};
pub use sockets::{
    SocketError, SocketRights, control_socket, default_socket_dir, disk_socket, group_number,
};
pub use store::{NewBlocks, OpenOptions, OpenStore, StoreError, create_store, repair_store};
pub use throttle::Throttle;
pub use vhost::{Doors, Export, ExportOptions, MAX_QUEUES, VhostError};
pub use waiting::{Waiting, WaitingLines};
