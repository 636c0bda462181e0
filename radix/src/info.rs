//! What the engine tells about itself: the shapes behind `--json` and the control API.
//!
//! Field names and meanings are stable; every size is in bytes, every time in seconds since 1970.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A head or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// `DISK` for a head, `DISK@NAME` for a snapshot. A deleted version that others still need
    /// shows as `DISK@(deleted)`.
    pub name: String,
    /// Identity across stores.
    pub uuid: Uuid,
    /// Name of the version this one began from.
    pub parent: Option<String>,
    /// Identity of the version this one began from.
    pub parent_uuid: Option<Uuid>,
    /// The size that a guest sees.
    pub size_bytes: u64,
    /// Data that reads of this version can reach; holes do not count.
    pub referenced_bytes: u64,
    /// Data that this version brought and its parent does not have.
    pub owned_bytes: u64,
    /// When it was made.
    pub created_unix: u64,
    /// Whether it is protected from deletion.
    pub sealed: bool,
    /// Whether it is a disk's writable head.
    pub head: bool,
    /// Whether it was deleted and only waits for its children or for the reclaimer.
    pub hidden: bool,
    /// How many versions began from it.
    pub child_count: u64,
}

/// A disk: its head and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The disk's name.
    pub name: String,
    /// Its number in the store.
    pub id: u32,
    /// Its identity.
    pub uuid: Uuid,
    /// The head.
    pub head: VersionInfo,
    /// How many snapshots it has.
    pub snapshot_count: u64,
    /// Where the disk was cloned from: `DISK@NAME`.
    pub origin: Option<String>,
    /// How guests may reach it, where it is attached.
    pub attachment: Option<Attachment>,
    /// How much guests may ask of it, where that is limited.
    pub limits: Option<Limits>,
    /// Who is connected.
    pub clients: Vec<String>,
    /// Why it does not serve, where it does not.
    pub fault: Option<String>,
}

/// How a disk is offered to guests; remembered across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Virtqueues offered.
    pub queues: u16,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// How much guests may ask of a disk; remembered across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Reads, writes, discards and zeroings in a second.
    pub iops: Option<u64>,
    /// Bytes read and written in a second.
    pub bandwidth_bytes: Option<u64>,
    /// For how many seconds what was not used is saved up.
    pub burst_seconds: u32,
}

impl Limits {
    /// What a disk has that nobody limited.
    pub const NONE: Self = Self { iops: None, bandwidth_bytes: None, burst_seconds: 1 };
    /// The longest time for which anything is saved up: a day.
    pub const BURST_SECONDS_MAX: u32 = 86_400;

    /// Whether anything is limited.
    pub fn is_none(&self) -> bool {
        self.iops.is_none() && self.bandwidth_bytes.is_none()
    }

    /// Whether the numbers can be: none is zero, and saving up has its bound.
    pub fn is_sound(&self) -> bool {
        self.iops != Some(0)
            && self.bandwidth_bytes != Some(0)
            && (1..=Self::BURST_SECONDS_MAX).contains(&self.burst_seconds)
    }

    /// With `change`: what that leaves out stays as it is.
    #[must_use]
    pub fn with(self, change: LimitsChange) -> Self {
        let changed = |to: Option<u64>, from| match to {
            None => from,
            Some(to) => (to > 0).then_some(to),
        };
        Self {
            iops: changed(change.iops, self.iops),
            bandwidth_bytes: changed(change.bandwidth_bytes, self.bandwidth_bytes),
            burst_seconds: change.burst_seconds.unwrap_or(self.burst_seconds),
        }
    }
}

/// What is to be changed of a disk's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsChange {
    /// Operations in a second; 0 takes the limit away.
    pub iops: Option<u64>,
    /// Bytes in a second; 0 takes the limit away.
    pub bandwidth_bytes: Option<u64>,
    /// For how many seconds what was not used is saved up.
    pub burst_seconds: Option<u32>,
}

/// One line of `tree`: a version, after the one that it began from and everything that began
/// earlier from that. A flat list, since a disk's snapshots nest as deep as they are many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// The version.
    pub version: VersionInfo,
    /// How many versions it has above it.
    pub depth: u64,
}

/// One disk with its snapshots, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDetail {
    /// The disk.
    pub disk: DiskInfo,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<VersionInfo>,
}

/// The store's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The store's identity.
    pub uuid: Uuid,
    /// All of it.
    pub size_bytes: u64,
    /// What may still be written.
    pub free_bytes: u64,
    /// What trees hold.
    pub used_bytes: u64,
    /// Promised to checkpoints of what has been written already.
    pub reserved_bytes: u64,
    /// The part set aside for the catalogue.
    pub catalogue_bytes: u64,
    /// Of that, in use.
    pub catalogue_used_bytes: u64,
    /// Tree nodes held in memory.
    pub cache_bytes: u64,
    /// The most that may be.
    pub cache_budget_bytes: u64,
    /// Times that a node was in memory, since the store was opened.
    pub cache_hits: u64,
    /// Times that one had to be read.
    pub cache_misses: u64,
    /// Deleted versions whose blocks are still being reclaimed.
    pub reclaiming: u64,
    /// How many disks there are.
    pub disk_count: u64,
    /// How many snapshots there are.
    pub snapshot_count: u64,
    /// What an operator should know: low space, faulted disks.
    pub warnings: Vec<String>,
}

/// What `delete` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReport {
    /// Everything deleted, by name: disks, clones before what they were cloned from, each after its
    /// snapshots.
    pub deleted: Vec<String>,
    /// Data that no other version holds.
    pub released_bytes: u64,
}

/// What `rollback` did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    /// The disk.
    pub disk: String,
    /// Where it stands now.
    pub snapshot: String,
    /// Data of the head that is dropped.
    pub dropped_bytes: u64,
    /// The disk's size afterwards.
    pub size_bytes: u64,
}

/// A run of bytes in which two versions differ, or that a version holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins.
    pub start_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What the (second) version has there.
    pub kind: ExtentKind,
}

/// What a version has at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtentKind {
    /// Data.
    Data,
    /// Zeros, taking no space.
    Zero,
}

/// One thing that `check` or `scrub` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The version it concerns, where there is one.
    pub version: Option<String>,
    /// The block it concerns, where there is one.
    pub block: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Space that nobody uses and nobody may.
    Leak,
    /// Something lost or used twice.
    Corruption,
}

/// What `check` or `scrub` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Versions looked at.
    pub versions: u64,
    /// Tree nodes read.
    pub nodes: u64,
    /// Data blocks accounted for (`check`) or read and verified (`scrub`).
    pub blocks: u64,
    /// Everything found; empty is clean.
    pub findings: Vec<Finding>,
    /// Blocks of versions that were given up, since a node that led to them was damaged: reading
    /// them is an error until they are written. Nothing is wrong with the store because of them.
    #[serde(default)]
    pub lost_blocks: u64,
    /// Where they are; of very many only the first.
    #[serde(default)]
    pub lost: Vec<LostRange>,
}

/// What `repair` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    /// Whether nothing was written, but what any opening writes.
    pub is_dry_run: bool,
    /// What was wrong and has been put right, or would be.
    pub mended: Vec<Finding>,
    /// What is left.
    pub left: CheckReport,
}

/// What `repair --salvage` made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageReport {
    /// The new disk.
    pub disk: DiskInfo,
    /// Data of it that could be read.
    pub data_bytes: u64,
    /// What could not: reading it is an error until it is written.
    pub lost_bytes: u64,
    /// Where that is, ascending.
    pub lost: Vec<LostRange>,
}

/// A part of a version that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// The version.
    pub version: String,
    /// Where it begins.
    pub start_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}
