//! The allocator against a model with one state per block, and what it is to do in plain cases.

mod model;

use crate::space::bitmap::BITMAP_BASE;
use bough_blockstore::{BLOCK_BYTES, BlockAddr, BlockCount, BlockRun, DiskId, VirtualBlock};

use super::bitmap::PAGE_BLOCKS;
use super::*;

const DISK: DiskId = DiskId(1);
const OTHER: DiskId = DiskId(2);
const NO_FLOORS: Floors = Floors { data: 0, overwrite: 0, checkpoint: 0 };

fn run(start: u64, count: u64) -> BlockRun {
    BlockRun { start: BlockAddr::of(start), count }
}

fn config(total: u64, floors: Floors) -> SpaceConfig {
    SpaceConfig {
        total: BlockCount(total),
        used_blocks: 0,
        virgin_from: BlockAddr::of(10),
        reserved: vec![run(0, 10)],
        floors,
    }
}

/// An allocator whose bitmap is loaded, all clear.
fn fresh(total: u64, floors: Floors) -> Space {
    let mut space = Space::new(config(total, floors)).unwrap();
    for page in 0..total.div_ceil(PAGE_BLOCKS) {
        let page = VirtualBlock::of(BITMAP_BASE + page);
        space.load(page, &[0; BLOCK_BYTES]).unwrap();
    }
    space
}

fn grant(space: &mut Space, disk: DiskId, want: u64) -> Option<BlockRun> {
    match space.plan_grant(disk, want, Need::Data) {
        Grant::Extent(run) => {
            space.adopt(run.start, &[]).unwrap();
            Some(run)
        }
        Grant::Full(_) => None,
        Grant::Load(pages) => panic!("{pages:?} are loaded"),
        Grant::Wait => panic!("nothing is being punched"),
    }
}

fn take(space: &mut Space, disk: DiskId, count: u64) -> Vec<BlockAddr> {
    while space.arena_free(disk) < count {
        grant(space, disk, count - space.arena_free(disk)).unwrap();
    }
    let runs = space.take(disk, None, count).unwrap();
    runs.into_iter().flat_map(BlockRun::blocks).collect()
}

/// Frees what was set, as a commit and the end of all readers do.
fn free(space: &mut Space, blocks: &[BlockAddr]) {
    space.commit_bits(&[], blocks).unwrap();
    space.release(blocks);
}

/// Ends a disk's chain: everything taken is set, its extents are dropped.
fn finish(space: &mut Space, disk: DiskId, blocks: &[BlockAddr]) {
    space.commit_bits(blocks, &[]).unwrap();
    let extents = space.close(disk, Which::All);
    space.drop_extents(&extents).unwrap();
}

#[test]
fn grants_double_from_64_kib_to_64_mib() {
    let mut space = fresh(1 << 22, NO_FLOORS);
    let sizes: Vec<u64> = (0..12).map(|_| grant(&mut space, DISK, 1).unwrap().count).collect();
    assert_eq!(sizes[..3], [16, 32, 64]);
    assert_eq!(sizes[10..], [16_384, 16_384]);
}

#[test]
fn grants_shrink_as_the_store_fills() {
    let mut space = fresh(10 + 1600, NO_FLOORS);
    let sizes: Vec<u64> = (0..6).map(|_| grant(&mut space, DISK, 1).unwrap().count).collect();
    assert_eq!(sizes, [16, 32, 64, 93, 87, 81]);
    let mut total: u64 = sizes.iter().sum();
    while let Some(run) = grant(&mut space, DISK, 1) {
        total += run.count;
    }
    assert_eq!(total, 1600, "every block can be had in the end");
}

#[test]
fn blocks_are_taken_right_after_their_header() {
    let mut space = fresh(1000, NO_FLOORS);
    take(&mut space, DISK, 16);
    grant(&mut space, DISK, 100).unwrap();
    let header = space.take(DISK, None, 1).unwrap()[0].start;
    let data = space.take(DISK, Some(header.next()), 20).unwrap();
    assert_eq!(data, [run(header.raw() + 1, 20)]);
}

#[test]
fn a_log_is_written_without_gaps() {
    let mut space = fresh(1000, NO_FLOORS);
    let extent = grant(&mut space, DISK, 100).unwrap();
    let mut at = extent.start;
    for _ in 0..10 {
        let taken = space.take(DISK, Some(at), 2).unwrap();
        assert_eq!(taken, [run(at.raw(), 2)]);
        at = BlockAddr::of(taken[0].end());
    }
}

#[test]
fn where_no_run_is_long_enough_pieces_are_taken() {
    let mut space = fresh(10 + 64, NO_FLOORS);
    let all = take(&mut space, DISK, 64);
    let every_other: Vec<_> = all.iter().copied().step_by(2).collect();
    space.give_back(&every_other);
    let pieces = space.take(DISK, Some(all[10]), 32).unwrap();
    assert_eq!(pieces.iter().map(|run| run.count).sum::<u64>(), 32);
    assert_eq!(space.take(DISK, None, 1), None);
}

#[test]
fn recycled_blocks_are_granted_before_virgin_ones() {
    let mut space = fresh(100_000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 1000);
    finish(&mut space, DISK, &blocks);
    let virgin = space.virgin_from();
    free(&mut space, &blocks[..600]);
    let again = grant(&mut space, OTHER, 16).unwrap();
    assert!(again.end() <= virgin.raw(), "{again:?} is virgin, {virgin} is where that begins");
}

#[test]
fn scattered_holes_wait_until_virgin_blocks_are_used_up() {
    let mut space = fresh(2000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 1000);
    finish(&mut space, DISK, &blocks);
    let virgin = space.virgin_from();
    let holes: Vec<_> = blocks.iter().copied().step_by(10).collect();
    free(&mut space, &holes);
    assert!(grant(&mut space, DISK, 16).unwrap().start >= virgin);
    let rest = space.counts().free;
    assert_eq!(take(&mut space, DISK, rest).len(), 2000 - 10 - 1000 + 100);
}

#[test]
fn a_cleared_block_is_nobodys_until_its_readers_have_gone() {
    let mut space = fresh(10 + 32, NO_FLOORS);
    let blocks = take(&mut space, DISK, 32);
    space.commit_bits(&blocks, &[]).unwrap();
    space.commit_bits(&[], &blocks[..4]).unwrap();
    assert_eq!((space.counts().free, space.counts().limbo), (0, 4));
    assert_eq!(space.take(DISK, None, 1), None);
    space.release(&blocks[..4]);
    assert_eq!(space.take(DISK, None, 4).unwrap(), [run(blocks[0].raw(), 4)]);
}

#[test]
fn nothing_is_set_twice_or_freed_twice() {
    let mut space = fresh(1000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 10);
    space.commit_bits(&blocks[..5], &[]).unwrap();
    let before = space.counts();
    let faults = [
        space.commit_bits(&blocks[4..6], &[]).unwrap_err(),
        space.commit_bits(&[blocks[6], blocks[6]], &[]).unwrap_err(),
        space.commit_bits(&[], &blocks[4..6]).unwrap_err(),
        space.commit_bits(&[], &[blocks[1], blocks[1]]).unwrap_err(),
        space.commit_bits(&[BlockAddr::of(900)], &[]).unwrap_err(),
    ];
    let expected = [
        SpaceFault::AlreadyUsed(blocks[4]),
        SpaceFault::AlreadyUsed(blocks[6]),
        SpaceFault::NotUsed(blocks[5]),
        SpaceFault::NotUsed(blocks[1]),
        SpaceFault::NotTaken(BlockAddr::of(900)),
    ];
    assert_eq!(faults, expected);
    assert_eq!(space.counts(), before, "a refused commit changes nothing");
}

#[test]
fn extents_that_cannot_be_are_refused() {
    let mut space = fresh(1000, NO_FLOORS);
    space.register(DISK, run(100, 50)).unwrap();
    for bad in [run(0, 20), run(990, 20), run(149, 1), run(90, 11), run(120, 5), run(50, 200)] {
        let fault = space.register(OTHER, bad).unwrap_err();
        assert_eq!(fault, SpaceFault::BadExtent(bad.start));
    }
    space.register(OTHER, run(150, 10)).unwrap();
}

#[test]
fn bits_where_no_tree_may_have_blocks_are_refused() {
    let mut space = Space::new(config(1000, NO_FLOORS)).unwrap();
    let page = VirtualBlock::of(BITMAP_BASE);
    for (byte, bit) in [(0, 3), (1, 1), (125, 0)] {
        let mut bytes = [0; BLOCK_BYTES];
        bytes[byte] = 1 << bit;
        assert_eq!(space.load(page, &bytes), Err(SpaceFault::ImpossibleBits(page)));
    }
    let mut bytes = [0; BLOCK_BYTES];
    (bytes[1], bytes[124]) = (1 << 2, 1 << 7);
    space.load(page, &bytes).unwrap();
}

#[test]
fn a_full_store_still_checkpoints() {
    let floors = Floors { data: 100, overwrite: 50, checkpoint: 0 };
    let mut space = fresh(10 + 1000, floors);
    assert_eq!(space.available(DISK, Need::Data), 900);
    space.promise(DISK, Need::Data, 890).unwrap();
    assert!(space.promise(OTHER, Need::Data, 11).is_err());
    space.promise(OTHER, Need::Overwrite, 60).unwrap();
    assert_eq!(space.available(OTHER, Need::Overwrite), 0);
    space.promise(OTHER, Need::Checkpoint, 50).unwrap();
    let full = space.promise(DISK, Need::Checkpoint, 1).unwrap_err();
    assert_eq!(full, Full { wanted: 1, available: 0 });
}

#[test]
fn a_promise_is_kept_whatever_others_want() {
    let mut space = fresh(10 + 1000, NO_FLOORS);
    space.promise(DISK, Need::Checkpoint, 300).unwrap();
    while grant(&mut space, OTHER, 1).is_some() {}
    assert_eq!(space.arena_free(OTHER), 700);
    assert_eq!(take(&mut space, DISK, 300).len(), 300);
    space.settle(DISK, 300);
    assert_eq!(space.counts().promised, 0);
}

#[test]
fn what_a_request_has_drawn_is_not_promised_any_more() {
    let mut space = fresh(10 + 100, NO_FLOORS);
    let room = Room { blocks: 30, nodes: 10 };
    space.admit(DISK, Need::Data, room).unwrap();
    space.admit(DISK, Need::Data, room).unwrap();
    space.promise(OTHER, Need::Data, 20).unwrap();
    assert_eq!(space.available(OTHER, Need::Data), 0);
    let run = grant(&mut space, DISK, 35).unwrap();
    assert!(run.count >= 35);
    assert_eq!(space.draw(DISK, None, 35).unwrap().len(), 1);
    assert_eq!(space.counts().promised, 45 + 20);
    assert_eq!(space.available(OTHER, Need::Data), 0, "drawing changes nothing for others");
    space.dismiss(DISK, 30);
    assert_eq!(space.counts().promised, 45 + 20);
    space.dismiss(DISK, 30);
    assert_eq!(space.counts().promised, 20 + 20, "the nodes of both are left");
    assert_eq!(space.available(OTHER, Need::Data), 25);
    assert_eq!(space.draw(DISK, None, 30), None, "so much is not to be had without breaking");
}

#[test]
fn dropping_extents_leaves_no_promise_without_cover() {
    let mut space = fresh(10 + 100, NO_FLOORS);
    grant(&mut space, DISK, 90).unwrap();
    space.promise(DISK, Need::Data, 90).unwrap();
    space.promise(OTHER, Need::Data, 10).unwrap();
    let extents = space.close(DISK, Which::All);
    assert!(matches!(space.plan_grant(OTHER, 10, Need::Data), Grant::Extent(_)));
    assert_eq!(space.plan_grant(OTHER, 1, Need::Data), Grant::Wait, "it is on its way");
    space.drop_extents(&extents).unwrap();
    assert_eq!(space.available(OTHER, Need::Data), 0);
    assert_eq!(take(&mut space, DISK, 90).len(), 90);
}

#[test]
fn a_disks_own_free_blocks_count_for_its_promises() {
    let mut space = fresh(10 + 1000, NO_FLOORS);
    while grant(&mut space, DISK, 1).is_some() {}
    assert_eq!(space.available(DISK, Need::Data), 1000);
    assert_eq!(space.available(OTHER, Need::Data), 0);
    space.promise(DISK, Need::Data, 1000).unwrap();
    assert_eq!(space.available(DISK, Need::Data), 0);
}

#[test]
fn long_free_runs_are_punched_once() {
    let mut space = fresh(100_000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 5000);
    finish(&mut space, DISK, &blocks);
    free(&mut space, &blocks[1000..4000]);
    let long = run(blocks[1000].raw(), 3000);
    assert_eq!(space.plan_punch(2048), Punch::Run(long));
    assert_eq!(space.plan_punch(1), Punch::Nothing, "it is being punched already");
    space.end_punch(long);
    assert_eq!(space.plan_punch(1), Punch::Nothing, "it was punched already");
    free(&mut space, &blocks[4000..4100]);
    assert_eq!(space.plan_punch(1), Punch::Run(run(blocks[4000].raw(), 100)));
}

#[test]
fn pages_that_were_forgotten_are_loaded_to_be_punched() {
    let mut space = fresh(30_000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 500);
    finish(&mut space, DISK, &blocks);
    let page = VirtualBlock::of(BITMAP_BASE);
    space.commit_bits(&[], &blocks).unwrap();
    space.written(&[page, page]);
    space.release(&blocks);
    space.trim(0);
    assert_eq!(space.plan_punch(1), Punch::Load(vec![page]));
}

#[test]
fn what_is_being_punched_is_free_and_is_waited_for() {
    let mut space = fresh(10 + 1000, NO_FLOORS);
    while grant(&mut space, DISK, 1).is_some() {}
    let blocks = take(&mut space, DISK, 1000);
    finish(&mut space, DISK, &blocks);
    free(&mut space, &blocks);
    assert_eq!(space.plan_punch(256), Punch::Run(run(10, 1000)));
    assert_eq!(space.counts().free, 1000);
    space.promise(DISK, Need::Data, 1000).unwrap();
    assert_eq!(space.plan_grant(DISK, 1000, Need::Data), Grant::Wait);
    space.end_punch(run(10, 1000));
    assert_eq!(take(&mut space, DISK, 1000).len(), 1000);
}

#[test]
fn a_log_of_small_records_has_virgin_blocks_filled_ahead_of_it() {
    let mut space = fresh(100_000, NO_FLOORS);
    let first = grant(&mut space, DISK, 200).unwrap();
    let mut small = || {
        let taken = space.take(DISK, None, 2).map(|_| ());
        (taken, space.begin_ahead(DISK)).1
    };
    assert!(!(0..63).any(|_| small()), "it is judged too soon");
    assert!(small());
    assert!(!small(), "somebody is at it");
    let piece = space.plan_ahead(10).unwrap();
    assert_eq!(piece, run(first.end(), 10));
    // Nobody gets it while it is being filled...
    let other = grant(&mut space, OTHER, 500).unwrap();
    assert!(other.start.raw() >= piece.end(), "{other:?}");
    // ...and everybody may afterwards.
    space.end_ahead(true);
    let free = space.counts().free;
    assert_eq!(u64::try_from(take(&mut space, OTHER, free - 200).len()).unwrap(), free - 200);
}

#[test]
fn nothing_is_filled_ahead_of_large_records_nor_after_a_failure() {
    let mut space = fresh(100_000, NO_FLOORS);
    grant(&mut space, DISK, 100 * 70).unwrap();
    for _ in 0..100 {
        space.take(DISK, None, 70).unwrap();
        assert!(!space.begin_ahead(DISK));
    }
    space.set_goal_ahead(100);
    assert!(space.plan_ahead(10).is_some());
    space.end_ahead(false);
    assert_eq!(space.plan_ahead(10), None);
}

#[test]
fn extents_with_blocks_still_taken_stay() {
    let mut space = fresh(1000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 16);
    assert_eq!(space.close(DISK, Which::All), []);
    let extent = space.extents_of(DISK)[0];
    let fault = space.drop_extents(&[extent]).unwrap_err();
    assert_eq!(fault, SpaceFault::StillTaken { disk: DISK, count: 16 });
    space.give_back(&blocks);
    assert_eq!(space.close(DISK, Which::All), [extent]);
    space.drop_extents(&[extent]).unwrap();
    assert_eq!(space.counts().ungranted, 990);
}

#[test]
fn spent_extents_are_dropped_and_others_kept() {
    let mut space = fresh(10_000, NO_FLOORS);
    let first = grant(&mut space, DISK, 16).unwrap();
    let blocks = take(&mut space, DISK, 16);
    let second = grant(&mut space, DISK, 16).unwrap();
    space.commit_bits(&blocks, &[]).unwrap();
    assert_eq!(space.close(DISK, Which::Spent), [first]);
    space.drop_extents(&[first]).unwrap();
    assert_eq!(space.extents_of(DISK), [second]);
}

#[test]
fn a_log_is_not_scattered_over_old_extents_while_there_is_plenty_of_room() {
    let mut space = fresh(10_000, NO_FLOORS);
    let old = grant(&mut space, DISK, 100).unwrap();
    let blocks = take(&mut space, DISK, old.count);
    let holes: Vec<_> = blocks.iter().copied().step_by(2).collect();
    space.give_back(&holes);
    assert!(!space.has_room(DISK, 20), "there is no better place than holes");
    let fresh = grant(&mut space, DISK, 20).unwrap();
    assert!(space.has_room(DISK, 20));
    let taken = space.take(DISK, Some(blocks[0]), 20).unwrap();
    assert_eq!(taken, [BlockRun { start: fresh.start, count: 20 }]);
    // The holes are for all once what is taken between them is in a tree.
    let rest: Vec<_> = blocks.iter().copied().skip(1).step_by(2).collect();
    space.leave_behind(DISK);
    assert_eq!(space.close(DISK, Which::Spent), []);
    space.commit_bits(&rest, &[]).unwrap();
    assert_eq!(space.close(DISK, Which::Spent), [old]);
    space.drop_extents(&[old]).unwrap();
    assert_eq!(space.extents_of(DISK), [fresh]);
}

#[test]
fn where_there_is_not_plenty_holes_are_filled() {
    let mut space = fresh(10 + 64, NO_FLOORS);
    let all = take(&mut space, DISK, 64);
    let holes: Vec<_> = all.iter().copied().step_by(2).collect();
    space.give_back(&holes);
    assert!(space.has_room(DISK, 32));
    space.leave_behind(DISK);
    assert_eq!(space.close(DISK, Which::Spent), []);
    assert_eq!(take(&mut space, DISK, 32).len(), 32);
}

#[test]
fn a_grown_store_grants_what_was_added() {
    let mut space = fresh(10 + 50, NO_FLOORS);
    while grant(&mut space, DISK, 1).is_some() {}
    space.grow(BlockCount(200), &[run(60, 20)]);
    assert_eq!(space.counts().ungranted, 120);
    let rest = take(&mut space, DISK, 170);
    assert!(rest.iter().all(|block| !(60..80).contains(&block.raw())));
}

#[test]
#[should_panic(expected = "handed back but not taken")]
fn handing_a_block_back_twice_is_caught() {
    let mut space = fresh(1000, NO_FLOORS);
    let blocks = take(&mut space, DISK, 2);
    space.give_back(&blocks[..1]);
    space.give_back(&blocks[..1]);
}

#[test]
fn counters_of_no_store_of_this_size_are_refused() {
    let honest = config(1000, NO_FLOORS);
    for (used, virgin_from) in [(1001, 500), (u64::MAX, 500), (0, 1001)] {
        let virgin_from = BlockAddr::of(virgin_from);
        let forged = SpaceConfig { used_blocks: used, virgin_from, ..honest.clone() };
        let refused = Space::new(forged).expect_err("no store is like that");
        assert_eq!(refused, SpaceFault::BadCounters { used, total: 1000 });
    }
}
