//! Scrubbing: every block of every version is read and verified, at a bounded rate.

use std::time::Duration;

use bough_blockstore::{BlockAddr, Epoch};

use super::{Engine, EngineError};
use crate::catalogue::{Rows, VersionId, VersionKind};
use crate::disk0::{Copies, DamagedCopy, Outcome};
use crate::info::{CheckReport, Finding, Severity};
use crate::node::{Entry, Node, Root};
use crate::path::Position;
use crate::walk::{Found, Onward, walk};

const PAGE_ROWS: usize = 64;

/// How to scrub.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// At most so many bytes are read in a second.
    pub bytes_per_second: Option<u64>,
}

/// How far something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do, as far as is known now.
    pub total_bytes: u64,
}

impl Engine {
    /// Reads and verifies all data. Guests go on; what is written meanwhile may be left out.
    ///
    /// # Errors
    /// Where the catalogue cannot be read: damage is in the report.
    pub async fn scrub(
        &self,
        options: ScrubOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckReport, EngineError> {
        let mut report = CheckReport::default();
        let copies = self.store().catalogue.scrub(Copies::Mend).await?;
        report.findings.extend(copies.iter().map(copy_finding));
        let mut from = VersionId(0);
        let mut pace = Pace::new(self, options);
        loop {
            let page = {
                let mut view = self.store().catalogue.read().await;
                Rows::new(&mut view).list_all_versions(from, PAGE_ROWS).await?
            };
            for row in page.iter().filter(|row| !row.hidden && !row.pending) {
                self.scrub_version(row.id, &mut report, &mut pace, progress).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.id.0 + 1),
                _ => return Ok(report),
            }
        }
    }

    async fn scrub_version(
        &self,
        id: VersionId,
        report: &mut CheckReport,
        pace: &mut Pace<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), EngineError> {
        // What stands in the tree from here on stays readable until the gate is left.
        let _reading = self.store().gate.enter();
        let Some((name, parent_epoch, root)) = self.scrub_subject(id).await? else {
            return Ok(());
        };
        report.versions += 1;
        let (mut owned, mut findings): (Vec<(Position, Entry)>, Vec<Finding>) = Default::default();
        walk(&self.store().cache, root, |found| match found {
            Found::Entry { entry, .. } if entry.birth() <= parent_epoch => Onward::Past,
            Found::Entry { position, entry } => {
                owned.push((position, entry));
                Onward::Down
            }
            // Below it nothing can be reached; itself it is verified with the others.
            Found::Unreadable { .. } => Onward::Past,
        })
        .await;
        let total_bytes = self.store().space().counts().used * 4096;
        for (position, entry) in owned {
            if let Some(addr) = entry.pointer()
                && let Err(message) = self.verify(addr, position, &entry).await
            {
                findings.push(finding(&name, Some(addr), message));
            }
            match position.level {
                0 => report.blocks += 1,
                _ => report.nodes += 1,
            }
            pace.spent(4096).await;
            if position.level == 0 && report.blocks.is_multiple_of(1024) {
                progress(Progress { done_bytes: report.blocks * 4096, total_bytes });
            }
        }
        report.findings.extend(findings);
        Ok(())
    }

    /// Looks at the medium itself: a node in memory says nothing about it.
    pub(super) async fn verify(
        &self,
        addr: BlockAddr,
        position: Position,
        entry: &Entry,
    ) -> Result<(), String> {
        let read = self.store().device.read(addr, 1).await;
        let block = read.map_err(|error| format!("{position} cannot be read: {error}"))?;
        if position.level > 0 {
            let node = Node::decode(block.block(0), position, entry);
            return node.map(drop).map_err(|fault| format!("its node at {position}: {fault}"));
        }
        if crc32fast::hash(block.block(0)) != entry.crc() {
            return Err(format!("its block {} is not what was written", position.index));
        }
        Ok(())
    }

    /// Name, epoch of what it shares with others, and tree; none where it has been deleted since
    /// it was listed.
    async fn scrub_subject(
        &self,
        id: VersionId,
    ) -> Result<Option<(String, Epoch, Root)>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let Some(row) = rows.get_version(id).await?.filter(|row| !row.hidden) else {
            return Ok(None);
        };
        let disk = rows.get_disk(row.disk).await?;
        let disk = disk.map_or_else(|| format!("disk {}", row.disk), |disk| disk.name.to_string());
        let name = match (&row.label, row.kind) {
            (Some(label), VersionKind::Snapshot) => format!("{disk}@{label}"),
            _ => disk,
        };
        // Hidden versions are not scrubbed for themselves: what they hold that others read is
        // read with the first that is not hidden.
        let mut version = row.clone();
        while let Some(parent) = rows.parent_of(&version).await? {
            if !parent.hidden && !parent.pending {
                return Ok(Some((name, parent.epoch, row.root)));
            }
            version = parent;
        }
        Ok(Some((name, Epoch::ZERO, row.root)))
    }
}

pub(super) fn copy_finding(copy: &DamagedCopy) -> Finding {
    let message = match copy.outcome {
        Outcome::Mended => "a copy of part of the catalogue; written again from the other one",
        Outcome::Lost => "both copies of part of the catalogue are damaged",
    };
    Finding {
        severity: Severity::Corruption,
        version: None,
        block: copy.block.map(BlockAddr::raw),
        message: message.to_owned(),
    }
}

fn finding(version: &str, block: Option<BlockAddr>, message: String) -> Finding {
    Finding {
        severity: Severity::Corruption,
        version: Some(version.to_owned()),
        block: block.map(BlockAddr::raw),
        message,
    }
}

/// Keeps to a rate.
struct Pace<'a> {
    engine: &'a Engine,
    options: ScrubOptions,
    began: Duration,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(engine: &'a Engine, options: ScrubOptions) -> Self {
        let began = engine.store().runtime.now();
        Self { engine, options, began, bytes: 0 }
    }

    async fn spent(&mut self, bytes: u64) {
        self.bytes += bytes;
        let Some(rate) = self.options.bytes_per_second else { return };
        let due = Duration::from_secs_f64(to_f64(self.bytes) / to_f64(rate.max(1)));
        let runtime = &self.engine.store().runtime;
        let elapsed = runtime.now().saturating_sub(self.began);
        // A sleep for every block would be a wake-up for every block.
        if due > elapsed + Duration::from_millis(20) {
            runtime.sleep(due - elapsed).await;
        }
    }
}

#[allow(clippy::cast_precision_loss)] // a rate, not an account
fn to_f64(value: u64) -> f64 {
    value as f64
}
