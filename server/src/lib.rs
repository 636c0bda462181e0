//! Disks over vhost-user-blk, and the control API. Knows no KVM.

mod control;
mod exports;
mod folder;
mod serve;
mod sockets;
mod store;

pub use control::{
    ApiError, Attached, CloneDisks, Control, CreateDisk, Delete, DiffEvent, DiffQuery, DiskState,
    ErrorBody, ErrorDetail, FRAME_MAX_BYTES, FRAMES_MEDIA_TYPE, Frame, FrameDecoder, FrameError,
    Grow, ImportQuery, Imported, OPENAPI_DOCUMENT, Rename, Resize, RollBack, SIZE_HEADER, Scrub,
    ScrubEvent, ServerInfo, SetSealed, StatusReport, TakeSnapshots, router,
};
pub use folder::{FolderError, StoreFolder};
pub use serve::{ServeError, ServeOptions, serve};
pub use sockets::{
    SocketError, SocketRights, control_socket, default_socket_dir, disk_socket, group_number,
};
pub use store::{NewBlocks, OpenOptions, OpenStore, StoreError, create_store};
