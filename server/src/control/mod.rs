//! The control API: HTTP and JSON, the same for a server's socket and for a command that has opened
//! the store itself.
//!
//! I own paths, bodies and statuses. I never touch a store's bytes and open no path that a client
//! names. Invariant: every path here is in `openapi.json`, and the other way round (a test).

mod activity;
mod attach;
mod context;
mod disks;
mod error;
mod export;
mod extract;
mod frames;
mod import;
#[cfg(test)]
mod openapi_tests;
mod router;
mod store;
mod stream;
mod versions;
mod wire;

pub use activity::metrics_router;
pub use attach::restore;
pub use context::{Control, Serving};
pub use error::ApiError;
pub use frames::{
    FRAME_MAX_BYTES, FRAMES_MEDIA_TYPE, Frame, FrameDecoder, FrameError, SIZE_HEADER,
};
pub use import::sweep;
#[cfg(test)]
pub use openapi_tests::sample_store;
pub use router::{OPENAPI_DOCUMENT, router};
pub use wire::{
    Attached, CloneDisks, CreateDisk, Delete, DiffEvent, DiffQuery, DiskState, ErrorBody,
    ErrorDetail, Grow, ImportQuery, Imported, Rename, Resize, RollBack, Scrub, ScrubEvent,
    ServerInfo, SetSealed, StatusReport, TakeSnapshots,
};
