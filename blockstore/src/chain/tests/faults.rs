//! Devices that fail, fill up, lie and rot.

use std::sync::Arc;
use std::time::Duration;

use super::kit::Committed;
use super::order::{Bench, EXTENT};
use crate::addr::{BlockAddr, BlockRun, Epoch, Nonce, Sequence};
use crate::chain::{ChainConfig, ChainFault, ChainStart};
use crate::device::{Device, Operation};
use crate::record::{ChainEntry, GroupEnd, RecordHeader};
use crate::scan::{Scan, ScanEnd, ScanError, ScanLimits, scan};
use crate::sim::{CrashKind, Mishap};

/// Writes one record after the other, each flushed; the next header tells of the flush.
fn write_flushed(bench: &Bench, count: u64) {
    bench.sim.run(async {
        for n in 0..count {
            bench.write(n, n);
            bench.chain.flush().await.expect("healthy");
        }
    });
}

/// Crashes, does `damage` to a block, and recovers.
fn scan_after(bench: &Bench, damage: Option<BlockAddr>) -> Result<Scan, ScanError> {
    let start = bench.owner.committed().start;
    let mut image = bench.sim.crash(CrashKind::PowerCut);
    if let Some(at) = damage {
        image.damage(at, |block| block[100] ^= 4);
    }
    let device: Arc<dyn Device> = bench.sim.open_device(image);
    bench.sim.run(scan(&device, &start, ScanLimits::default(), &[EXTENT]))
}

/// Where a record's header and its (only) data block lie: side by side, in an empty extent.
fn header_of(sequence: u64) -> BlockAddr {
    EXTENT.start.plus(2 * (sequence - 1))
}

#[test]
fn a_failed_write_halts_the_chain_and_keeps_what_was_answered() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 3);
    bench.device.plan(Operation::Write, 0, Mishap::Error);
    bench.sim.run(async {
        let ticket = bench.write(9, 9);
        let outcome = bench.chain.published(ticket).await;
        assert!(matches!(outcome, Err(ChainFault::Halted(_))));
        assert!(matches!(bench.try_write(1, 1), Err(ChainFault::Halted(_))));
        assert!(matches!(bench.chain.flush().await, Err(ChainFault::Halted(_))));
        bench.chain.stop().await;
    });
    bench.owner.assert_no_block_is_lost(EXTENT);
    let found = scan_after(&bench, None).expect("readable");
    assert!(found.records.len() >= 3);
    assert_eq!(found.end, ScanEnd::Clean);
}

#[test]
fn records_after_a_failed_one_are_not_answered_even_if_they_land() {
    let bench = Bench::new(ChainConfig { small_inflight: 4, ..ChainConfig::default() });
    bench.device.plan(Operation::Write, 1, Mishap::Error);
    bench.sim.run(async {
        bench.device.freeze();
        let mut tickets = Vec::new();
        for n in 0..4 {
            tickets.push(bench.write_alone(n, n).await);
        }
        bench.device.thaw();
        bench.chain.stop().await;
        let outcomes: Vec<_> =
            tickets.iter().map(|t| t.outcome().expect("ended").is_ok()).collect();
        assert_eq!(outcomes, [true, false, false, false]);
    });
    assert_eq!(bench.owner.published().len(), 1);
    bench.owner.assert_no_block_is_lost(EXTENT);
}

#[test]
fn a_full_host_breaks_the_chain_off_and_says_so() {
    let bench = Bench::new(ChainConfig::default());
    bench.device.plan(Operation::Write, 0, Mishap::NoSpace);
    bench.sim.run(async {
        let ticket = bench.write(0, 0);
        assert!(matches!(bench.chain.published(ticket).await, Err(ChainFault::Broken(_))));
        assert!(matches!(bench.chain.fault(), Some(ChainFault::Broken(_))));
    });
}

#[test]
fn a_failed_sync_is_final_and_never_repeated() {
    let bench = Bench::new(ChainConfig::default());
    bench.device.plan(Operation::Sync, 0, Mishap::Error);
    bench.sim.run(async {
        bench.write(0, 0);
        assert!(matches!(bench.chain.flush().await, Err(ChainFault::SyncFailed(_))));
        assert!(matches!(bench.chain.flush().await, Err(ChainFault::SyncFailed(_))));
        assert!(matches!(bench.try_write(1, 1), Err(ChainFault::SyncFailed(_))));
        bench.runtime.sleep(Duration::from_secs(10)).await;
    });
    assert_eq!(bench.device.stats().syncs, 1);
}

#[test]
fn a_sync_that_fails_after_a_write_did_is_still_told_to_those_who_wait_for_it() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        let first = bench.write(0, 0);
        bench.chain.published(first.clone()).await.expect("healthy");
        bench.device.plan(Operation::Write, 0, Mishap::Error);
        bench.device.plan(Operation::Sync, 0, Mishap::Error);
        let second = bench.write(1, 1);
        bench.chain.published(second).await.expect_err("planned");
        let outcome = bench.chain.durable(first).await;
        assert!(matches!(outcome, Err(ChainFault::SyncFailed(_))));
    });
}

#[test]
fn a_full_store_refuses_one_write_and_takes_the_next_when_there_is_space() {
    let extent = BlockRun { start: EXTENT.start, count: 5 };
    let bench = Bench::in_extent(extent, ChainConfig::default());
    bench.owner.set_full(true);
    bench.sim.run(async {
        for n in 0..2 {
            let ticket = bench.write(n, n);
            bench.chain.published(ticket).await.expect("there are four blocks");
        }
        let ticket = bench.write(2, 2);
        assert!(matches!(bench.chain.published(ticket).await, Err(ChainFault::Full)));
        bench.chain.flush().await.expect("what was taken is safe");
        bench.owner.set_full(false);
        let ticket = bench.write(3, 3);
        bench.chain.published(ticket).await.expect("a commit made room");
        bench.chain.stop().await;
    });
    bench.owner.assert_no_block_is_lost(extent);
}

#[test]
fn a_full_store_goes_on_overwriting_with_the_blocks_it_replaces() {
    let extent = BlockRun { start: EXTENT.start, count: 100 };
    let bench = Bench::in_extent(extent, ChainConfig::default());
    bench.owner.set_full(true);
    let mut taken = 0;
    bench.sim.run(async {
        loop {
            let ticket = bench.write(0, taken);
            if bench.chain.published(ticket).await.is_err() {
                break;
            }
            taken += 1;
        }
    });
    // Two blocks each would have ended it after 49; now mostly headers are left.
    assert!(taken > 60, "only {taken} overwrites");
}

#[test]
fn a_synced_header_that_rots_is_reported_not_taken_for_the_end() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 10);
    let found = scan_after(&bench, Some(header_of(4))).expect("readable");
    assert_eq!(found.records.len(), 3);
    let (at, sequence) = (header_of(4), Sequence(4));
    assert_eq!(found.end, ScanEnd::Damaged { at, sequence });
}

#[test]
fn a_header_write_that_the_device_lost_is_reported() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 3);
    bench.device.plan(Operation::Write, 0, Mishap::Lost);
    write_flushed(&bench, 3);
    let found = scan_after(&bench, None).expect("readable");
    let (at, sequence) = (header_of(4), Sequence(4));
    assert_eq!(found.end, ScanEnd::Damaged { at, sequence });
}

#[test]
fn rot_in_data_known_synced_is_left_to_those_who_read_it() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 10);
    let found = scan_after(&bench, Some(header_of(4).next())).expect("readable");
    assert_eq!(found.records.len(), 10);
    assert_eq!(found.end, ScanEnd::Clean);
    assert_eq!(found.known_synced, Sequence(9));
}

#[test]
fn a_record_not_known_synced_counts_only_with_its_data() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 10);
    let found = scan_after(&bench, Some(header_of(10).next())).expect("readable");
    assert_eq!(found.records.len(), 9);
    assert_eq!(found.end, ScanEnd::Clean);
}

#[test]
fn an_unreadable_header_decides_nothing() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 5);
    let start = bench.owner.committed().start;
    let device = bench.sim.open_device(bench.sim.crash(CrashKind::PowerCut));
    device.make_unreadable(header_of(3));
    let device: Arc<dyn Device> = device;
    let found = bench.sim.run(scan(&device, &start, ScanLimits::default(), &[EXTENT]));
    assert!(matches!(found, Err(ScanError::Device(_))));
}

#[test]
fn an_unreadable_block_that_no_record_needs_is_no_obstacle() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 5);
    let start = bench.owner.committed().start;
    let device = bench.sim.open_device(bench.sim.crash(CrashKind::PowerCut));
    device.make_unreadable(header_of(200));
    device.make_unreadable(header_of(8));
    let device: Arc<dyn Device> = device;
    let found = bench.sim.run(scan(&device, &start, ScanLimits::default(), &[EXTENT]));
    assert_eq!(found.expect("decided").records.len(), 5);
}

/// A header far beyond the end that says that records were synced which are not there.
fn evidence(bench: &Bench, start: &ChainStart, block: &mut [u8; 4096]) {
    RecordHeader {
        sequence: Sequence(30),
        epoch: Epoch::of(1),
        at: header_of(30),
        synced_upto: Sequence(20),
        next_at: header_of(31),
        previous_crc: bench.chain.with_published(|next| next.previous_crc),
        group: GroupEnd::Here,
        entries: vec![ChainEntry::Zero { range: 0..1 }],
    }
    .encode(start.nonce, block);
}

#[test]
fn a_chain_that_is_whole_up_to_what_was_published_is_not_searched_for_more() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 10);
    let Committed { start, left, .. } = bench.owner.committed();
    let mut image = bench.sim.crash(CrashKind::Kill);
    image.damage(header_of(30), |block| evidence(&bench, &start, block));
    let device: Arc<dyn Device> = bench.sim.open_device(image);
    let end_by = |published| {
        let limits = ScanLimits { published, ..ScanLimits::default() };
        bench.sim.run(scan(&device, &start, limits, &[EXTENT])).expect("readable").end
    };
    assert_eq!(end_by(Some(left)), ScanEnd::Clean);
    let damaged = ScanEnd::Damaged { at: header_of(11), sequence: Sequence(11) };
    assert_eq!(end_by(None), damaged);
    let further = ChainStart { sequence: left.sequence.next(), ..left };
    let other = ChainStart { previous_crc: !left.previous_crc, ..left };
    let alien = ChainStart { nonce: Nonce([8; 16]), ..left };
    let earlier = ChainStart { sequence: Sequence(0), ..left };
    for not_it in [further, other, alien, earlier] {
        assert_eq!(end_by(Some(not_it)), damaged, "{not_it:?} is not where it ends");
    }
}

#[test]
fn a_chain_that_ends_before_what_was_published_is_searched() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 10);
    let Committed { start, left, .. } = bench.owner.committed();
    let mut image = bench.sim.crash(CrashKind::Kill);
    image.damage(header_of(5), |block| block[100] ^= 4);
    let device: Arc<dyn Device> = bench.sim.open_device(image);
    let limits = ScanLimits { published: Some(left), ..ScanLimits::default() };
    let found = bench.sim.run(scan(&device, &start, limits, &[EXTENT])).expect("readable");
    assert_eq!(found.end, ScanEnd::Damaged { at: header_of(5), sequence: Sequence(5) });
}

#[test]
fn a_chain_without_end_is_refused() {
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 5);
    let start = bench.owner.committed().start;
    let device: Arc<dyn Device> = bench.sim.open_device(bench.sim.crash(CrashKind::Kill));
    let limits = ScanLimits { max_records: 4, ..ScanLimits::default() };
    let found = bench.sim.run(scan(&device, &start, limits, &[EXTENT]));
    assert!(matches!(found, Err(ScanError::TooLong { max_records: 4 })));
}

#[test]
fn a_guest_that_writes_a_header_of_its_own_chain_cannot_forge_one() {
    // A guest that somehow learned everything but the nonce writes what would be the next header.
    let bench = Bench::new(ChainConfig::default());
    write_flushed(&bench, 2);
    let mut forged = [0; 4096];
    let at = header_of(3);
    RecordHeader {
        sequence: Sequence(3),
        epoch: Epoch::of(1),
        at,
        synced_upto: Sequence(2),
        next_at: at.plus(1),
        previous_crc: bench.chain.with_published(|start| start.previous_crc),
        group: GroupEnd::Here,
        entries: vec![ChainEntry::Zero { range: 0..100 }],
    }
    .encode(Nonce([8; 16]), &mut forged);
    let start = bench.owner.committed().start;
    let mut image = bench.sim.crash(CrashKind::PowerCut);
    image.damage(at, |block| *block = forged);
    let device: Arc<dyn Device> = bench.sim.open_device(image);
    let found = bench.sim.run(scan(&device, &start, ScanLimits::default(), &[EXTENT]));
    assert_eq!(found.expect("readable").records.len(), 2);
}
