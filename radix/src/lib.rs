//! Disks as versions of copy-on-write trees, and the catalogue. Knows no virtio.

mod backlog;
mod beyond;
mod btree;
mod cache;
mod catalogue;
mod concurrent;
mod count;
mod diff;
mod disk;
mod disk0;
mod engine;
mod error;
mod gate;
mod info;
mod lookup;
mod merge;
mod merger;
mod names;
mod node;
mod overlay;
mod overlay_budget;
mod path;
mod points;
mod range_lock;
mod range_set;
mod read_ahead;
mod reclaim;
mod side;
mod space;
mod store;
mod tails;
#[cfg(test)]
mod testing;
mod tree_error;
#[cfg(test)]
mod tree_tests;
mod updates;
mod walk;

pub use btree::{PageFault, PageFaultKind};
pub use catalogue::{RowFault, RowKind, VersionId};
pub use disk::{Access, Connection, Disk, Piece};
pub use disk0::CatalogueError;
pub use engine::{
    BrokenRule, DeleteOptions, Differences, Engine, EngineConfig, EngineError, Progress, Reader,
    RepairMode, ScrubOptions,
};
pub use error::{DiskError, ErrorKind};
pub use info::{
    Attachment, CheckReport, DeleteReport, DiskDetail, DiskInfo, Extent, ExtentKind, Finding,
    Limits, LimitsChange, LostRange, RepairReport, RollbackReport, SalvageReport, Severity,
    StoreStatus, TreeNode, VersionInfo,
};
pub use names::{DiskName, NAME_MAX_BYTES, NameError, SnapshotName, VersionName};
pub use node::NodeFault;
pub use path::Position;
pub use space::SpaceFault;
pub use tails::{Tail, Tails};
pub use tree_error::TreeError;
