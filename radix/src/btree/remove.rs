//! Removing a key: pages that become small are joined with a neighbour, so that none stays empty.

use std::sync::Arc;

use bough_blockstore::VirtualBlock;

use super::lookup::{Step, find};
use super::meta::{free, read_meta, write_meta};
use super::page::{CAPACITY_BYTES, Entries, Page, View};
use super::{Meta, Pages};

/// A page that holds less than this looks for a neighbour to join.
const SMALL_BYTES: usize = CAPACITY_BYTES / 3;

/// Removes `key`; returns the value that it had.
pub async fn remove<P: Pages>(pages: &mut P, key: &[u8]) -> Result<Option<Vec<u8>>, P::Error> {
    let mut meta = read_meta(pages).await?;
    let before = meta;
    let path = find(pages, &meta, key).await?;
    let view = View::new(&path.leaf, path.leaf_at, 0)?;
    let Ok(index) = view.search(key) else { return Ok(None) };
    let removed = view.value(index).to_vec();
    let page = view.spliced(index..index + 1, None).expect("less fits where more did");
    let rest = View::new(&page, path.leaf_at, 0)?;
    let partner = match path.steps.last() {
        Some(step) if rest.bytes() < SMALL_BYTES => partner(pages, step, 0, rest.bytes()).await?,
        _ => None,
    };
    if partner.is_none() {
        pages.put(path.leaf_at, page);
        return Ok(Some(removed));
    }
    let mut entries = rest.entries();
    let mut at = path.leaf_at;
    for step in path.steps.iter().rev() {
        if entries.bytes() >= SMALL_BYTES {
            break;
        }
        let Some(parent) = join(pages, &mut meta, step, at, &entries).await? else { break };
        (at, entries) = (step.at, parent);
    }
    if at == meta.root && entries.level > 0 && entries.list.len() == 1 {
        drop_root(pages, &mut meta, &entries)?;
    } else {
        pages.put(at, entries.encode(at));
    }
    if meta != before {
        write_meta(pages, &meta);
    }
    Ok(Some(removed))
}

/// A page to join another with.
struct Partner {
    slot: usize,
    at: VirtualBlock,
    page: Arc<Page>,
}

/// The neighbour, if any, that has room for the `small_bytes` of the page that `step` leads to.
/// Told by sizes alone: the last pages of a tree are small for long, and have full neighbours.
async fn partner<P: Pages>(
    pages: &P,
    step: &Step,
    level: u8,
    small_bytes: usize,
) -> Result<Option<Partner>, P::Error> {
    let parent = View::new(&step.page, step.at, step.level)?;
    let candidates = [step.slot.checked_sub(1), Some(step.slot + 1)];
    for slot in candidates.into_iter().flatten().filter(|slot| *slot < parent.count) {
        let at = parent.child(slot)?;
        let page = pages.get(at).await?;
        let bytes = small_bytes + View::new(&page, at, level)?.bytes();
        // It comes back down to an inner page, whose first key is empty.
        let separator = if level > 0 { parent.key(step.slot.max(slot)).len() } else { 0 };
        if bytes + separator <= CAPACITY_BYTES {
            return Ok(Some(Partner { slot, at, page }));
        }
    }
    Ok(None)
}

/// Joins the page `at` (whose entries are `small`, not written yet) with a neighbour, where both
/// fit one page. Returns the parent's entries, to be written by the caller; `None` where no
/// neighbour has room.
async fn join<P: Pages>(
    pages: &mut P,
    meta: &mut Meta,
    step: &Step,
    at: VirtualBlock,
    small: &Entries,
) -> Result<Option<Entries>, P::Error> {
    let Some(other) = partner(pages, step, small.level, small.bytes()).await? else {
        return Ok(None);
    };
    let parent = View::new(&step.page, step.at, step.level)?;
    let neighbour = View::new(&other.page, other.at, small.level)?.entries();
    let right_slot = step.slot.max(other.slot);
    let separator = parent.key(right_slot);
    let (left_at, joined) = if other.slot < step.slot {
        (other.at, concatenate(neighbour, small.clone(), separator))
    } else {
        (at, concatenate(small.clone(), neighbour, separator))
    };
    pages.put(left_at, joined.encode(left_at));
    free(pages, meta, if left_at == at { other.at } else { at });
    let mut entries = parent.entries();
    entries.list.remove(right_slot);
    Ok(Some(entries))
}

/// The entries of two neighbours; an inner page's first key comes back down from its parent.
fn concatenate(mut left: Entries, mut right: Entries, separator: &[u8]) -> Entries {
    if right.level > 0
        && let Some(first) = right.list.first_mut()
    {
        first.key = separator.to_vec();
    }
    left.list.append(&mut right.list);
    left
}

/// A root with one child gives way to it.
fn drop_root<P: Pages>(pages: &mut P, meta: &mut Meta, entries: &Entries) -> Result<(), P::Error> {
    let old = meta.root;
    let page = entries.encode(old);
    meta.root = View::new(&page, old, entries.level)?.child(0)?;
    meta.root_level -= 1;
    free(pages, meta, old);
    Ok(())
}
