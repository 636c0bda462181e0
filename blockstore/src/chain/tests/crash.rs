//! Crashes at any moment of random histories: everything promised is there, nothing else is, and
//! what is there is a prefix. And the chains that break a rule are found out.

use super::history::{Variant, run};
use crate::chain::Sabotage;

const HISTORIES: u64 = 120;

#[test]
fn what_was_answered_survives_a_kill_and_what_was_flushed_a_power_cut() {
    assert_kept("no failures", Variant::default());
}

#[test]
fn promises_made_before_a_failed_write_or_sync_are_kept() {
    assert_kept("a failure in each", Variant { failures: true, ..Variant::default() });
}

#[test]
fn a_mirrored_chain_survives_the_rot_of_single_copies() {
    assert_kept("mirrored", Variant { mirrored: true, ..Variant::default() });
}

fn assert_kept(what: &str, variant: Variant) {
    let mut steps = 0;
    for seed in 0..HISTORIES {
        match run(seed, variant) {
            Ok(more) => steps += more,
            Err(violation) => panic!("seed {seed}: {violation:?}"),
        }
    }
    eprintln!("{what}: {HISTORIES} histories of three lives, {steps} steps");
    assert!(steps > 10_000, "the histories reach deep enough to mean something");
}

/// How many histories it takes until the broken chain is caught.
fn histories_until_caught(variant: Variant) -> u64 {
    (0..3000).find(|seed| run(*seed, variant).is_err()).expect("the broken chain was never caught")
}

fn assert_caught(what: &str, variant: Variant) {
    let count = histories_until_caught(variant) + 1;
    eprintln!("{what}: caught after {count} histories");
}

#[test]
fn reuse_after_one_sync_is_caught() {
    let sabotage = Sabotage::ReuseAfterOneSync;
    assert_caught("reuse after one sync", Variant { sabotage, ..Variant::default() });
}

#[test]
fn answering_out_of_order_is_caught() {
    let sabotage = Sabotage::AnswerOutOfOrder;
    assert_caught("answers out of order", Variant { sabotage, ..Variant::default() });
}

#[test]
fn a_sync_left_out_is_caught() {
    let sabotage = Sabotage::SkipSync;
    assert_caught("a sync left out", Variant { sabotage, ..Variant::default() });
}

#[test]
fn a_nonce_used_twice_is_caught() {
    assert_caught("a nonce used twice", Variant { one_nonce: true, ..Variant::default() });
}
