//! What a check has come upon: the blocks that are used, and what is wrong.

use std::collections::BTreeMap;

use bough_blockstore::{BLOCK_BYTES_U64, BlockAddr, DiskId, VirtualRange, to_u64};

use crate::btree::Totals;
use crate::catalogue::VersionId;
use crate::info::{CheckReport, Finding, LostRange, Severity};
use crate::space::PAGE_BLOCKS;

/// Findings of each severity that are told; more are only counted.
const FINDINGS_MAX: u64 = 1000;
/// Wrong counts that are remembered for those who are compared with them.
const WRONG_MAX: usize = 1 << 16;

/// See the module's documentation. Its memory is bounded by the store's size (a bit for each
/// block of pages in use) and by constants, never by how many versions there are.
#[derive(Default)]
pub(in crate::engine) struct Tally {
    used: BTreeMap<u64, Box<[u8; 4096]>>,
    pub report: CheckReport,
    /// How many different blocks trees use.
    pub used_blocks: u64,
    /// Something could not be counted: a node that cannot be read, or is used twice.
    pub partial: bool,
    /// By how much too many blocks versions are said to refer to, where that is wrong. Beyond
    /// [`WRONG_MAX`] those who began from one are judged as if it were right.
    wrong: BTreeMap<VersionId, i128>,
    leaks: u64,
    corruptions: u64,
    /// What of it a repair can put right, and how.
    pub mends: Vec<Mend>,
    mendable: Vec<Finding>,
    /// Something else than numbers and bits is wrong.
    pub is_torn: bool,
}

/// What is to be written to put right what was found.
#[derive(Debug)]
pub(in crate::engine) enum Mend {
    /// A page of the space bitmap.
    Bits { index: u64, page: Box<[u8; 4096]> },
    /// Blocks that a version refers to.
    Referenced(VersionId, i64),
    /// Blocks of its own.
    Owned(VersionId, i64),
    /// Versions that began from it.
    Children(VersionId, u64),
    /// Snapshots of a disk.
    Snapshots(DiskId, u64),
    /// Numbers of the store.
    Totals(Totals),
    /// Blocks used.
    Used(u64),
    /// The first numbers that were not given out: of disks, versions, epochs, blocks.
    Next { disk: u64, version: u64, epoch: u64, block: u64 },
}

impl Tally {
    /// `false` where it was marked already.
    pub fn mark(&mut self, addr: BlockAddr) -> bool {
        let (page, bit) = (addr.raw() / PAGE_BLOCKS, addr.raw() % PAGE_BLOCKS);
        let bytes = self.used.entry(page).or_insert_with(|| Box::new([0; 4096]));
        let fresh = !is_set(bytes, bit);
        bytes[byte_of(bit)] |= 1 << (bit % 8);
        self.used_blocks += u64::from(fresh);
        fresh
    }

    /// The marks of one page; they are forgotten.
    pub fn take_page(&mut self, index: u64) -> Box<[u8; 4096]> {
        self.used.remove(&index).unwrap_or_else(|| Box::new([0; 4096]))
    }

    /// The block after the last one marked.
    pub fn used_end(&self) -> u64 {
        let Some((index, bytes)) = self.used.last_key_value() else { return 0 };
        let bit = (0..PAGE_BLOCKS).rev().find(|bit| is_set(bytes, *bit));
        index * PAGE_BLOCKS + bit.map_or(0, |bit| bit + 1)
    }

    pub fn remember_wrong(&mut self, version: VersionId, by: i128) {
        if by != 0 && self.wrong.len() < WRONG_MAX {
            self.wrong.insert(version, by);
        }
    }

    /// By how much a version's count was found to be too high.
    pub fn wrong_by(&self, version: VersionId) -> i128 {
        self.wrong.get(&version).copied().unwrap_or(0)
    }

    /// Holds a number that commits keep against what is there. As reference counts are judged:
    /// one too high only keeps something back, which is a leak; one too low gives away, or
    /// promises, what is in use. Says whether it is wrong.
    pub fn compare(
        &mut self,
        whose: Option<&str>,
        what: &str,
        kept: impl Into<i128>,
        found: impl Into<i128>,
    ) -> bool {
        let (kept, found) = (kept.into(), found.into());
        let severity = match kept.cmp(&found) {
            std::cmp::Ordering::Equal => return false,
            std::cmp::Ordering::Greater => Severity::Leak,
            std::cmp::Ordering::Less => Severity::Corruption,
        };
        let message = format!("{what}: {kept} counted, {found} found");
        self.find_mendable(severity, whose, None, message);
        true
    }

    /// Holds the first of the numbers that are still to be given out against those in use.
    pub fn compare_next(&mut self, what: &str, next: u64, used_end: u64) {
        if next < used_end {
            let last = used_end - 1;
            let message = format!("{what}: {next} is to come next, and {last} is in use");
            self.find_mendable(Severity::Corruption, None, None, message);
        }
    }

    /// Something that no repair can put right.
    pub fn find(
        &mut self,
        severity: Severity,
        version: Option<&str>,
        block: Option<BlockAddr>,
        message: String,
    ) {
        self.is_torn |= severity == Severity::Corruption;
        if self.is_worth_telling(severity) {
            self.report.findings.push(finding(severity, version, block, message));
        }
    }

    /// Something that one of the mends puts right.
    pub fn find_mendable(
        &mut self,
        severity: Severity,
        version: Option<&str>,
        block: Option<BlockAddr>,
        message: String,
    ) {
        if self.is_worth_telling(severity) {
            self.mendable.push(finding(severity, version, block, message));
        }
    }

    fn is_worth_telling(&mut self, severity: Severity) -> bool {
        // Each severity by itself: no number of leaks may hide a corruption.
        let told = match severity {
            Severity::Leak => &mut self.leaks,
            Severity::Corruption => &mut self.corruptions,
        };
        *told += 1;
        *told <= FINDINGS_MAX
    }

    /// Blocks of a version were given up; it has `blocks` in all.
    pub fn note_lost(&mut self, version: &str, span: &VirtualRange, blocks: u64) {
        let range = span.start.min(blocks)..span.end.min(blocks);
        if range.is_empty() {
            return;
        }
        self.report.lost_blocks += range.end - range.start;
        let (start_bytes, length_bytes) =
            (range.start * BLOCK_BYTES_U64, (range.end - range.start) * BLOCK_BYTES_U64);
        let is_told = to_u64(self.report.lost.len()) < FINDINGS_MAX;
        match self.report.lost.last_mut() {
            Some(last)
                if last.version == version
                    && last.start_bytes + last.length_bytes == start_bytes =>
            {
                last.length_bytes += length_bytes;
            }
            _ if is_told => {
                let version = version.to_owned();
                self.report.lost.push(LostRange { version, start_bytes, length_bytes });
            }
            _ => {}
        }
    }

    /// What was found, and apart from it what of that the mends put right.
    pub fn split(mut self) -> (CheckReport, Vec<Finding>, Vec<Mend>) {
        let (mendable, mends) =
            (std::mem::take(&mut self.mendable), std::mem::take(&mut self.mends));
        (self.report, mendable, mends)
    }

    pub fn finish(mut self) -> CheckReport {
        self.report.findings.append(&mut self.mendable);
        let counts = [(Severity::Corruption, self.corruptions), (Severity::Leak, self.leaks)];
        for (severity, count) in counts.into_iter().filter(|(_, count)| *count > FINDINGS_MAX) {
            let message = format!("{} more like this are not listed", count - FINDINGS_MAX);
            self.report.findings.push(Finding { severity, version: None, block: None, message });
        }
        self.report
    }
}

fn finding(
    severity: Severity,
    version: Option<&str>,
    block: Option<BlockAddr>,
    message: String,
) -> Finding {
    let (version, block) = (version.map(str::to_owned), block.map(BlockAddr::raw));
    Finding { severity, version, block, message }
}

fn byte_of(bit: u64) -> usize {
    bough_blockstore::to_usize(bit / 8)
}

pub(super) fn is_set(bytes: &[u8; 4096], bit: u64) -> bool {
    bytes[byte_of(bit)] & (1 << (bit % 8)) != 0
}
