//! The tree against a plain map, and against forged pages.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bough_blockstore::{BLOCK_BYTES, BlockAddr, Epoch, VirtualBlock};
use proptest::prelude::*;

use super::page::{Entries, Entry, Kind, View, check_header};
use super::*;
use crate::testing::ready;

/// Pages in memory.
#[derive(Default)]
struct Memory(BTreeMap<u64, Page>);

impl Pages for Memory {
    type Error = PageFault;

    async fn get(&self, page: VirtualBlock) -> Result<Arc<Page>, PageFault> {
        Ok(Arc::new(self.0.get(&page.raw()).cloned().unwrap_or_else(Page::zeroed)))
    }

    fn put(&mut self, page: VirtualBlock, content: Page) {
        self.0.insert(page.raw(), content);
    }
}

fn empty() -> Memory {
    let mut pages = Memory::default();
    let counters = Counters {
        next_disk: 1,
        next_version: 1,
        epoch_lease_end: Epoch::of(1),
        used_blocks: 0,
        virgin_from: BlockAddr::of(100),
    };
    format(&mut pages, counters);
    pages
}

/// Walks everything: each page is in the tree once or in the free list once.
fn check_pages(pages: &Memory) {
    let meta = ready(read_meta(pages)).unwrap();
    let mut seen = vec![0];
    let mut todo = vec![(meta.root, meta.root_level)];
    while let Some((at, level)) = todo.pop() {
        seen.push(at.raw());
        let page = ready(pages.get(at)).unwrap();
        let view = View::new(&page, at, level).unwrap();
        if level > 0 {
            todo.extend((0..view.count).map(|slot| (view.child(slot).unwrap(), level - 1)));
        }
    }
    let mut free = meta.free_head;
    for _ in 0..meta.free_count {
        seen.push(free.raw());
        let page = ready(pages.get(free)).unwrap();
        check_header(&page, free, Kind::Free).unwrap();
        free = VirtualBlock::of(super::page::u64_at(&page[..], 16));
    }
    assert_eq!(free, VirtualBlock::ZERO, "the free list is as long as the meta page says");
    seen.sort_unstable();
    assert_eq!(seen, (0..meta.next_fresh.raw()).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u8>, usize),
    Remove(usize),
    RemoveAbsent(Vec<u8>),
    Scan(Vec<u8>, usize),
    Before(Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0_u16..600).prop_map(|n| n.to_be_bytes().to_vec()),
        2 => prop::collection::vec(0_u8..3, 1..6),
        1 => (0_u8..4, 1..KEY_MAX_BYTES).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let small_or_large = prop_oneof![3 => 0_usize..40, 1 => 0..=VALUE_MAX_BYTES];
    prop_oneof![
        6 => (key(), small_or_large).prop_map(|(key, count)| Op::Put(key, count)),
        4 => any::<usize>().prop_map(Op::Remove),
        1 => key().prop_map(Op::RemoveAbsent),
        1 => (key(), 0_usize..50).prop_map(|(key, limit)| Op::Scan(key, limit)),
        1 => key().prop_map(Op::Before),
    ]
}

fn apply(pages: &mut Memory, model: &mut BTreeMap<Vec<u8>, Vec<u8>>, op: &Op, round: usize) {
    match op {
        Op::Put(key, count) => {
            let value = vec![round.to_le_bytes()[0]; *count];
            ready(put(pages, key, &value)).unwrap();
            model.insert(key.clone(), value);
        }
        Op::Remove(which) => {
            let Some(key) = model.keys().nth(which % model.len().max(1)).cloned() else { return };
            assert_eq!(ready(remove(pages, &key)).unwrap(), model.remove(&key));
        }
        Op::RemoveAbsent(key) => {
            assert_eq!(ready(remove(pages, key)).unwrap(), model.remove(key));
        }
        Op::Scan(from, limit) => {
            let found = ready(scan(pages, &[], from, *limit)).unwrap();
            let found: Vec<_> = found.into_iter().map(|pair| (pair.key, pair.value)).collect();
            let wanted = model.range(from.clone()..).take(*limit);
            let wanted: Vec<_> = wanted.map(|(k, v)| (k.clone(), v.clone())).collect();
            assert_eq!(found, wanted);
        }
        Op::Before(key) => {
            let found = ready(last_before(pages, key)).unwrap();
            let before = (Bound::Unbounded, Bound::Excluded(key.clone()));
            let wanted = model.range(before).next_back();
            assert_eq!(
                found.map(|pair| (pair.key, pair.value)),
                wanted.map(|(k, v)| (k.clone(), v.clone()))
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_tree_holds_what_a_map_holds(ops in prop::collection::vec(op(), 1..400)) {
        let (mut pages, mut model) = (empty(), BTreeMap::new());
        for (round, op) in ops.iter().enumerate() {
            apply(&mut pages, &mut model, op, round);
        }
        check_pages(&pages);
        for (key, value) in &model {
            prop_assert_eq!(ready(get(&pages, key)).unwrap(), Some(value.clone()));
        }
        for key in model.keys().cloned().collect::<Vec<_>>() {
            ready(remove(&mut pages, &key)).unwrap();
        }
        check_pages(&pages);
        prop_assert_eq!(ready(scan(&pages, &[], &[], 1)).unwrap(), vec![]);
    }

    #[test]
    fn a_forged_page_is_an_error_and_never_a_panic(
        ops in prop::collection::vec(op(), 50..150),
        after in prop::collection::vec(op(), 1..60),
        victim in any::<usize>(),
        forged in prop::collection::vec((0_usize..BLOCK_BYTES, any::<u8>()), 1..8),
        shallow in any::<bool>(),
    ) {
        let (mut pages, mut model) = (empty(), BTreeMap::new());
        for (round, op) in ops.iter().enumerate() {
            apply(&mut pages, &mut model, op, round);
        }
        let at = *pages.0.keys().nth(victim % pages.0.len()).unwrap();
        for (offset, byte) in forged {
            let offset = if shallow { offset % 64 } else { offset };
            pages.0.get_mut(&at).unwrap().bytes_mut()[offset] = byte;
        }
        for op in &after {
            match op {
                Op::Put(key, count) => drop(ready(put(&mut pages, key, &vec![7; *count]))),
                Op::RemoveAbsent(key) => drop(ready(remove(&mut pages, key))),
                Op::Scan(key, limit) => drop(ready(scan(&pages, &[], key, *limit))),
                Op::Before(key) => drop(ready(last_before(&pages, key))),
                Op::Remove(which) => {
                    if let Some(key) = model.keys().nth(which % model.len().max(1)) {
                        drop(ready(remove(&mut pages, key)));
                    }
                }
            }
        }
    }
}

#[test]
fn keys_put_in_order_fill_their_pages() {
    let mut pages = empty();
    for n in 0..20_000_u32 {
        ready(put(&mut pages, &n.to_be_bytes(), &[1; 16])).unwrap();
    }
    check_pages(&pages);
    let ideal = 20_000 * (4 + 4 + 16 + 2) / BLOCK_BYTES;
    assert!(pages.0.len() < ideal * 11 / 10 + 3, "{} pages, {ideal} would do", pages.0.len());
}

#[test]
fn a_scan_stops_where_its_prefix_does() {
    let mut pages = empty();
    for n in 0..2000_u32 {
        let key = [&[b'a' + n.to_le_bytes()[0] % 3][..], &n.to_be_bytes()[..]].concat();
        ready(put(&mut pages, &key, &[])).unwrap();
    }
    let found = ready(scan(&pages, b"b", b"", usize::MAX)).unwrap();
    assert!(found.iter().all(|pair| pair.key[0] == b'b') && found.len() > 600);
}

proptest! {
    #[test]
    fn a_page_edited_in_place_is_the_page_encoded_anew(
        lengths in prop::collection::vec((1_usize..40, 0_usize..60), 0..40),
        replaced in any::<prop::sample::Index>(),
        count in 0_usize..2,
        new in prop::option::of((1_usize..KEY_MAX_BYTES, 0_usize..VALUE_MAX_BYTES)),
    ) {
        let at = VirtualBlock::of(7);
        // Nobody asked for order: pages are made here that nobody else reads.
        let entry = |(key, value): (usize, usize)| Entry { key: vec![1; key], value: vec![2; value] };
        let mut entries = Entries { level: 0, list: lengths.into_iter().map(entry).collect() };
        let start = replaced.index(entries.list.len() + 1);
        let range = start..(start + count).min(entries.list.len());
        let page = entries.encode(at);
        let view = View::unchecked(&page, at);
        prop_assert_eq!(view.bytes(), entries.bytes());
        let new = new.map(entry);
        let edited = view.spliced(range.clone(), new.as_ref().map(|e| (&e.key[..], &e.value[..])));
        entries.list.splice(range, new);
        prop_assert_eq!(edited, entries.fits().then(|| entries.encode(at)));
    }
}
