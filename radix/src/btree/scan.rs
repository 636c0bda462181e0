//! Reading keys in order.

use super::Pages;
use super::lookup::{Path, descend, find};
use super::meta::read_meta;
use super::page::View;

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// The first `limit` pairs whose keys begin with `prefix` and are not less than `from`.
pub async fn scan<P: Pages>(
    pages: &P,
    prefix: &[u8],
    from: &[u8],
    limit: usize,
) -> Result<Vec<Pair>, P::Error> {
    let meta = read_meta(pages).await?;
    let from = from.max(prefix);
    let mut found = Vec::new();
    let mut next = Some(find(pages, &meta, from).await?);
    while let Some(path) = next {
        let view = View::new(&path.leaf, path.leaf_at, 0)?;
        let first = view.search(from).unwrap_or_else(|index| index);
        for index in first..view.count {
            if found.len() == limit || !view.key(index).starts_with(prefix) {
                return Ok(found);
            }
            found.push(Pair { key: view.key(index).to_vec(), value: view.value(index).to_vec() });
        }
        if found.len() == limit {
            break;
        }
        next = neighbour(pages, path, Side::After).await?;
    }
    Ok(found)
}

/// The pair with the greatest key that is less than `key`.
pub async fn last_before<P: Pages>(pages: &P, key: &[u8]) -> Result<Option<Pair>, P::Error> {
    let meta = read_meta(pages).await?;
    let mut next = Some(find(pages, &meta, key).await?);
    while let Some(path) = next {
        let view = View::new(&path.leaf, path.leaf_at, 0)?;
        let end = view.search(key).unwrap_or_else(|index| index);
        if let Some(index) = end.checked_sub(1) {
            let (key, value) = (view.key(index).to_vec(), view.value(index).to_vec());
            return Ok(Some(Pair { key, value }));
        }
        next = neighbour(pages, path, Side::Before).await?;
    }
    Ok(None)
}

#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

/// The leaf next to this one. Each call moves strictly forward (or back) in some inner page, so
/// scans end even in a forged tree.
async fn neighbour<P: Pages>(
    pages: &P,
    mut path: Path,
    side: Side,
) -> Result<Option<Path>, P::Error> {
    while let Some(mut step) = path.steps.pop() {
        let view = View::new(&step.page, step.at, step.level)?;
        let slot = match side {
            Side::Before => step.slot.checked_sub(1),
            Side::After => Some(step.slot + 1).filter(|slot| *slot < view.count),
        };
        let Some(slot) = slot else { continue };
        let (child, level) = (view.child(slot)?, step.level - 1);
        step.slot = slot;
        path.steps.push(step);
        let choose = |view: &View<'_>| match side {
            Side::Before => view.count - 1,
            Side::After => 0,
        };
        return Ok(Some(descend(pages, path.steps, child, level, choose).await?));
    }
    Ok(None)
}
