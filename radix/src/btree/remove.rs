//! Removing a key: pages that become small are joined with a neighbour, so that none stays empty.

use bough_blockstore::VirtualBlock;

use super::lookup::{Step, find};
use super::meta::{free, read_meta, write_meta};
use super::page::{CAPACITY_BYTES, Entries, View};
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
    let mut entries = {
        let rest = View::new(&page, path.leaf_at, 0)?;
        if path.steps.is_empty() || rest.bytes() >= SMALL_BYTES {
            pages.put(path.leaf_at, page);
            return Ok(Some(removed));
        }
        rest.entries()
    };
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
    let parent = View::new(&step.page, step.at, step.level)?;
    let candidates = [step.slot.checked_sub(1), Some(step.slot + 1)];
    for other in candidates.into_iter().flatten().filter(|slot| *slot < parent.count) {
        let other_at = parent.child(other)?;
        let page = pages.get(other_at).await?;
        let neighbour = View::new(&page, other_at, small.level)?.entries();
        let right_slot = step.slot.max(other);
        let separator = parent.key(right_slot);
        let (left_at, joined) = if other < step.slot {
            (other_at, concatenate(neighbour, small.clone(), separator))
        } else {
            (at, concatenate(small.clone(), neighbour, separator))
        };
        if joined.fits() {
            pages.put(left_at, joined.encode(left_at));
            free(pages, meta, if left_at == at { other_at } else { at });
            let mut entries = parent.entries();
            entries.list.remove(right_slot);
            return Ok(Some(entries));
        }
    }
    Ok(None)
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
