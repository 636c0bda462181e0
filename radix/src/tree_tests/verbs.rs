//! Each verb on one tree, or two, against a map.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bough_blockstore::{BlockAddr, Epoch, MAX_44, VirtualBlock};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::medium::{Store, block_on};
use super::tree::{
    Difference, Entry, FAN_OUT, MergeContext, Merged, Node, NodeFault, OnDamage, Ownership,
    Position, Reclaim, Root, Update, clear, count_data, diff, lookup, lookup_range, merge,
    reclaim_step, reheight, try_lookup, try_lookup_range,
};

const CACHE: u64 = 64 << 20;
/// Three levels, none of them full.
const BLOCKS: u64 = 200_000;

fn context(birth: u64, parent: u64) -> MergeContext {
    MergeContext {
        birth: Epoch::of(birth),
        ownership: Ownership::after(Epoch::of(parent)),
        on_damage: OnDamage::Fail,
    }
}

fn apply(store: &mut Store, root: Root, updates: Vec<Update>, context: MergeContext) -> Merged {
    let (cache, mut sink) = store.split();
    block_on(merge(cache, &mut sink, root, updates, context)).expect("merges")
}

fn resize(store: &mut Store, root: Root, blocks: u64, context: MergeContext) -> Merged {
    let (cache, mut sink) = store.split();
    block_on(reheight(cache, &mut sink, root, blocks, context)).expect("resizes")
}

fn written(store: &mut Store, blocks: impl IntoIterator<Item = u64>, birth: u64) -> Vec<Update> {
    let data = |vba| {
        let (addr, crc) = store.write_data();
        Update::Data { vba: VirtualBlock::of(vba), addr, crc, birth: Epoch::of(birth) }
    };
    blocks.into_iter().map(data).collect()
}

fn tree_of(store: &mut Store, blocks: impl IntoIterator<Item = u64>) -> Root {
    let updates = written(store, blocks, 1);
    apply(store, Root::for_blocks(BLOCKS), updates, context(1, 0)).root
}

fn cold(store: &Store) {
    store.cache.set_budget(0);
    store.cache.set_budget(CACHE);
    // One node a shard is always kept: push those out too.
    for number in 0..1_000 {
        let entry = Entry::data(BlockAddr::of(MAX_44 - number), Epoch::of(1), 0);
        store.cache.insert(&entry, Position::top(1), Arc::new(Node::filled(Entry::HOLE)));
    }
    store.cache.set_budget(0);
    store.cache.set_budget(CACHE);
}

fn reads_of(store: &Store, work: impl FnOnce()) -> u64 {
    cold(store);
    let before = store.medium.reads();
    work();
    store.medium.reads() - before
}

fn differences(store: &Store, before: Root, after: Root) -> Vec<Difference> {
    let mut found = Vec::new();
    let visit = |difference| {
        found.push(difference);
        ControlFlow::Continue(())
    };
    block_on(diff(&store.cache, before, after, 0..u64::MAX, visit)).expect("compares");
    found
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = (0..=MAX_44, 0..=MAX_44, any::<u32>())
        .prop_map(|(at, birth, crc)| Entry::data(BlockAddr::of(at), Epoch::of(birth), crc));
    prop_oneof![1 => Just(Entry::HOLE), 1 => Just(Entry::LOST), 4 => data]
}

proptest! {
    #[test]
    fn an_entry_reads_back_as_written(
        at in 0..=MAX_44, birth in 0..=MAX_44, crc in any::<u32>(),
    ) {
        let entry = Entry::data(BlockAddr::of(at), Epoch::of(birth), crc);
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        prop_assert_eq!(
            (entry.addr().raw(), entry.birth().raw(), entry.crc()), (at, birth, crc)
        );
    }

    #[test]
    fn whatever_decodes_as_an_entry_is_one(bytes in any::<[u8; 16]>()) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }

    #[test]
    fn a_root_reads_back_as_written(top in entry(), height in 0..=6_u8) {
        let root = Root { top, height };
        prop_assert_eq!(Root::decode(&root.encode()), Ok(root));
    }

    #[test]
    fn a_node_is_refused_in_any_place_but_its_own(
        entries in vec(entry(), FAN_OUT), level in 1..=6_u8, index in 0..1_000_u64, bit in 0..32_768_usize,
    ) {
        let mut node = Node::filled(Entry::HOLE);
        entries.iter().enumerate().for_each(|(slot, entry)| node.set(slot, *entry));
        let position = Position { level, index };
        let pointer = Entry::data(BlockAddr::of(5), Epoch::MAX, node.checksum(position));
        let decoded = Node::decode(node.bytes(), position, &pointer).expect("decodes");
        prop_assert!(decoded.entries().eq(entries));
        for other in [Position { level, index: index + 1 }, Position { level: level - 1, index }] {
            prop_assert!(Node::decode(node.bytes(), other, &pointer).is_err());
        }
        let mut bytes = *node.bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Node::decode(&bytes, position, &pointer).is_err());
    }

    #[test]
    fn lookups_agree_with_a_map(
        blocks in btree_map(0..BLOCKS, Just(()), 0..40), probes in vec(0..BLOCKS + 100, 20),
        start in 0..BLOCKS, count in 0..70_000_u64,
    ) {
        let mut store = Store::new(CACHE);
        let updates = written(&mut store, blocks.into_keys(), 1);
        let map: BTreeMap<u64, u32> = updates.iter().map(|update| match update {
            Update::Data { vba, crc, .. } => (vba.raw(), *crc),
            Update::Zero { .. } | Update::Lost { .. } => unreachable!(),
        }).collect();
        let root = apply(&mut store, Root::for_blocks(BLOCKS), updates, context(1, 0)).root;
        for vba in probes.into_iter().chain(map.keys().copied()) {
            let entry = block_on(lookup(&store.cache, root, VirtualBlock::of(vba))).unwrap();
            prop_assert_eq!(entry.is_data().then(|| entry.crc()), map.get(&vba).copied());
            let cached = try_lookup(&store.cache, root, VirtualBlock::of(vba));
            prop_assert_eq!(cached, Ok(entry));
        }
        let range = start..start + count;
        let pieces = block_on(lookup_range(&store.cache, root, range.clone())).unwrap();
        prop_assert_eq!(try_lookup_range(&store.cache, root, range.clone()), Ok(pieces.clone()));
        let mut next = range.start;
        for pair in pieces.windows(2) {
            prop_assert!(pair[0].entry.is_data() || pair[1].entry.is_data(), "holes that touch");
        }
        for piece in pieces {
            prop_assert_eq!(piece.range.start, next);
            next = piece.range.end;
            match piece.entry.is_data() {
                true => prop_assert_eq!(map.get(&piece.range.start), Some(&piece.entry.crc())),
                false => prop_assert_eq!(map.range(piece.range).count(), 0),
            }
        }
        prop_assert_eq!(next, range.end);
    }

    #[test]
    fn a_diff_finds_exactly_what_changed(
        first in btree_map(0..BLOCKS, Just(()), 0..30), more in btree_map(0..BLOCKS, Just(()), 0..10),
        zeroed in 0..BLOCKS, count in 1..70_000_u64, blocks in 1..BLOCKS * 200,
    ) {
        let mut store = Store::new(CACHE);
        let before = tree_of(&mut store, first.keys().copied());
        let zero = vec![Update::Zero { range: zeroed..zeroed + count }];
        let after = apply(&mut store, before, zero, context(2, 1)).root;
        let updates = written(&mut store, more.keys().copied(), 2);
        let after = apply(&mut store, after, updates, context(2, 1)).root;
        let after = resize(&mut store, after, blocks, context(2, 1)).root;
        let changed = |vba: &u64| {
            let is_gone = first.contains_key(vba)
                && ((zeroed..zeroed + count).contains(vba) || *vba >= blocks);
            is_gone || (more.contains_key(vba) && (*vba < blocks || first.contains_key(vba)))
        };
        let mut expected: Vec<u64> = first.keys().chain(more.keys()).copied().filter(changed).collect();
        expected.sort_unstable();
        expected.dedup();
        let found = differences(&store, before, after);
        prop_assert_eq!(found.iter().map(|d| d.range.start).collect::<Vec<_>>(), expected);
        for difference in &found {
            let vba = VirtualBlock::of(difference.range.start);
            prop_assert_eq!(difference.range.end, vba.raw() + 1);
            prop_assert_eq!(block_on(lookup(&store.cache, before, vba)).unwrap(), difference.before);
            prop_assert_eq!(block_on(lookup(&store.cache, after, vba)).unwrap(), difference.after);
        }
        let back = differences(&store, after, before);
        prop_assert_eq!(back.len(), found.len());
    }
}

#[test]
fn the_bytes_of_a_root_are_what_they_were_in_version_1() {
    let (at, birth) = (BlockAddr::of(0x0abc_1234_5678), Epoch::of(0x0123_4567_89ab));
    let root = Root { top: Entry::data(at, birth, 0xdead_beef), height: 4 };
    let mut expected = [0; 24];
    expected[..16].copy_from_slice(&0x71de_adbe_ef12_3456_789a_babc_1234_5678_u128.to_le_bytes());
    expected[16] = 4;
    assert_eq!(root.encode(), expected);
    let mut node = Node::filled(Entry::HOLE);
    node.set(255, root.top);
    assert_eq!(node.bytes()[4080..], expected[..16]);
    assert_eq!(node.checksum(Position { level: 2, index: 77 }), 2_342_042_443);
}

#[test]
fn malformed_entries_are_refused() {
    let good = Entry::data(BlockAddr::of(7), Epoch::of(3), 9).encode();
    for kind in (0..=255_u8).filter(|kind| *kind != 0x71) {
        let mut bytes = good;
        bytes[15] = kind;
        assert_eq!(Entry::decode(&bytes), Err(NodeFault::MalformedEntry), "kind {kind:#x}");
    }
    let mut root = Root::empty(3).encode();
    root[16] = 7;
    assert_eq!(Root::decode(&root), Err(NodeFault::Height { height: 7 }));
    root[16] = 3;
    root[23] = 1;
    assert_eq!(Root::decode(&root), Err(NodeFault::Reserved));
}

#[test]
fn an_entry_younger_than_its_node_is_refused() {
    let mut node = Node::filled(Entry::HOLE);
    node.set(9, Entry::data(BlockAddr::of(1), Epoch::of(6), 0));
    let position = Position::top(1);
    let pointer = Entry::data(BlockAddr::of(2), Epoch::of(5), node.checksum(position));
    let fault = Node::decode(node.bytes(), position, &pointer).map(|_| ());
    assert_eq!(fault, Err(NodeFault::YoungerThanNode { slot: 9 }));
}

#[test]
fn a_lookup_names_the_missing_node_and_goes_on_once_it_is_here() {
    let mut store = Store::new(CACHE);
    let root = tree_of(&mut store, [70_000]);
    cold(&store);
    let mut levels = Vec::new();
    while let Err(miss) = try_lookup(&store.cache, root, VirtualBlock::of(70_000)) {
        levels.push(miss.position.level);
        block_on(store.cache.fetch(&miss.pointer, miss.position)).expect("fetches");
    }
    assert_eq!(levels, [3, 2, 1]);
}

#[test]
fn zeroing_holes_reads_and_writes_nothing() {
    let mut store = Store::new(CACHE);
    let root = tree_of(&mut store, [5]);
    let zero = vec![Update::Zero { range: 1_000..u64::MAX }];
    cold(&store);
    let before = store.medium.reads();
    let merged = apply(&mut store, root, zero, context(1, 0));
    // The top, and the node of level 2 that holds block 5's.
    assert!(store.medium.reads() - before <= 2);
    assert_eq!((merged.root, merged.nodes_written, merged.freed.len()), (root, 0, 0));
}

#[test]
fn zeroing_all_leaves_a_hole_and_frees_all_that_is_owned() {
    let mut store = Store::new(CACHE);
    let root = tree_of(&mut store, (0..600).chain(150_000..150_010));
    let used = store.used.len();
    let zero = || vec![Update::Zero { range: 0..BLOCKS }];
    let merged = apply(&mut store, root, zero(), context(1, 0));
    assert_eq!((merged.root.top, merged.referenced_delta), (Entry::HOLE, -610));
    assert_eq!((merged.freed.len(), merged.owned_delta), (used, -610));
    let of_another = apply(&mut store, root, zero(), context(2, 1));
    assert_eq!((of_another.freed.len(), of_another.owned_delta), (0, 0));
    assert_eq!(of_another.referenced_delta, -610);
}

#[test]
fn a_merge_done_twice_frees_nothing_of_its_own_data() {
    let mut store = Store::new(CACHE);
    let root = tree_of(&mut store, [1, 2, 3]);
    let updates = written(&mut store, [2, 300], 1);
    let once = apply(&mut store, root, updates.clone(), context(1, 0));
    let twice = apply(&mut store, once.root, updates, context(1, 0));
    assert_eq!((twice.referenced_delta, twice.owned_delta, twice.nodes_written), (0, 0, 0));
    assert_eq!((twice.root, twice.freed.len()), (once.root, 0));
}

#[test]
fn a_disk_grows_and_shrinks_through_every_height() {
    let mut store = Store::new(CACHE);
    let updates = written(&mut store, [0], 1);
    let mut root = apply(&mut store, Root::for_blocks(1), updates, context(1, 0)).root;
    let first = root.top;
    for (blocks, height) in [(256, 1), (1 << 38, 5), (MAX_44, 6), (70_000, 3), (2, 1), (1, 0)] {
        let merged = resize(&mut store, root, blocks, context(1, 0));
        store.release(&merged.freed).expect("frees once");
        root = merged.root;
        assert_eq!(root.height, height);
        assert_eq!(block_on(lookup(&store.cache, root, VirtualBlock::ZERO)).unwrap(), first);
        assert_eq!((merged.referenced_delta, merged.owned_delta), (0, 0));
        assert_eq!(store.used.len(), 1 + usize::from(height), "one block of data, one path");
    }
    let merged = resize(&mut store, root, 0, context(2, 1));
    assert_eq!((merged.root, merged.freed), (Root::empty(0), Vec::new()));
}

#[test]
fn what_was_cut_off_never_reappears() {
    let mut store = Store::new(CACHE);
    let root = tree_of(&mut store, [10, 99, 100, 101, 300, 70_000]);
    let small = resize(&mut store, root, 100, context(2, 1)).root;
    let large = resize(&mut store, small, BLOCKS, context(2, 1)).root;
    let pieces = block_on(lookup_range(&store.cache, large, 0..BLOCKS)).unwrap();
    let data = pieces.iter().filter(|piece| piece.entry.is_data());
    assert_eq!(data.map(|piece| piece.range.start).collect::<Vec<_>>(), [10, 99]);
}

#[test]
fn comparing_and_reclaiming_take_time_proportional_to_the_difference() {
    let mut store = Store::new(CACHE);
    let before = tree_of(&mut store, (0..BLOCKS).step_by(100));
    let updates = written(&mut store, [70_000], 2);
    let after = apply(&mut store, before, updates, context(2, 1)).root;
    let comparing = reads_of(&store, || assert_eq!(differences(&store, before, after).len(), 1));
    // Three levels, twice.
    assert_eq!(comparing, 6);
    let plan = Reclaim {
        victim: before,
        child: Some(after),
        parent_epoch: Epoch::ZERO,
        cursor: 0,
        budget_blocks: u64::MAX,
        on_damage: OnDamage::Fail,
    };
    let reclaiming = reads_of(&store, || {
        let step = block_on(reclaim_step(&store.cache, plan)).expect("reclaims");
        // Block 70,000 and the old path to it; it was written in both (70,000 is a hundred).
        assert_eq!((step.freed.len(), step.freed_data, step.next), (4, 1, None));
    });
    assert_eq!(reclaiming, 6);
}

#[test]
fn a_diff_ends_when_its_visitor_has_seen_enough() {
    let mut store = Store::new(CACHE);
    let root = tree_of(&mut store, 0..1_000);
    let mut seen = 0;
    let visit = |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    block_on(diff(&store.cache, Root::empty(0), root, 100..u64::MAX, visit)).unwrap();
    assert_eq!(seen, 3);
}

#[test]
#[should_panic(expected = "out of order")]
fn updates_out_of_order_are_our_bug() {
    let mut store = Store::new(CACHE);
    tree_of(&mut store, [5, 4]);
}

#[test]
fn counting_and_clearing_go_in_steps_of_bounded_size() {
    const STEP: u64 = 64;
    // Beyond that, what a step reads ahead on two levels, and its way down.
    const READS_MAX: u64 = 64 + 2 * 64 + 3;
    let mut store = Store::new(CACHE);
    let mut root = tree_of(&mut store, (0..BLOCKS).step_by(50));
    let (mut counted, mut from) = (0, Some(0));
    while let Some(start) = from {
        let reads = reads_of(&store, || {
            let step = block_on(count_data(&store.cache, root, start..u64::MAX, STEP)).unwrap();
            (counted, from) = (counted + step.blocks, step.next);
        });
        assert!(reads <= READS_MAX, "{reads} nodes read to count {STEP} blocks");
    }
    assert_eq!(counted, BLOCKS / 50);
    let (mut freed, mut from) = (0, Some(0));
    while let Some(start) = from {
        cold(&store);
        let before = store.medium.reads();
        let (cache, mut sink) = store.split();
        let (all, context) = (0..u64::MAX, context(1, 0));
        let ranges = std::slice::from_ref(&all);
        let step = block_on(clear(cache, &mut sink, root, ranges, start, STEP, context)).unwrap();
        let reads = store.medium.reads() - before;
        assert!(reads <= READS_MAX, "{reads} nodes read to clear {STEP} blocks");
        assert!(step.merged.nodes_written <= 3 && step.merged.freed.len() <= 64 + 6);
        store.release(&step.merged.freed).expect("frees once");
        freed += step.merged.referenced_delta;
        (root, from) = (step.merged.root, step.next);
    }
    assert_eq!((freed, root.top), (-4000, Entry::HOLE));
    assert!(store.used.is_empty(), "all was its own");
}
