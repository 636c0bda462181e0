//! Putting a key: the leaf first, then whatever splits above it.

use bough_blockstore::VirtualBlock;

use super::lookup::find;
use super::meta::{allocate, read_meta, write_meta};
use super::page::{Entries, Entry, View};
use super::{KEY_MAX_BYTES, Meta, Pages, VALUE_MAX_BYTES};

/// Sets the value of `key`.
///
/// # Panics
/// Where key or value is empty-keyed or longer than allowed: rows are ours, and bounded.
pub async fn put<P: Pages>(pages: &mut P, key: &[u8], value: &[u8]) -> Result<(), P::Error> {
    assert!(!key.is_empty() && key.len() <= KEY_MAX_BYTES, "key of {} bytes", key.len());
    assert!(value.len() <= VALUE_MAX_BYTES, "value of {} bytes", value.len());
    let mut meta = read_meta(pages).await?;
    let before = meta;
    let path = find(pages, &meta, key).await?;
    let view = View::new(&path.leaf, path.leaf_at, 0)?;
    let (index, replaced) = match view.search(key) {
        Ok(index) if view.value(index) == value => return Ok(()),
        Ok(index) => (index, index..index + 1),
        Err(index) => (index, index..index),
    };
    if let Some(page) = view.spliced(replaced.clone(), Some((key, value))) {
        pages.put(path.leaf_at, page);
        return Ok(());
    }
    let mut entries = view.entries();
    let entry = Entry { key: key.to_vec(), value: value.to_vec() };
    entries.list.splice(replaced, [entry]);
    let mut split = store(pages, &mut meta, path.leaf_at, entries, index).await?;
    for step in path.steps.iter().rev() {
        let Some(pointer) = split else { break };
        let mut entries = View::new(&step.page, step.at, step.level)?.entries();
        entries.list.insert(step.slot + 1, pointer);
        split = store(pages, &mut meta, step.at, entries, step.slot + 1).await?;
    }
    if let Some(pointer) = split {
        grow_root(pages, &mut meta, pointer).await?;
    }
    if meta != before {
        write_meta(pages, &meta);
    }
    Ok(())
}

/// Writes edited entries back, in two pages where one is too small; returns the pointer to
/// the second.
async fn store<P: Pages>(
    pages: &mut P,
    meta: &mut Meta,
    at: VirtualBlock,
    mut entries: Entries,
    edited: usize,
) -> Result<Option<Entry>, P::Error> {
    if entries.fits() {
        pages.put(at, entries.encode(at));
        return Ok(None);
    }
    let right_at = allocate(pages, meta).await?;
    let middle = split_point(&entries, edited);
    let mut right = Entries { level: entries.level, list: entries.list.split_off(middle) };
    let separator = right.list[0].key.clone();
    if right.level > 0 {
        right.list[0].key.clear(); // an inner page's first key is "before everything"
    }
    pages.put(at, entries.encode(at));
    pages.put(right_at, right.encode(right_at));
    Ok(Some(Entry::pointer(separator, right_at)))
}

/// Where to split: after everything when appending (rows come in ascending order, and half-full
/// pages would waste the rest), else where the larger half is smallest.
fn split_point(entries: &Entries, edited: usize) -> usize {
    let count = entries.list.len();
    let total = entries.bytes();
    let last = entries.list[count - 1].bytes();
    if edited == count - 1 && total - last <= super::page::CAPACITY_BYTES {
        return count - 1;
    }
    let mut left = 0;
    let mut best = (usize::MAX, 1);
    for (index, entry) in entries.list.iter().enumerate().take(count - 1) {
        left += entry.bytes();
        best = best.min((left.max(total - left), index + 1));
    }
    best.1
}

async fn grow_root<P: Pages>(
    pages: &mut P,
    meta: &mut Meta,
    pointer: Entry,
) -> Result<(), P::Error> {
    let root = allocate(pages, meta).await?;
    let level = meta.root_level + 1;
    let list = vec![Entry::pointer(Vec::new(), meta.root), pointer];
    pages.put(root, Entries { level, list }.encode(root));
    meta.root = root;
    meta.root_level = level;
    Ok(())
}
