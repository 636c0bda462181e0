//! Finding a key, and the way to it.

use std::sync::Arc;

use bough_blockstore::VirtualBlock;

use super::meta::read_meta;
use super::page::{Page, View};
use super::{Meta, Pages};

/// An inner page on the way to a leaf, and which child was taken.
pub(super) struct Step {
    pub(super) at: VirtualBlock,
    pub(super) page: Arc<Page>,
    pub(super) level: u8,
    pub(super) slot: usize,
}

/// The way from the root to a leaf.
pub(super) struct Path {
    pub(super) steps: Vec<Step>,
    pub(super) leaf_at: VirtualBlock,
    pub(super) leaf: Arc<Page>,
}

/// The value of `key`.
pub async fn get<P: Pages>(pages: &P, key: &[u8]) -> Result<Option<Vec<u8>>, P::Error> {
    let meta = read_meta(pages).await?;
    let path = find(pages, &meta, key).await?;
    let view = View::new(&path.leaf, path.leaf_at, 0)?;
    Ok(view.search(key).ok().map(|index| view.value(index).to_vec()))
}

/// The way to the leaf that holds `key`, or would.
pub(super) async fn find<P: Pages>(pages: &P, meta: &Meta, key: &[u8]) -> Result<Path, P::Error> {
    descend(pages, Vec::new(), meta.root, meta.root_level, |view| view.child_slot(key)).await
}

/// Goes down from page `at` to a leaf, `choose` naming the child at each page. Levels fall by
/// one at each step and pages that say otherwise are refused, so that no cycle can hold us.
pub(super) async fn descend<P: Pages>(
    pages: &P,
    mut steps: Vec<Step>,
    mut at: VirtualBlock,
    mut level: u8,
    choose: impl Fn(&View<'_>) -> usize,
) -> Result<Path, P::Error> {
    loop {
        let page = pages.get(at).await?;
        if level == 0 {
            return Ok(Path { steps, leaf_at: at, leaf: page });
        }
        let view = View::new(&page, at, level)?;
        let slot = choose(&view);
        let child = view.child(slot)?;
        steps.push(Step { at, page, level, slot });
        at = child;
        level -= 1;
    }
}
