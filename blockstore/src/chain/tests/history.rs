//! Random histories of one chain, cut off by a crash, and the oracle that judges what is left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::kit::{Committed, Owner, Step, contents, stamped};
use crate::addr::{
    BlockAddr, BlockCount, BlockRun, DiskId, Epoch, Nonce, Sequence, VirtualBlock, to_usize,
};
use crate::buffer::BlockBuf;
use crate::chain::{Chain, ChainConfig, ChainFault, ChainStart, Group, Sabotage, Ticket};
use crate::device::{Device, Operation, Runtime};
use crate::mirror::Mirrored;
use crate::record::ChainEntry;
use crate::scan::{Scan, ScanEnd, ScanLimits, ScannedRecord, scan};
use crate::sim::{CrashKind, Mishap, Sim, SimDevice, SimImage, SimRng};
use crate::superblock::PoolRun;

const CLIENTS: u64 = 4;
const STEPS: u64 = 60;
const DISK_BLOCKS: u64 = 24;
const EXTENT: BlockRun = BlockRun { start: BlockAddr::of(3), count: 150 };
const POOL: PoolRun =
    PoolRun { primary: EXTENT.start, mirror: BlockAddr::of(EXTENT.end()), count: EXTENT.count };
const LIVES: usize = 3;

/// How a history breaks the rules on purpose.
#[derive(Clone, Copy, Default)]
pub struct Variant {
    pub sabotage: Sabotage,
    /// Every life's chain has the same nonce.
    pub one_nonce: bool,
    /// In every life one write or one sync fails.
    pub failures: bool,
    /// Every block is kept twice, and after each crash one copy of some blocks rots.
    pub mirrored: bool,
}

/// A promise that was not kept.
#[derive(Debug)]
#[expect(dead_code, reason = "read by whoever looks at the failure")]
pub enum Violation {
    Lost { kind: CrashKind, found: usize, promised: usize },
    TornGroup { entries: usize },
    WrongEntry { found: ChainEntry },
    WrongContents { vba: VirtualBlock },
    EpochsRunBackwards,
    OtherAtSecondSight,
    RequirementLeftBehind,
    FalseDamage { sequence: Sequence },
}

/// What was asked, and what was promised of it (counted in steps).
#[derive(Default)]
struct History {
    steps: Vec<Step>,
    answered: usize,
    flushed: usize,
    next_stamp: u64,
    next_epoch: u64,
    clients_left: u64,
}

/// One history of several lives; returns how many steps it took.
pub fn run(seed: u64, variant: Variant) -> Result<usize, Violation> {
    let sim = Sim::new(seed);
    let mut rng = sim.fork_rng();
    let mut image = SimImage::used_before(BlockCount(2 * EXTENT.end() + 5), seed);
    let mut steps = 0;
    for _ in 0..LIVES {
        let kind = if rng.chance(1, 2) { CrashKind::Kill } else { CrashKind::PowerCut };
        let (history, committed) = live(&sim, image, &mut rng, variant);
        image = sim.crash(kind);
        if variant.mirrored {
            rot_single_copies(&mut image, &mut rng);
        }
        let device = medium(sim.open_device(image), variant);
        // Recovery may crash and begin again: it changes nothing, and finds the same.
        let found = sim.run(judge(&device, &history, committed, kind))?;
        // A recovery that is cut short has synced, and written where it may; the next one finds
        // the same.
        sim.run(device.sync()).expect("no faults here");
        sim.run(scribble(&device, &committed.start, &found, &mut rng));
        let again = sim.run(judge(&device, &history, committed, CrashKind::PowerCut))?;
        if again.records != found.records {
            return Err(Violation::OtherAtSecondSight);
        }
        steps += history.steps.len();
        drop(device);
        image = sim.crash(CrashKind::PowerCut);
    }
    Ok(steps)
}

fn live(sim: &Sim, image: SimImage, rng: &mut SimRng, variant: Variant) -> (History, Committed) {
    let device = sim.open_device(image);
    if variant.failures {
        plan_a_failure(&device, rng);
    }
    let device = medium(device, variant);
    let runtime: Arc<dyn Runtime> = sim.runtime();
    let nonce = if variant.one_nonce { Nonce([7; 16]) } else { Nonce(runtime.random()) };
    let config = config(rng, variant.sabotage);
    let (owner, chain) = Owner::open(&device, &runtime, EXTENT, nonce, config);
    let history = Rc::new(RefCell::new(History { next_epoch: 2, ..History::default() }));
    sim.stop_after(5 + rng.below(700));
    for _ in 0..CLIENTS {
        history.borrow_mut().clients_left += 1;
        let client = Client {
            chain: Arc::clone(&chain),
            owner: Arc::clone(&owner),
            runtime: Arc::clone(&runtime),
            history: Rc::clone(&history),
            rng: rng.fork(),
            may_fail: variant.failures,
        };
        runtime.spawn(Box::pin(client.run()));
    }
    let ended = sim.run_until_stop(async {
        while history.borrow().clients_left > 0 {
            runtime.sleep(Duration::from_millis(1)).await;
        }
        chain.stop().await;
    });
    if ended.is_ok() {
        owner.assert_no_block_is_lost(EXTENT);
    }
    let history = history.take();
    (history, owner.committed())
}

/// The device as the chain sees it.
fn medium(device: Arc<SimDevice>, variant: Variant) -> Arc<dyn Device> {
    if variant.mirrored { Mirrored::new(device, vec![POOL]) } else { device }
}

/// Of no block both copies.
fn rot_single_copies(image: &mut SimImage, rng: &mut SimRng) {
    for index in 0..POOL.count {
        if rng.chance(1, 4) {
            let copy = if rng.chance(1, 2) { POOL.primary } else { POOL.mirror };
            image.damage(copy.plus(index), |block| block[to_usize(rng.below(4096))] ^= 1);
        }
    }
}

fn plan_a_failure(device: &SimDevice, rng: &mut SimRng) {
    let mishap = if rng.chance(1, 4) { Mishap::NoSpace } else { Mishap::Error };
    if rng.chance(1, 4) {
        device.plan(Operation::Sync, rng.below(10), Mishap::Error);
    } else {
        device.plan(Operation::Write, rng.below(120), mishap);
    }
}

/// Small records and few blocks, so that groups need several and reuse is the rule.
fn config(rng: &mut SimRng, sabotage: Sabotage) -> ChainConfig {
    ChainConfig {
        max_inflight: usize::try_from(1 + rng.below(5)).expect("small"),
        small_inflight: usize::try_from(1 + rng.below(3)).expect("small"),
        large_blocks: usize::try_from(1 + rng.below(4)).expect("small"),
        record_blocks: 4,
        sync_after: Duration::from_millis(1 + rng.below(20)),
        sync_bytes: 4096 * (4 + rng.below(60)),
        sabotage,
    }
}

struct Client {
    chain: Arc<Chain>,
    owner: Arc<Owner>,
    runtime: Arc<dyn Runtime>,
    history: Rc<RefCell<History>>,
    rng: SimRng,
    may_fail: bool,
}

impl Client {
    /// Until it has asked for enough, or the chain has failed.
    async fn run(mut self) {
        let outcome = self.ask().await;
        let fails = self.may_fail;
        assert!(fails || outcome.is_ok(), "failed without a failure: {outcome:?}");
        self.history.borrow_mut().clients_left -= 1;
    }

    async fn ask(&mut self) -> Result<(), ChainFault> {
        for _ in 0..STEPS {
            match self.rng.below(20) {
                0..=10 => self.write_one().await?,
                11..=14 => self.write_group().await?,
                15..=16 => self.flush().await?,
                17 => self.owner.commit(),
                18 => self.cut().await?,
                _ => self.runtime.sleep(Duration::from_micros(self.rng.below(3000))).await,
            }
        }
        Ok(())
    }

    fn stamp(&mut self) -> (VirtualBlock, u64) {
        let vba = VirtualBlock::of(self.rng.below(DISK_BLOCKS));
        let mut history = self.history.borrow_mut();
        history.next_stamp += 1;
        (vba, history.next_stamp)
    }

    async fn write_one(&mut self) -> Result<(), ChainFault> {
        let (vba, stamp) = self.stamp();
        let fill = &mut |block: &mut [u8; 4096]| *block = stamped(stamp);
        let ticket = self.chain.stage_block(vba, fill)?;
        let step = Step { zeros: vec![], blocks: vec![(vba, stamp)], requires: vec![] };
        self.await_answer(step, ticket).await
    }

    async fn write_group(&mut self) -> Result<(), ChainFault> {
        let mut step = Step { zeros: vec![], blocks: vec![], requires: vec![] };
        for _ in 0..self.rng.below(10) {
            let block = self.stamp();
            step.blocks.push(block);
        }
        if step.blocks.is_empty() || self.rng.chance(1, 3) {
            let start = self.rng.below(DISK_BLOCKS);
            step.zeros.push(start..start + 1 + self.rng.below(6));
        }
        if self.rng.chance(1, 3) {
            step.requires.push((DiskId(9), Sequence(self.rng.below(1000))));
        }
        let bytes: Vec<_> = step.blocks.iter().map(|(_, stamp)| stamped(*stamp)).collect();
        let blocks: Vec<_> =
            step.blocks.iter().zip(&bytes).map(|((vba, _), bytes)| (*vba, bytes)).collect();
        let group = Group { zeros: &step.zeros, blocks: &blocks, requires: &step.requires };
        let ticket = self.chain.stage_group(&group)?;
        self.await_answer(step, ticket).await
    }

    /// Staging and noting are one breath, so the history's order is the chain's.
    async fn await_answer(&mut self, step: Step, ticket: Ticket) -> Result<(), ChainFault> {
        let count = {
            let mut history = self.history.borrow_mut();
            history.steps.push(step);
            history.steps.len()
        };
        match self.rng.below(10) {
            0..=6 => {
                self.chain.published(ticket).await?;
                let mut history = self.history.borrow_mut();
                history.answered = history.answered.max(count);
            }
            7 => {
                self.chain.durable(ticket).await?;
                let mut history = self.history.borrow_mut();
                history.flushed = history.flushed.max(count);
            }
            // Nobody waits: it happens all the same.
            _ => {}
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ChainFault> {
        let count = self.history.borrow().steps.len();
        self.chain.flush().await?;
        let mut history = self.history.borrow_mut();
        history.flushed = history.flushed.max(count);
        Ok(())
    }

    async fn cut(&mut self) -> Result<(), ChainFault> {
        let epoch = {
            let mut history = self.history.borrow_mut();
            history.next_epoch += 1;
            Epoch::of(history.next_epoch)
        };
        let upto = self.chain.cut(epoch);
        self.chain.published_upto(upto).await?;
        let published = self.owner.published();
        let older =
            |sequence: Sequence, record_epoch: Epoch| (sequence <= upto) == (record_epoch < epoch);
        assert!(
            published.iter().all(|record| older(record.sequence, record.epoch)),
            "a cut separates the epochs"
        );
        Ok(())
    }
}

async fn judge(
    device: &Arc<dyn Device>,
    history: &History,
    committed: Committed,
    kind: CrashKind,
) -> Result<Scan, Violation> {
    let found = scan(device, &committed.start, ScanLimits::default(), &[EXTENT])
        .await
        .expect("no faults here");
    if let ScanEnd::Damaged { sequence, .. } = found.end {
        return Err(Violation::FalseDamage { sequence });
    }
    if kind == CrashKind::Kill {
        let limits = ScanLimits { published: Some(committed.left), ..ScanLimits::default() };
        let told = scan(device, &committed.start, limits, &[EXTENT]).await.expect("no faults here");
        assert_eq!((&told.records, told.end), (&found.records, found.end), "the same, if sooner");
        assert!(!told.searched, "a kill leaves everything that was published");
    }
    let entries = committed.entries + found.records.iter().map(|r| r.entries.len()).sum::<usize>();
    let steps = whole_steps(&history.steps, entries)?;
    let promised = match kind {
        CrashKind::Kill => history.answered.max(history.flushed),
        CrashKind::PowerCut => history.flushed,
    };
    if steps < promised {
        return Err(Violation::Lost { kind, found: steps, promised });
    }
    judge_entries(&found, &history.steps[..steps], committed)?;
    judge_contents(device, &found, &contents(&history.steps[..steps])).await?;
    Ok(found)
}

/// What a recovery may do to a store before it has committed anything.
async fn scribble(device: &Arc<dyn Device>, start: &ChainStart, found: &Scan, rng: &mut SimRng) {
    let mut needed = found.blocks_needed(start);
    needed.extend(replay(found).into_values());
    for at in EXTENT.blocks().filter(|at| !needed.contains(at)) {
        let mut garbage = BlockBuf::zeroed(1);
        rng.fill(&mut garbage);
        device.write(at, garbage.share()).await.expect("no faults here");
    }
}

fn replay(found: &Scan) -> BTreeMap<VirtualBlock, BlockAddr> {
    let mut overlay = BTreeMap::new();
    for entry in found.records.iter().flat_map(|record| &record.entries) {
        match entry {
            ChainEntry::Data { vba, addr, .. } => {
                overlay.insert(*vba, *addr);
            }
            ChainEntry::Zero { range } => {
                overlay.retain(|vba: &VirtualBlock, _| !range.contains(&vba.raw()));
            }
            ChainEntry::Require { .. } => {}
        }
    }
    overlay
}

/// How many steps have so many entries; none may be there in part.
fn whole_steps(steps: &[Step], entries: usize) -> Result<usize, Violation> {
    let mut left = entries;
    for (index, step) in steps.iter().enumerate() {
        if left == 0 {
            return Ok(index);
        }
        left = left.checked_sub(step.entries()).ok_or(Violation::TornGroup { entries })?;
    }
    Ok(steps.len())
}

fn judge_entries(found: &Scan, steps: &[Step], committed: Committed) -> Result<(), Violation> {
    let mut expected = steps.iter().flat_map(expected_entries).skip(committed.entries);
    for entry in found.records.iter().flat_map(|record| &record.entries) {
        let same = match (expected.next(), entry) {
            (Some(Expected::Data(a)), ChainEntry::Data { vba, .. }) => a == *vba,
            (Some(Expected::Other(a)), b) => a == *b,
            _ => false,
        };
        if !same {
            return Err(Violation::WrongEntry { found: entry.clone() });
        }
    }
    if !found.records.is_sorted_by_key(|record| record.epoch) {
        return Err(Violation::EpochsRunBackwards);
    }
    let requires = |record: &&ScannedRecord| {
        record.entries.iter().any(|entry| matches!(entry, ChainEntry::Require { .. }))
    };
    let last = found.records.iter().rev().find(requires).map(|record| record.sequence);
    let covered = |record: &ScannedRecord| last.is_none_or(|last| record.synced_upto >= last);
    let after =
        found.records.iter().filter(|record| last.is_some_and(|last| record.sequence > last));
    if after.into_iter().all(covered) { Ok(()) } else { Err(Violation::RequirementLeftBehind) }
}

enum Expected {
    Data(VirtualBlock),
    Other(ChainEntry),
}

fn expected_entries(step: &Step) -> Vec<Expected> {
    let zeros = step.zeros.iter().map(|range| ChainEntry::Zero { range: range.clone() });
    let blocks = step.blocks.iter().map(|(vba, _)| Expected::Data(*vba));
    let requires = step.requires.iter();
    let requires = requires.map(|&(disk, sequence)| ChainEntry::Require { disk, sequence });
    zeros.map(Expected::Other).chain(blocks).chain(requires.map(Expected::Other)).collect()
}

/// Replays what was found and reads every block that it maps.
async fn judge_contents(
    device: &Arc<dyn Device>,
    found: &Scan,
    model: &BTreeMap<VirtualBlock, u64>,
) -> Result<(), Violation> {
    for (vba, addr) in replay(found) {
        let stamp = model.get(&vba).copied();
        if !reads_as(device, addr, stamp.map(stamped)).await {
            return Err(Violation::WrongContents { vba });
        }
    }
    Ok(())
}

/// Whether either copy does; the tree's readers know by the CRC.
async fn reads_as(device: &Arc<dyn Device>, addr: BlockAddr, expected: Option<[u8; 4096]>) -> bool {
    let same = |buf: &BlockBuf| expected.is_some_and(|expected| buf[..] == expected[..]);
    if same(&device.read(addr, 1).await.expect("no faults here")) {
        return true;
    }
    match device.read_mirror(addr, 1) {
        Some(second) => same(&second.await.expect("no faults here")),
        None => false,
    }
}
