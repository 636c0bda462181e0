//! Batching, sharing, and futures that nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use super::kit::{Owner, stamped};
use crate::addr::{BlockAddr, BlockCount, BlockRun, DiskId, Nonce, Sequence, VirtualBlock};
use crate::chain::{Chain, ChainConfig, ChainFault, Group, Ticket};
use crate::device::{Device, Runtime};
use crate::scan::{Scan, ScanEnd, ScanLimits, scan};
use crate::sim::{CrashKind, Sim, SimDevice};

pub const EXTENT: BlockRun = BlockRun { start: BlockAddr::of(2), count: 600 };

/// A chain on a healthy device.
pub struct Bench {
    pub sim: Sim,
    pub device: Arc<SimDevice>,
    pub runtime: Arc<dyn Runtime>,
    pub owner: Arc<Owner>,
    pub chain: Arc<Chain>,
}

impl Bench {
    pub fn new(config: ChainConfig) -> Self {
        Self::in_extent(EXTENT, config)
    }

    pub fn in_extent(extent: BlockRun, config: ChainConfig) -> Self {
        let sim = Sim::new(1);
        let device = sim.create_device(BlockCount(extent.end()));
        let runtime: Arc<dyn Runtime> = sim.runtime();
        let medium: Arc<dyn Device> = device.clone();
        let (owner, chain) = Owner::open(&medium, &runtime, extent, Nonce([9; 16]), config);
        Self { sim, device, runtime, owner, chain }
    }

    pub fn write(&self, vba: u64, stamp: u64) -> Ticket {
        self.try_write(vba, stamp).expect("the chain takes writes")
    }

    pub fn try_write(&self, vba: u64, stamp: u64) -> Result<Ticket, ChainFault> {
        let vba = VirtualBlock::of(vba);
        self.chain.stage_block(vba, &mut |block| *block = stamped(stamp))
    }

    /// Writes a record of its own, and returns once it is under way.
    pub async fn write_alone(&self, vba: u64, stamp: u64) -> Ticket {
        let before = self.chain.stats().inflight;
        let ticket = self.write(vba, stamp);
        while self.chain.stats().inflight == before {
            self.runtime.yield_now().await;
        }
        ticket
    }

    /// Entries that a recovery finds after a power cut, and how it ends.
    pub fn entries_after_power_cut(&self) -> (usize, ScanEnd) {
        let found = self.scan_after_power_cut();
        (found.records.iter().map(|record| record.entries.len()).sum(), found.end)
    }

    fn scan_after_power_cut(&self) -> Scan {
        let start = self.owner.committed().start;
        let image = self.sim.crash(CrashKind::PowerCut);
        let device: Arc<dyn Device> = self.sim.open_device(image);
        let limits = ScanLimits::default();
        self.sim.run(scan(&device, &start, limits, &[EXTENT])).expect("healthy")
    }
}

#[test]
fn what_is_staged_in_one_turn_is_one_record_and_one_device_write() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        let tickets: Vec<_> = (0..32).map(|n| bench.write(n * 7, n)).collect();
        for ticket in tickets {
            bench.chain.published(ticket).await.expect("healthy");
        }
    });
    assert_eq!(bench.owner.published().len(), 1);
    assert_eq!(bench.device.stats().writes, 1);
    assert_eq!(bench.device.stats().blocks_written, 33);
}

#[test]
fn a_full_record_is_on_its_way_before_the_turn_ends() {
    let config = ChainConfig { record_blocks: 8, max_inflight: 2, ..ChainConfig::default() };
    let bench = Bench::new(config);
    bench.sim.run(async {
        // The first grants blocks to take from.
        let first = bench.write(0, 0);
        bench.chain.published(first).await.expect("healthy");
        let tickets: Vec<_> = (1..=20).map(|n| bench.write(n, n)).collect();
        assert_eq!(bench.chain.stats().inflight, 2, "two are full, the third is not");
        let more: Vec<_> = (21..=30).map(|n| bench.write(n, n)).collect();
        assert_eq!(bench.chain.stats().inflight, 2, "no more than two may be under way");
        for ticket in tickets.into_iter().chain(more) {
            bench.chain.published(ticket).await.expect("healthy");
        }
    });
    let counts: Vec<_> =
        bench.owner.published().iter().map(|record| record.entries.len()).collect();
    assert_eq!(counts, [1, 8, 8, 8, 6]);
}

#[test]
fn records_in_flight_are_bounded() {
    let config = ChainConfig { max_inflight: 3, small_inflight: 3, ..ChainConfig::default() };
    let bench = Bench::new(config);
    bench.device.freeze();
    bench.sim.run(async {
        for n in 0..3 {
            bench.write_alone(n, n).await;
        }
        for n in 3..20 {
            bench.write(n, n);
            bench.runtime.yield_now().await;
        }
        assert_eq!(bench.chain.stats().inflight, 3);
        assert_eq!(bench.device.stats().writes, 3);
        bench.device.thaw();
        bench.chain.flush().await.expect("healthy");
    });
    // Three alone, and the rest together.
    assert_eq!(bench.owner.published().len(), 4);
}

#[test]
fn small_records_wait_and_grow_while_others_are_in_flight() {
    let config = ChainConfig { small_inflight: 2, large_blocks: 16, ..ChainConfig::default() };
    let bench = Bench::new(config);
    bench.device.freeze();
    bench.sim.run(async {
        let settle = async || {
            for _ in 0..5 {
                bench.runtime.yield_now().await;
            }
            bench.device.stats().writes
        };
        bench.write_alone(0, 0).await;
        bench.write_alone(1, 1).await;
        (2..17).for_each(|n| drop(bench.write(n, n)));
        assert_eq!(settle().await, 2, "fifteen blocks are a small record");
        drop(bench.write(17, 17));
        assert_eq!(settle().await, 3, "sixteen are not");
        drop(bench.write(18, 18));
        assert_eq!(settle().await, 3);
        bench.device.thaw();
        bench.chain.flush().await.expect("healthy");
    });
    assert_eq!(bench.owner.published().len(), 4);
}

#[test]
fn nothing_is_answered_before_those_before_it_have_landed() {
    let bench = Bench::new(ChainConfig::default());
    bench.device.freeze();
    bench.sim.run(async {
        let first = bench.write_alone(0, 0).await;
        let second = bench.write_alone(1, 1).await;
        assert!(first.outcome().is_none() && second.outcome().is_none());
        bench.device.thaw();
        let second = bench.chain.published(second).await.expect("healthy");
        let first = first.outcome().expect("answered by then").expect("healthy");
        assert!(first < second);
    });
}

#[test]
fn dropped_futures_withdraw_nothing() {
    let bench = Bench::new(ChainConfig::default());
    bench.device.freeze();
    bench.sim.run(async {
        let ticket = bench.write(3, 1);
        drop(bench.chain.published(ticket.clone()));
        let mut flush = Box::pin(bench.chain.flush());
        // Polled once, so that it has begun, and never again.
        std::future::poll_fn(|context| {
            assert!(flush.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(flush);
        drop(ticket);
        bench.device.thaw();
        bench.chain.flush().await.expect("healthy");
    });
    assert_eq!(bench.entries_after_power_cut(), (1, ScanEnd::Clean));
}

#[test]
fn flushes_asked_for_together_share_one_sync() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        for n in 0..10 {
            bench.write(n, n);
            let chain = Arc::clone(&bench.chain);
            bench.runtime.spawn(Box::pin(async move { chain.flush().await.expect("healthy") }));
        }
        bench.chain.flush().await.expect("healthy");
        bench.runtime.sleep(Duration::from_millis(100)).await;
    });
    assert_eq!(bench.device.stats().syncs, 1);
}

#[test]
fn a_flush_of_what_is_already_synced_asks_the_device_nothing() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        bench.chain.flush().await.expect("healthy");
        bench.write(1, 1);
        bench.chain.flush().await.expect("healthy");
        bench.chain.flush().await.expect("healthy");
        bench.runtime.sleep(Duration::from_secs(5)).await;
    });
    assert_eq!(bench.device.stats().syncs, 1);
}

#[test]
fn what_nobody_flushes_is_synced_in_the_background() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        let ticket = bench.write(1, 1);
        bench.chain.published(ticket).await.expect("healthy");
        while bench.chain.stats().unsynced_bytes > 0 {
            bench.runtime.sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(bench.device.stats().syncs, 1);
    assert_eq!(bench.entries_after_power_cut(), (1, ScanEnd::Clean));
}

#[test]
fn a_group_of_many_records_is_published_in_one_go() {
    let bench = Bench::new(ChainConfig { record_blocks: 8, ..ChainConfig::default() });
    let bytes: Vec<_> = (0..100).map(stamped).collect();
    let blocks: Vec<_> = (0..100).map(VirtualBlock::of).zip(&bytes).collect();
    bench.sim.run(async {
        let group = Group { blocks: &blocks, ..Group::default() };
        let ticket = bench.chain.stage_group(&group).expect("healthy");
        while ticket.outcome().is_none() {
            assert!(bench.owner.published().is_empty(), "none before all");
            bench.runtime.yield_now().await;
        }
        assert_eq!(bench.owner.published().len(), 13);
        bench.chain.flush().await.expect("healthy");
    });
    assert_eq!(bench.entries_after_power_cut(), (100, ScanEnd::Clean));
}

#[test]
fn stop_waits_for_what_is_under_way_and_refuses_the_rest() {
    let bench = Bench::new(ChainConfig { max_inflight: 1, ..ChainConfig::default() });
    bench.device.freeze();
    bench.sim.run(async {
        let sent = bench.write_alone(0, 0).await;
        let waiting = bench.write(1, 1);
        let (chain, device) = (Arc::clone(&bench.chain), Arc::clone(&bench.device));
        let runtime = Arc::clone(&bench.runtime);
        bench.runtime.spawn(Box::pin(async move {
            runtime.sleep(Duration::from_millis(1)).await;
            device.thaw();
        }));
        chain.stop().await;
        assert!(matches!(sent.outcome(), Some(Ok(_))));
        assert!(matches!(waiting.outcome(), Some(Err(ChainFault::Stopped))));
        assert!(matches!(bench.try_write(2, 2), Err(ChainFault::Stopped)));
    });
    bench.owner.assert_no_block_is_lost(EXTENT);
}

#[test]
fn a_commit_gives_back_the_headers_and_the_chain_goes_on() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        for n in 0..50 {
            let ticket = bench.write(n, n);
            bench.chain.published(ticket).await.expect("healthy");
        }
        assert_eq!(bench.chain.stats().records, 50);
        bench.owner.commit();
        assert_eq!(bench.chain.stats().records, 0);
        assert_eq!(bench.owner.free_blocks(), 599);
        bench.write(1, 1);
        bench.chain.flush().await.expect("healthy");
    });
    assert_eq!(bench.owner.committed().entries, 50);
    assert_eq!(bench.entries_after_power_cut(), (1, ScanEnd::Clean));
}

#[test]
fn nothing_joins_or_follows_a_requirement_before_it_is_synced() {
    let bench = Bench::new(ChainConfig::default());
    bench.sim.run(async {
        let requires = [(DiskId(4), Sequence(9))];
        let group = Group { requires: &requires, ..Group::default() };
        bench.write(0, 0);
        bench.chain.stage_group(&group).expect("healthy");
        bench.chain.stage_group(&group).expect("healthy");
        let last = bench.write(1, 1);
        bench.chain.published(last).await.expect("healthy");
    });
    let found = bench.scan_after_power_cut();
    let entries: Vec<_> = found.records.iter().map(|record| record.entries.len()).collect();
    assert_eq!(entries[..2], [1, 2]);
    let published = bench.owner.published();
    let lengths: Vec<_> = published.iter().map(|record| record.entries.len()).collect();
    assert_eq!(lengths, [1, 2, 1]);
    assert_eq!(bench.owner.published()[1].sequence, Sequence(2));
    if let Some(third) = found.records.get(2) {
        assert!(third.synced_upto >= Sequence(2));
    }
}
