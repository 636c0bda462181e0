//! Disks as versions of copy-on-write trees, and the catalogue. Knows no virtio.

mod btree;
mod cache;
mod catalogue;
mod concurrent;
mod diff;
mod info;
mod lookup;
mod merge;
mod merger;
mod names;
mod node;
mod path;
mod read_ahead;
mod reclaim;
mod side;
mod space;
#[cfg(test)]
mod testing;
mod tree_error;
#[cfg(test)]
mod tree_tests;
mod walk;

pub use btree::{Counters, Page, PageFault, PageFaultKind, Pages, Totals};
pub use cache::{CacheStats, NodeCache};
pub use catalogue::{
    AttachmentRow, ChainRow, DiskRow, ExtentRow, ReclaimRow, RowFault, RowKind, Rows, VersionId,
    VersionKind, VersionRow,
};
pub use diff::{Difference, diff};
pub use info::{
    Attachment, CheckReport, DeleteReport, DiskDetail, DiskInfo, Extent, ExtentKind, Finding,
    RollbackReport, Severity, StoreStatus, TreeNode, VersionInfo,
};
pub use lookup::{Mapping, Miss, lookup, lookup_range, try_lookup, try_lookup_range};
pub use merge::{
    MergeContext, Merged, NodeSink, Ownership, ReclaimedBelow, Update, merge, reheight,
};
pub use names::{DiskName, NAME_MAX_BYTES, NameError, SnapshotName, VersionName};
pub use node::{Entry, Kind, Node, NodeFault, Root};
pub use path::{FAN_OUT, MAX_HEIGHT, Position, height_for};
pub use reclaim::{Reclaim, Step, reclaim_step};
pub use space::{
    BITMAP_BASE, CATALOGUE_BLOCKS, Floors, Full, Grant, Need, Space, SpaceConfig, SpaceCounts,
    SpaceFault, Which, bitmap_page_of,
};
pub use tree_error::{OnDamage, TreeError, Unreadable};
pub use walk::{Found, Onward, walk};
