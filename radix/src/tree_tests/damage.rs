//! Nodes that cannot be read: what is tried, what is said, and what is never freed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use bough_blockstore::{BlockAddr, Epoch, VirtualBlock};

use super::medium::{Fault, Medium, Store, block_on};
use super::tree::{
    Entry, Found, MergeContext, Merged, Node, NodeFault, OnDamage, Onward, Ownership, Position,
    Reclaim, Root, TreeError, Update, lookup, merge, reclaim_step, walk,
};

const BLOCKS: u64 = 70_000;
const NO_CACHE: u64 = 0;

fn updates(store: &mut Store, blocks: &[u64], birth: u64) -> Vec<Update> {
    let mut updates = Vec::new();
    for vba in blocks {
        let (addr, crc) = store.write_data();
        let birth = Epoch::of(birth);
        updates.push(Update::Data { vba: VirtualBlock::of(*vba), addr, crc, birth });
    }
    updates
}

fn try_merge(
    store: &mut Store,
    root: Root,
    updates: Vec<Update>,
    birth: u64,
    on_damage: OnDamage,
) -> Option<Merged> {
    let ownership = Ownership::after(Epoch::of(birth - 1));
    let context = MergeContext { birth: Epoch::of(birth), ownership, on_damage };
    let (cache, mut sink) = store.split();
    block_on(merge(cache, &mut sink, root, updates, context)).ok()
}

/// Data at blocks 1, 2, 300 and 66,000.
fn tree(store: &mut Store) -> Root {
    let updates = updates(store, &[1, 2, 300, 66_000], 1);
    let merged = try_merge(store, Root::for_blocks(BLOCKS), updates, 1, OnDamage::Fail);
    let root = merged.expect("merges").root;
    forget_nodes(store);
    root
}

fn nodes(store: &Store, root: Root) -> Vec<(Position, Entry)> {
    let mut found = Vec::new();
    block_on(walk(&store.cache, root, |what| {
        if let Found::Entry { position, entry } = what
            && position.level > 0
        {
            found.push((position, entry));
        }
        Onward::Down
    }));
    found
}

fn node(store: &Store, root: Root, position: Position) -> BlockAddr {
    let found = nodes(store, root);
    found.iter().find(|(at, _)| *at == position).expect("there").1.addr()
}

/// Pushes everything out of the cache.
fn forget_nodes(store: &Store) {
    for number in 0..1_000 {
        let other = Entry::data(BlockAddr::of(1 << 41 | number), Epoch::ZERO, 0);
        let filler = Arc::new(Node::filled(Entry::HOLE));
        store.cache.insert(&other, Position::top(1), filler);
    }
}

fn read(store: &Store, root: Root, vba: u64) -> Result<Entry, TreeError> {
    block_on(lookup(&store.cache, root, VirtualBlock::of(vba)))
}

const FIRST_LEAF: Position = Position { level: 1, index: 0 };

#[test]
fn what_reads_right_the_second_time_is_right() {
    let mut store = Store::new(NO_CACHE);
    let root = tree(&mut store);
    let at = node(&store, root, FIRST_LEAF);
    forget_nodes(&store);
    store.medium.break_block(at, Fault::Rot { reads: 1 });
    assert!(read(&store, root, 2).expect("reads").is_data());
}

#[test]
fn rot_is_healed_from_the_mirror_or_named() {
    for (mirrored, medium) in [(true, Medium::mirrored()), (false, Medium::default())] {
        let mut store = Store::over(medium, NO_CACHE);
        let root = tree(&mut store);
        let broken = node(&store, root, FIRST_LEAF);
        forget_nodes(&store);
        store.medium.break_block(broken, Fault::Rot { reads: 1_000 });
        match read(&store, root, 2) {
            Ok(entry) => assert!(mirrored && entry.is_data()),
            Err(TreeError::Corrupt { at, position, fault: NodeFault::Checksum { .. } }) => {
                assert!(!mirrored);
                assert_eq!((at, position), (broken, FIRST_LEAF));
            }
            Err(other) => panic!("{other}"),
        }
        assert!(read(&store, root, 300).expect("untouched").is_data());
    }
}

#[test]
fn a_node_in_anothers_place_is_not_taken_for_it() {
    let mut store = Store::new(NO_CACHE);
    let root = tree(&mut store);
    let first = node(&store, root, FIRST_LEAF);
    let other = nodes(&store, root)
        .into_iter()
        .find(|(position, _)| *position == Position { level: 1, index: 1 })
        .expect("there");
    let bytes = *block_on(store.cache.fetch(&other.1, other.0)).expect("reads").bytes();
    forget_nodes(&store);
    store.medium.put(first.raw(), &bytes);
    assert!(matches!(read(&store, root, 2), Err(TreeError::Corrupt { .. })));
    // Nor is a pointer that was copied to another place answered from the cache.
    block_on(store.cache.fetch(&other.1, other.0)).expect("reads");
    assert!(block_on(store.cache.fetch(&other.1, FIRST_LEAF)).is_err());
}

#[test]
fn a_medium_that_fails_is_told_from_rot() {
    let mut store = Store::new(NO_CACHE);
    let root = tree(&mut store);
    let at = node(&store, root, FIRST_LEAF);
    forget_nodes(&store);
    store.medium.break_block(at, Fault::Unreadable);
    assert!(matches!(read(&store, root, 2), Err(TreeError::Device { .. })));
}

#[test]
fn a_merge_over_damage_fails_or_marks_what_is_lost_and_frees_none_of_it() {
    let mut store = Store::new(NO_CACHE);
    let root = tree(&mut store);
    let broken = node(&store, root, FIRST_LEAF);
    forget_nodes(&store);
    store.medium.break_block(broken, Fault::Rot { reads: 1_000 });
    let write = updates(&mut store, &[2], 2);
    assert!(try_merge(&mut store, root, write.clone(), 2, OnDamage::Fail).is_none());
    let merged = try_merge(&mut store, root, write, 2, OnDamage::GiveUp).expect("goes on");
    assert_eq!(merged.unreadable.len(), 1);
    assert_eq!(merged.unreadable[0].position, FIRST_LEAF);
    assert!(!merged.freed.contains(&broken));
    assert!(read(&store, merged.root, 2).expect("written").is_data());
    assert_eq!(read(&store, merged.root, 1).expect("known"), Entry::LOST);
    assert!(read(&store, merged.root, 300).expect("untouched").is_data());
    // Writing and discarding cure it.
    let mut cure = updates(&mut store, &[1], 2);
    cure.push(Update::Zero { range: 3..256 });
    let cured = try_merge(&mut store, merged.root, cure, 2, OnDamage::Fail).expect("merges");
    assert!(read(&store, cured.root, 1).expect("written").is_data());
    assert!(read(&store, cured.root, 77).expect("zeroed").is_hole());
}

#[test]
fn reclaim_goes_around_damage_and_frees_nothing_it_cannot_compare() {
    for (broken_is_childs, on_damage) in
        [(false, OnDamage::GiveUp), (true, OnDamage::GiveUp), (true, OnDamage::Fail)]
    {
        let mut store = Store::new(NO_CACHE);
        let victim = tree(&mut store);
        let write = updates(&mut store, &[2, 300], 2);
        let child = try_merge(&mut store, victim, write, 2, OnDamage::Fail).expect("merges").root;
        let kept = read(&store, victim, 1).expect("reads").addr();
        let replaced = read(&store, victim, 300).expect("reads").addr();
        let broken = node(&store, if broken_is_childs { child } else { victim }, FIRST_LEAF);
        forget_nodes(&store);
        store.medium.break_block(broken, Fault::Rot { reads: 1_000 });
        let plan = Reclaim {
            victim,
            child: Some(child),
            parent_epoch: Epoch::ZERO,
            cursor: 0,
            budget_blocks: u64::MAX,
            on_damage,
        };
        match block_on(reclaim_step(&store.cache, plan)) {
            Ok(step) => {
                assert_eq!((step.unreadable.len(), step.next), (1, None));
                assert!(!step.freed.contains(&kept) && step.freed.contains(&replaced));
                assert_eq!(step.freed_data, 1, "block 2's old data leaks, rather");
            }
            Err(error) => assert_eq!(on_damage, OnDamage::Fail, "{error}"),
        }
    }
}

#[test]
fn a_walk_tells_of_damage_and_goes_on() {
    let mut store = Store::new(NO_CACHE);
    let root = tree(&mut store);
    let broken = node(&store, root, FIRST_LEAF);
    forget_nodes(&store);
    store.medium.break_block(broken, Fault::Unreadable);
    let (mut data, mut faults) = (Vec::new(), Vec::new());
    block_on(walk(&store.cache, root, |found| {
        match found {
            Found::Entry { position, .. } if position.level == 0 => data.push(position.index),
            Found::Entry { .. } => {}
            Found::Unreadable { position, entry, .. } => faults.push((position, entry.addr())),
        }
        Onward::Down
    }));
    assert_eq!((data, faults), (vec![300, 66_000], vec![(FIRST_LEAF, broken)]));
}

#[test]
fn concurrent_misses_share_one_read_even_if_the_first_to_ask_gives_up() {
    let mut store = Store::new(1 << 20);
    let root = tree(&mut store);
    let (position, entry) = (Position::top(root.height), root.top);
    forget_nodes(&store);
    let before = store.medium.reads();
    let mut context = Context::from_waker(Waker::noop());
    let mut first = Box::pin(store.cache.fetch(&entry, position));
    let mut second = pin!(store.cache.fetch(&entry, position));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    assert_eq!(store.medium.reads() - before, 1, "the second waits for the first");
    drop(first);
    block_on(second).expect("takes over");
    assert_eq!(store.medium.reads() - before, 2);
    block_on(store.cache.fetch(&entry, position)).expect("is here");
    assert_eq!(store.medium.reads() - before, 2);
}
