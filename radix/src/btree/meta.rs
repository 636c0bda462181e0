//! Page 0: where the tree begins, which pages are free, and the catalogue's counters.

use bough_blockstore::{BLOCK_BYTES, BlockAddr, Epoch, VirtualBlock};

use super::page::{Entries, Kind, Page, check_header, is_zero, page_number, put_header, u64_at};
use super::{LEVEL_MAX, PAGES_MAX, PageFault, PageFaultKind, Pages};

const META: VirtualBlock = VirtualBlock::ZERO;
const FORMAT_VERSION: u64 = 1;
const FIELDS_AT: usize = 16;
const FIELD_COUNT: usize = 14;
const FREE_NEXT_AT: usize = 16;

/// What the engine counts in the catalogue, changed by its commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// The number that the next disk gets.
    pub next_disk: u32,
    /// The number that the next version gets.
    pub next_version: u64,
    /// No epoch from here on has been used: after a crash, counting goes on from here.
    pub epoch_lease_end: Epoch,
    /// Bits set in the space bitmaps.
    pub used_blocks: u64,
    /// No block from here on has ever been granted; their bitmap pages are all zeros.
    pub virgin_from: BlockAddr,
}

/// How many rows there are of what `status` shows; kept by the rows themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Disks, without those being deleted.
    pub disks: u64,
    /// Snapshots, without hidden ones.
    pub snapshots: u64,
    /// Versions being reclaimed.
    pub reclaims: u64,
}

/// Page 0, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The tree's root page.
    pub(super) root: VirtualBlock,
    /// Its level.
    pub(super) root_level: u8,
    /// No page from here on has ever been used.
    pub(super) next_fresh: VirtualBlock,
    /// The first page of the free list; zero ends it.
    pub(super) free_head: VirtualBlock,
    /// How many are in it.
    pub(super) free_count: u64,
    /// The engine's counters.
    pub counters: Counters,
    /// Row counts.
    pub totals: Totals,
}

/// Makes an empty tree; overwrites whatever was there.
pub fn format<P: Pages>(pages: &mut P, counters: Counters) {
    let root = VirtualBlock::of(1);
    pages.put(root, Entries { level: 0, list: Vec::new() }.encode(root));
    let meta = Meta {
        root,
        root_level: 0,
        next_fresh: root.next(),
        free_head: VirtualBlock::ZERO,
        free_count: 0,
        counters,
        totals: Totals::default(),
    };
    write_meta(pages, &meta);
}

/// Reads page 0.
pub async fn read_meta<P: Pages>(pages: &P) -> Result<Meta, P::Error> {
    let page = pages.get(META).await?;
    Ok(decode(&page)?)
}

/// Writes page 0.
pub fn write_meta<P: Pages>(pages: &mut P, meta: &Meta) {
    let mut page = Page::zeroed();
    put_header(&mut page, META, Kind::Meta, 0, 0);
    for (index, field) in fields(meta).into_iter().enumerate() {
        page.bytes_mut()[FIELDS_AT + index * 8..][..8].copy_from_slice(&field.to_le_bytes());
    }
    pages.put(META, page);
}

fn fields(meta: &Meta) -> [u64; FIELD_COUNT] {
    let Counters { next_disk, next_version, epoch_lease_end, used_blocks, virgin_from } =
        meta.counters;
    [
        FORMAT_VERSION,
        meta.root.raw(),
        u64::from(meta.root_level),
        meta.next_fresh.raw(),
        meta.free_head.raw(),
        meta.free_count,
        u64::from(next_disk),
        next_version,
        epoch_lease_end.raw(),
        used_blocks,
        virgin_from.raw(),
        meta.totals.disks,
        meta.totals.snapshots,
        meta.totals.reclaims,
    ]
}

fn decode(page: &Page) -> Result<Meta, PageFault> {
    check_header(page, META, Kind::Meta)?;
    decode_fields(page).map_err(|kind| kind.at(META))
}

fn decode_fields(page: &Page) -> Result<Meta, PageFaultKind> {
    let field = |index: usize| u64_at(&page[..], FIELDS_AT + index * 8);
    let tail = &page[FIELDS_AT + FIELD_COUNT * 8..BLOCK_BYTES];
    if field(0) != FORMAT_VERSION || !is_zero(tail) {
        return Err(PageFaultKind::Bounds);
    }
    let root_level = u8::try_from(field(2)).map_err(|_| PageFaultKind::Bounds)?;
    if root_level > LEVEL_MAX {
        return Err(PageFaultKind::Bounds);
    }
    Ok(Meta {
        root: page_number(field(1))?,
        root_level,
        next_fresh: page_number_or_end(field(3))?,
        free_head: page_number_or_zero(field(4))?,
        free_count: field(5),
        counters: Counters {
            next_disk: u32::try_from(field(6)).map_err(|_| PageFaultKind::Bounds)?,
            next_version: field(7),
            epoch_lease_end: Epoch::new(field(8)).ok_or(PageFaultKind::Bounds)?,
            used_blocks: field(9),
            virgin_from: BlockAddr::new(field(10)).ok_or(PageFaultKind::Bounds)?,
        },
        totals: Totals { disks: field(11), snapshots: field(12), reclaims: field(13) },
    })
}

fn page_number_or_zero(raw: u64) -> Result<VirtualBlock, PageFaultKind> {
    if raw == 0 { Ok(VirtualBlock::ZERO) } else { page_number(raw) }
}

fn page_number_or_end(raw: u64) -> Result<VirtualBlock, PageFaultKind> {
    if raw == PAGES_MAX { Ok(VirtualBlock::of(raw)) } else { page_number(raw) }
}

/// Takes a page off the free list, or a fresh one. The caller writes `meta` back.
pub(super) async fn allocate<P: Pages>(
    pages: &P,
    meta: &mut Meta,
) -> Result<VirtualBlock, P::Error> {
    if meta.free_head == VirtualBlock::ZERO {
        let fresh = meta.next_fresh;
        if fresh.raw() >= PAGES_MAX {
            return Err(PageFaultKind::Exhausted.at(META).into());
        }
        meta.next_fresh = fresh.next();
        return Ok(fresh);
    }
    let head = meta.free_head;
    let page = pages.get(head).await?;
    check_header(&page, head, Kind::Free)?;
    let next = u64_at(&page[..], FREE_NEXT_AT);
    meta.free_head = page_number_or_zero(next).map_err(|kind| kind.at(head))?;
    meta.free_count = meta.free_count.saturating_sub(1);
    Ok(head)
}

/// Puts a page on the free list. The caller writes `meta` back.
pub(super) fn free<P: Pages>(pages: &mut P, meta: &mut Meta, page: VirtualBlock) {
    let mut content = Page::zeroed();
    put_header(&mut content, page, Kind::Free, 0, 0);
    content.bytes_mut()[FREE_NEXT_AT..][..8].copy_from_slice(&meta.free_head.raw().to_le_bytes());
    pages.put(page, content);
    meta.free_head = page;
    meta.free_count = meta.free_count.saturating_add(1);
}
