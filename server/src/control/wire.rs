//! The bodies of the control API's requests and answers.
//!
//! I own their field names, which are stable and documented in `docs/api.md`. Whatever the
//! engine itself reports (`DiskInfo`, `VersionInfo`, ...) travels as it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use bough_radix::{
    Attachment, CheckReport, DiskInfo, DiskName, SnapshotName, StoreStatus, VersionInfo,
    VersionName,
};
use serde::{Deserialize, Serialize};

use crate::sandbox::SandboxLevel;
use crate::waiting::Waiting;

/// `POST /v1/disks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateDisk {
    /// What it shall be called.
    pub name: DiskName,
    /// Its size: a multiple of 512.
    pub size_bytes: u64,
}

/// `POST /v1/snapshots`: all at one instant, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshots {
    /// The snapshots to take.
    pub names: Vec<SnapshotName>,
}

/// `POST /v1/clones`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneDisks {
    /// A snapshot, or a disk: its newest sealed snapshot.
    pub source: VersionName,
    /// The disks to make.
    pub names: Vec<DiskName>,
}

/// `POST /v1/seal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSealed {
    /// Which snapshot.
    pub snapshot: SnapshotName,
    /// Whether it shall be protected from deletion.
    pub sealed: bool,
}

/// `POST /v1/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// Where to.
    pub snapshot: SnapshotName,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// What to delete.
    pub names: Vec<VersionName>,
    /// Take snapshots and dependent disks along.
    #[serde(default)]
    pub recursive: bool,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/rename`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The present name.
    pub from: VersionName,
    /// The new name; of the same sort, and for a snapshot of the same disk.
    pub to: VersionName,
}

/// `POST /v1/disks/{disk}/resize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The new size.
    pub size_bytes: u64,
    /// Allow it to become smaller.
    #[serde(default)]
    pub shrink: bool,
}

/// `POST /v1/grow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grow {
    /// The store's new size.
    pub size_bytes: u64,
}

/// `POST /v1/scrub`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrub {
    /// Read no faster than this.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// One line of the answer to `POST /v1/scrub`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubEvent {
    /// How far it has come.
    Progress {
        /// Read so far.
        done_bytes: u64,
        /// All there is to read.
        total_bytes: u64,
    },
    /// The end: what it found.
    Report(CheckReport),
    /// The end: why it could not go on.
    Error(ErrorDetail),
}

/// Query of `GET /v1/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffQuery {
    /// The older version, as a rule.
    pub from: VersionName,
    /// The newer; the answer says what it holds where they differ.
    pub to: VersionName,
}

/// One line of the answer to `GET /v1/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiffEvent {
    /// Some differences, ascending.
    Extents(Vec<bough_radix::Extent>),
    /// The end: everything has been said.
    Done {
        /// How many extents there were.
        extent_count: u64,
    },
    /// The end: why it could not go on.
    Error(ErrorDetail),
}

/// Answer to `PUT /v1/disks/{disk}/attachment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The disk.
    pub disk: DiskName,
    /// Where a front end connects, now or as soon as a server runs.
    pub socket: PathBuf,
    /// How.
    pub attachment: Attachment,
}

/// Query of `POST /v1/imports`; the body is a stream of frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportQuery {
    /// What the disk shall be called.
    pub name: DiskName,
    /// Its size.
    pub size_bytes: u64,
    /// Label of a sealed snapshot to take once all is there.
    #[serde(default)]
    pub template: Option<String>,
}

/// Answer to `POST /v1/imports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The disk.
    pub disk: DiskInfo,
    /// Its sealed snapshot, where one was asked for.
    pub template: Option<VersionInfo>,
    /// How much data came; the rest is holes.
    pub data_bytes: u64,
}

/// Answer to `GET /v1/server`: who serves the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The store's folder.
    pub store: PathBuf,
    /// Where the disks' sockets are.
    pub socket_dir: PathBuf,
    /// Where this API is.
    pub control_socket: PathBuf,
    /// Since when.
    pub started_unix: u64,
    /// What it has given up; none where it was told to keep everything.
    #[serde(default)]
    pub sandbox: Option<SandboxLevel>,
    /// Who holds front ends' connections for whoever serves next, in words.
    #[serde(default)]
    pub keepers: Vec<String>,
    /// Where metrics are told over TCP; null where they are not.
    pub metrics_address: Option<SocketAddr>,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The server, where there is one.
    pub server: Option<ServerInfo>,
    /// The store's folder.
    pub folder: PathBuf,
    /// The block file or device.
    pub blocks: PathBuf,
    /// What the block file takes on the host's file system; none for a device.
    pub host_bytes: Option<u64>,
    /// The store itself.
    pub store: StoreStatus,
    /// Disks that are attached, have clients, or are faulted.
    pub disks: Vec<DiskState>,
}

/// One disk in `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// Its name.
    pub name: String,
    /// Where a front end connects, where the disk is attached.
    pub socket: Option<PathBuf>,
    /// Who is connected.
    pub clients: Vec<String>,
    /// Why it does not serve, where it does not.
    pub fault: Option<String>,
    /// Its requests that wait for room in a full store, where some do.
    #[serde(default)]
    pub waiting: Option<Waiting>,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong: for programs, and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// One of `not_found exists in_use invalid full faulted corrupt refused io`.
    pub kind: String,
    /// The object, the cause and what to do.
    pub message: String,
}
