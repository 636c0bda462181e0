//! The theorem that makes branching safe: whatever the order of writes, snapshots, clones,
//! rollbacks, deletes and reclaim steps, a block is freed exactly when no version has it any more.
//! `PROPTEST_CASES=5000` makes it a long run.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::forest::{Event, Flaw, Forest, Span};
use super::medium::Violation;

/// Sixteen nodes at most: nearly every read is a miss.
const TINY_CACHE: u64 = 1;
const CACHE: u64 = 8 << 20;

/// Mostly where nodes begin and end, and in three subtrees.
fn block() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..12_u64, 1 => 250..262_u64, 1 => 65_530..65_542_u64, 1 => 0..70_000_u64]
}

fn span() -> impl Strategy<Value = Span> {
    let count = prop_oneof![12 => 1..6_u64, 1 => 100..600_u64, 1 => 60_000..70_000_u64];
    (block(), count, proptest::bool::weighted(0.3)).prop_map(|(start, count, is_zero)| Span {
        start,
        count: if is_zero { count } else { count.min(300) },
        is_zero,
    })
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(5), Just(256), Just(300), Just(65_536), Just(70_000), 1..70_000_u64]
}

fn budget() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 1..4_u64, 2 => 4..60_u64, 1 => Just(10_000)]
}

fn event() -> impl Strategy<Value = Event> {
    let which = 0..8_usize;
    // Mostly one head, so that the same blocks are written in one epoch after another.
    let head = prop_oneof![3 => Just(0), 1 => 0..4_usize];
    prop_oneof![
        14 => (head.clone(), vec(span(), 1..5))
            .prop_map(|(head, spans)| Event::Write { head, spans }),
        3 => (head.clone(), vec(span(), 1..3), budget())
            .prop_map(|(head, spans, budget)| Event::Clear { head, spans, budget }),
        1 => (head.clone(), size()).prop_map(|(head, blocks)| Event::Resize { head, blocks }),
        4 => head.clone().prop_map(|head| Event::Snapshot { head }),
        1 => which.clone().prop_map(|snapshot| Event::Clone { snapshot }),
        1 => head.clone().prop_map(|head| Event::Rollback { head }),
        1 => which.clone().prop_map(|version| Event::Delete { version }),
        3 => head.prop_map(|head| Event::Forget { head }),
        9 => (which, budget()).prop_map(|(version, budget)| Event::Reclaim { version, budget }),
    ]
}

fn run(events: &[Event], blocks: u64, cache: u64) -> Result<(), Violation> {
    let mut forest = Forest::new(blocks, cache, Flaw::None);
    for (number, event) in events.iter().enumerate() {
        forest.happen(event)?;
        if number % 3 == 0 {
            forest.check()?;
        }
    }
    forest.drain()?;
    forest.check()
}

/// Without a look after each event: a flaw leaves its traces to the end.
fn run_flawed(events: &[Event], flaw: Flaw) -> Result<(), Violation> {
    let mut forest = Forest::new(70_000, CACHE, flaw);
    for event in events {
        forest.happen(event)?;
    }
    forest.drain()?;
    forest.check()
}

proptest! {
    #[test]
    fn blocks_are_freed_exactly_when_no_version_has_them(
        events in vec(event(), 1..150),
        blocks in size(),
    ) {
        let result = run(&events, blocks, CACHE);
        prop_assert!(result.is_ok(), "{result:?}");
    }

    #[test]
    fn a_tiny_cache_changes_nothing(events in vec(event(), 1..30), blocks in size()) {
        let result = run(&events, blocks, TINY_CACHE);
        prop_assert!(result.is_ok(), "{result:?}");
    }
}

/// How many histories it takes to notice a flaw.
fn histories_until_noticed(flaw: Flaw) -> Option<usize> {
    let mut runner = TestRunner::deterministic();
    let histories = vec(event(), 1..150);
    (1..=2_000).find(|_| {
        let events = histories.new_tree(&mut runner).expect("generates").current();
        run_flawed(&events, flaw).is_err()
    })
}

fn assert_noticed(flaw: Flaw) {
    let after = histories_until_noticed(flaw);
    println!("{flaw:?}: noticed after {after:?} histories");
    assert!(after.is_some(), "{flaw:?} goes unnoticed");
}

#[test]
fn ownership_by_the_current_epoch_is_noticed() {
    assert_noticed(Flaw::OwnedIfBornNow);
}

#[test]
fn a_head_that_ignores_the_cursor_is_noticed() {
    assert_noticed(Flaw::CursorIgnored);
}

#[test]
fn a_head_that_runs_ahead_of_the_cursor_is_noticed() {
    assert_noticed(Flaw::CursorAtEnd);
}

#[test]
fn freeing_before_the_cursor_is_committed_is_noticed() {
    assert_noticed(Flaw::CursorLost);
}

#[test]
fn reclaiming_neighbours_at_once_is_noticed() {
    assert_noticed(Flaw::Neighbours);
}

#[test]
fn reclaiming_without_a_look_at_the_child_is_noticed() {
    assert_noticed(Flaw::ChildForgotten);
}
