//! Snapshots, one or many at one instant; sealing.
//!
//! The instant: the states of all member disks are locked at once, so no record of any of them is
//! published, and no write answered, between the first cut and the last. Then (1) the records up
//! to each cut reach the device, (2) one catalogue commit names them all and requires those
//! records, (3) one sync makes everything durable together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bough_blockstore::{Chain, ChainFault, DiskId, Epoch, Sequence};

use super::find::{disk_row, snapshot_row};
use super::hide::queue_reclaim;
use super::{Engine, EngineError};
use crate::catalogue::{Rows, VersionId, VersionKind, VersionRow};
use crate::disk::{Disk, Pending, Slot};
use crate::disk0::{Commit, Need as PoolNeed};
use crate::info::VersionInfo;
use crate::names::{DiskName, SnapshotName};

/// One snapshot to be made.
struct Wanted {
    /// `None` for one that nobody can name: a reader's.
    label: Option<String>,
    version: VersionId,
}

/// One disk of a group.
struct Member {
    disk: Arc<Disk>,
    wanted: Vec<Wanted>,
    /// The head's epochs: before, and after each snapshot.
    epochs: Vec<Epoch>,
    cut: Option<Cut>,
}

/// Where a live chain was cut.
struct Cut {
    chain: Arc<Chain>,
    sequence: Sequence,
}

impl Engine {
    /// Takes all of `targets` at one instant, all or nothing. Each holds every write answered
    /// before this call.
    ///
    /// # Errors
    /// Where a disk is missing or halted, or a name is taken.
    pub async fn snapshot(
        &self,
        targets: &[SnapshotName],
    ) -> Result<Vec<VersionInfo>, EngineError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = targets.iter().find(|name| !seen.insert(*name)) {
            return Err(EngineError::NamedTwice { name: twice.to_string() });
        }
        let mut labels: BTreeMap<&DiskName, Vec<Option<String>>> = BTreeMap::new();
        for target in targets {
            labels.entry(&target.disk).or_default().push(Some(target.label().to_owned()));
        }
        let groups: Vec<_> = labels.into_iter().map(|(d, l)| (d.clone(), l)).collect();
        self.take_snapshots(&groups).await?;
        let mut infos = Vec::with_capacity(targets.len());
        for target in targets {
            infos.push(self.version_info(&target.clone().into()).await?);
        }
        Ok(infos)
    }

    /// A snapshot without a name, pinned once. It is queued for the reclaimer from the start, so
    /// that it goes even where its reader dies with the process.
    pub(super) async fn anonymous_snapshot(
        &self,
        disk: &DiskName,
    ) -> Result<VersionId, EngineError> {
        let made = self.take_snapshots(&[(disk.clone(), vec![None])]).await?;
        made.first().copied().ok_or(EngineError::Closed)
    }

    async fn take_snapshots(
        &self,
        groups: &[(DiskName, Vec<Option<String>>)],
    ) -> Result<Vec<VersionId>, EngineError> {
        loop {
            let mut members = self.members(groups).await?;
            let mut commit = self.store().catalogue.begin(PoolNeed::Ordinary).await?;
            self.number_snapshots(&mut commit, &mut members, groups).await?;
            let count: usize = members.iter().map(|member| member.wanted.len()).sum();
            commit.make_room(2 * count + 4 * members.len() + 16).await?;
            if !cut_all(&mut members)? {
                drop(commit);
                for member in &members {
                    member.disk.settled().await?;
                }
                continue;
            }
            let unnamed = members.iter().flat_map(|m| &m.wanted).filter(|w| w.label.is_none());
            let unnamed: Vec<VersionId> = unnamed.map(|wanted| wanted.version).collect();
            unnamed.iter().for_each(|version| self.pin(*version));
            if let Err(error) = self.commit_snapshots(commit, &members).await {
                unnamed.iter().for_each(|version| self.unpin(*version));
                forget_cuts(&members);
                return Err(error);
            }
            let made = members.iter().flat_map(|member| &member.wanted);
            return Ok(made.map(|wanted| wanted.version).collect());
        }
    }

    async fn members(
        &self,
        groups: &[(DiskName, Vec<Option<String>>)],
    ) -> Result<Vec<Member>, EngineError> {
        let mut members = Vec::with_capacity(groups.len());
        for (name, labels) in groups {
            let count = u64::try_from(labels.len()).unwrap_or(u64::MAX);
            let first = self.new_epochs(count).await?;
            let epochs = (0..count).map(|n| first.plus(n)).collect();
            let disk = self.disk(name).await?;
            members.push(Member { disk, wanted: Vec::new(), epochs, cut: None });
        }
        // In the order in which everybody locks.
        members.sort_by_key(|member| member.disk.id());
        Ok(members)
    }

    async fn number_snapshots(
        &self,
        commit: &mut Commit<'_>,
        members: &mut [Member],
        groups: &[(DiskName, Vec<Option<String>>)],
    ) -> Result<(), EngineError> {
        let mut rows = Rows::new(commit);
        for (name, labels) in groups {
            let disk = disk_row(&rows, name).await?;
            let Some(member) = members.iter_mut().find(|m| m.disk.id() == disk.id) else {
                return Err(EngineError::NoSuchDisk { name: name.to_string() });
            };
            for label in labels {
                if let Some(label) = label
                    && rows.find_snapshot(disk.id, label).await?.is_some()
                {
                    return Err(EngineError::Exists { name: format!("{name}@{label}") });
                }
                let version = rows.new_version_id().await?;
                member.wanted.push(Wanted { label: label.clone(), version });
            }
        }
        Ok(())
    }

    async fn commit_snapshots(
        &self,
        mut commit: Commit<'_>,
        members: &[Member],
    ) -> Result<(), EngineError> {
        let mut requires: Vec<(DiskId, Sequence)> = Vec::new();
        for member in members {
            if let Some(cut) = &member.cut {
                cut.chain
                    .published_upto(cut.sequence)
                    .await
                    .map_err(|fault| member.error(fault))?;
                requires.push((member.disk.id(), cut.sequence));
            }
            self.put_snapshots(&mut commit, member).await?;
        }
        commit.stage(&requires).await?.durable().await?;
        Ok(())
    }

    /// The snapshots take over the head's place on the path, one after the other.
    async fn put_snapshots(
        &self,
        commit: &mut Commit<'_>,
        member: &Member,
    ) -> Result<(), EngineError> {
        let mut rows = Rows::new(commit);
        let head_id = member.disk.lock().head;
        let mut head = rows.version(head_id).await?;
        for (wanted, &next_epoch) in member.wanted.iter().zip(&member.epochs) {
            let snapshot = VersionRow {
                id: wanted.version,
                kind: VersionKind::Snapshot,
                label: wanted.label.clone(),
                uuid: self.new_uuid(),
                pending: member.cut.is_some(),
                sealed: false,
                hidden: wanted.label.is_none(),
                created_unix: self.store().runtime.unix_seconds(),
                ..head.clone()
            };
            rows.put_version(&snapshot).await?;
            head.epoch = next_epoch;
            head.parent = Some(snapshot.id);
            head.parent_uuid = Some(snapshot.uuid);
            if member.cut.is_none() {
                head.owned_blocks = 0;
            }
            rows.put_version(&head).await?;
        }
        for wanted in member.wanted.iter().filter(|wanted| wanted.label.is_none()) {
            queue_reclaim(commit, wanted.version).await?;
        }
        Ok(())
    }

    /// Seals a snapshot (it cannot be deleted), or unseals it.
    ///
    /// # Errors
    /// Where there is no such snapshot.
    pub async fn set_sealed(
        &self,
        name: &SnapshotName,
        sealed: bool,
    ) -> Result<VersionInfo, EngineError> {
        let _verbs = self.inner.verbs.lock().await;
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let (mut disk, mut version) = snapshot_row(&rows, name).await?;
        version.sealed = sealed;
        rows.put_version(&version).await?;
        disk.newest_sealed = self.newest_sealed(&rows, &disk).await?;
        rows.put_disk(&disk).await?;
        commit.stage(&[]).await?.durable().await?;
        self.version_info(&name.clone().into()).await
    }

    async fn newest_sealed(
        &self,
        rows: &Rows<'_, Commit<'_>>,
        disk: &crate::catalogue::DiskRow,
    ) -> Result<Option<VersionId>, EngineError> {
        let mut before = Epoch::MAX;
        while let Some(version) = rows.version_before(disk.id, before).await? {
            if version.sealed && !version.hidden {
                return Ok(Some(version.id));
            }
            before = version.epoch;
        }
        Ok(None)
    }
}

impl Member {
    fn error(&self, fault: ChainFault) -> EngineError {
        self.disk.chain_error(fault).into()
    }
}

/// Cuts every chain at one instant; `false` where a chain is just being ended: try again then.
fn cut_all(members: &mut [Member]) -> Result<bool, EngineError> {
    let disks: Vec<Arc<Disk>> = members.iter().map(|member| Arc::clone(&member.disk)).collect();
    let mut states: Vec<_> = disks.iter().map(|disk| disk.lock()).collect();
    for (disk, state) in disks.iter().zip(&states) {
        match &state.slot {
            Slot::Closing => return Ok(false),
            Slot::Halted(_) | Slot::Gone => return Err(disk.refusal(state).into()),
            Slot::Live(chain) => {
                if let Some(fault) = chain.fault() {
                    return Err(disk.chain_error_locked(state, &fault).into());
                }
            }
            Slot::Idle => {}
        }
    }
    for (member, state) in members.iter_mut().zip(&mut states) {
        let mut epoch = state.epoch;
        if let Slot::Live(chain) = &state.slot {
            let chain = Arc::clone(chain);
            let last = member.epochs.last().copied().unwrap_or(epoch);
            let sequence = chain.cut(last);
            for (wanted, &next) in member.wanted.iter().zip(&member.epochs) {
                state.pending.push(Pending { version: wanted.version, epoch, cut: sequence });
                epoch = next;
            }
            member.cut = Some(Cut { chain, sequence });
        }
        state.epoch = member.epochs.last().copied().unwrap_or(state.epoch);
    }
    Ok(true)
}

/// The commit did not happen: the records after the cut belong to the head as those before do.
fn forget_cuts(members: &[Member]) {
    for member in members {
        let mut state = member.disk.lock();
        state.pending.retain(|p| !member.wanted.iter().any(|w| w.version == p.version));
    }
}
