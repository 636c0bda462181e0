//! Disks as versions of copy-on-write trees, and the catalogue. Knows no virtio.

mod info;
mod names;

pub use info::{
    Attachment, CheckReport, DeleteReport, DiskDetail, DiskInfo, Extent, ExtentKind, Finding,
    RollbackReport, Severity, StoreStatus, TreeNode, VersionInfo,
};
pub use names::{DiskName, NAME_MAX_BYTES, NameError, SnapshotName, VersionName};
