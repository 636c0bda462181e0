//! One page: its bytes, checked, and its entries, editable.
//!
//! ```text
//! 0   magic "BRow"   4  kind   5  level   6  count u16   8  own page number u64
//! 16  count offsets, u16, each where an entry begins; then the entries without gaps:
//!     key bytes u16, value bytes u16, key, value; then zeros
//! ```
//! An inner page is the same with 8-byte values, the children; its first key is empty.

use std::ops::Deref;

use bough_blockstore::{BLOCK_BYTES, VirtualBlock};

use super::{KEY_MAX_BYTES, LEVEL_MAX, PAGES_MAX, PageFault, PageFaultKind, VALUE_MAX_BYTES};

const MAGIC: [u8; 4] = *b"BRow";
const HEADER_BYTES: usize = 16;
const SLOT_BYTES: usize = 2;
const LENGTHS_BYTES: usize = 4;
/// What entries and their slots may fill.
pub(super) const CAPACITY_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;
/// The largest entry with its slot; a page holds at least two, so that a split always succeeds.
const ENTRY_MAX_BYTES: usize = SLOT_BYTES + LENGTHS_BYTES + KEY_MAX_BYTES + VALUE_MAX_BYTES;
const _: () = assert!((CAPACITY_BYTES + 2 * ENTRY_MAX_BYTES) / 2 <= CAPACITY_BYTES);

/// A page's bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Page(Box<[u8; BLOCK_BYTES]>);

impl Page {
    /// A page of zeros.
    pub fn zeroed() -> Self {
        Self(Box::new([0; BLOCK_BYTES]))
    }

    /// A page of these bytes.
    pub fn new(bytes: [u8; BLOCK_BYTES]) -> Self {
        Self(Box::new(bytes))
    }

    /// The bytes, to be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK_BYTES] {
        &mut self.0
    }
}

impl Deref for Page {
    type Target = [u8; BLOCK_BYTES];
    fn deref(&self) -> &[u8; BLOCK_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page(..)")
    }
}

/// What a page is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Meta,
    Tree,
    Free,
}

/// Writes the header that all kinds of page share.
pub(super) fn put_header(page: &mut Page, at: VirtualBlock, kind: Kind, level: u8, count: u16) {
    let bytes = page.bytes_mut();
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4] = kind_byte(kind);
    bytes[5] = level;
    bytes[6..8].copy_from_slice(&count.to_le_bytes());
    bytes[8..16].copy_from_slice(&at.raw().to_le_bytes());
}

const fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Meta => 1,
        Kind::Tree => 2,
        Kind::Free => 3,
    }
}

/// Checks what all kinds of page share; returns level and count.
pub(super) fn check_header(
    page: &Page,
    at: VirtualBlock,
    kind: Kind,
) -> Result<(u8, u16), PageFault> {
    if page[0..4] != MAGIC {
        return Err(PageFaultKind::Magic.at(at));
    }
    let own = u64_at(&page[..], 8);
    if own != at.raw() {
        return Err(PageFaultKind::Misplaced(own).at(at));
    }
    if page[4] != kind_byte(kind) {
        return Err(PageFaultKind::Unexpected.at(at));
    }
    Ok((page[5], u16_at(&page[..], 6)))
}

/// # Panics
/// Beyond the end; callers have checked.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// A checked tree page, read in place.
pub(super) struct View<'a> {
    page: &'a Page,
    at: VirtualBlock,
    pub(super) level: u8,
    pub(super) count: usize,
}

impl<'a> View<'a> {
    /// Checks everything that later reads rely on.
    pub(super) fn new(page: &'a Page, at: VirtualBlock, level: u8) -> Result<Self, PageFault> {
        let (own_level, count) = check_header(page, at, Kind::Tree)?;
        if own_level != level || level > LEVEL_MAX {
            return Err(PageFaultKind::Unexpected.at(at));
        }
        let view = Self { page, at, level, count: usize::from(count) };
        view.check_entries().map_err(|kind| kind.at(at))?;
        Ok(view)
    }

    fn check_entries(&self) -> Result<(), PageFaultKind> {
        let mut expected = HEADER_BYTES + self.count * SLOT_BYTES;
        if expected > BLOCK_BYTES {
            return Err(PageFaultKind::Bounds);
        }
        for index in 0..self.count {
            expected = self.check_entry(index, expected)?;
        }
        if self.page[expected..].iter().any(|byte| *byte != 0) {
            return Err(PageFaultKind::Bounds);
        }
        if self.level > 0 && (self.count == 0 || !self.key(0).is_empty()) {
            return Err(PageFaultKind::Order);
        }
        Ok(())
    }

    /// Checks one entry, which must begin at `expected`; returns where it ends.
    fn check_entry(&self, index: usize, expected: usize) -> Result<usize, PageFaultKind> {
        let offset = self.offset(index);
        if offset != expected || offset + LENGTHS_BYTES > BLOCK_BYTES {
            return Err(PageFaultKind::Bounds);
        }
        let (key_bytes, value_bytes) = self.lengths(offset);
        let end = offset + LENGTHS_BYTES + key_bytes + value_bytes;
        let fits = key_bytes <= KEY_MAX_BYTES && value_bytes <= VALUE_MAX_BYTES;
        if !fits || end > BLOCK_BYTES || (self.level > 0 && value_bytes != 8) {
            return Err(PageFaultKind::Bounds);
        }
        if index > 0 && self.key(index - 1) >= self.key(index) {
            return Err(PageFaultKind::Order);
        }
        Ok(end)
    }

    fn offset(&self, index: usize) -> usize {
        usize::from(u16_at(&self.page[..], HEADER_BYTES + index * SLOT_BYTES))
    }

    fn lengths(&self, offset: usize) -> (usize, usize) {
        let bytes = &self.page[..];
        (usize::from(u16_at(bytes, offset)), usize::from(u16_at(bytes, offset + 2)))
    }

    pub(super) fn key(&self, index: usize) -> &'a [u8] {
        let offset = self.offset(index);
        let (key_bytes, _) = self.lengths(offset);
        &self.page[offset + LENGTHS_BYTES..][..key_bytes]
    }

    pub(super) fn value(&self, index: usize) -> &'a [u8] {
        let offset = self.offset(index);
        let (key_bytes, value_bytes) = self.lengths(offset);
        &self.page[offset + LENGTHS_BYTES + key_bytes..][..value_bytes]
    }

    /// Where `key` is, or where it would go.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Which child covers `key`: the last whose key is not greater (the first key is empty).
    pub(super) fn child_slot(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(slot) => slot,
            Err(slot) => slot.saturating_sub(1),
        }
    }

    /// The page that entry `slot` of an inner page points at.
    pub(super) fn child(&self, slot: usize) -> Result<VirtualBlock, PageFault> {
        page_number(u64_at(self.value(slot), 0)).map_err(|kind| kind.at(self.at))
    }

    /// All entries, to be edited.
    pub(super) fn entries(&self) -> Entries {
        let entry = |i| Entry { key: self.key(i).to_vec(), value: self.value(i).to_vec() };
        Entries { level: self.level, list: (0..self.count).map(entry).collect() }
    }
}

/// A pointer read from a page; zero, the meta page, is no child.
pub(super) fn page_number(raw: u64) -> Result<VirtualBlock, PageFaultKind> {
    match raw {
        1..PAGES_MAX => Ok(VirtualBlock::of(raw)),
        _ => Err(PageFaultKind::Pointer(raw)),
    }
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Entry {
    /// What it takes in a page.
    pub(super) fn bytes(&self) -> usize {
        SLOT_BYTES + LENGTHS_BYTES + self.key.len() + self.value.len()
    }

    /// An inner page's pointer to `child`, which holds the keys from `key` on.
    pub(super) fn pointer(key: Vec<u8>, child: VirtualBlock) -> Self {
        Self { key, value: child.raw().to_le_bytes().to_vec() }
    }
}

/// A page's entries while they are edited; may be too many for one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entries {
    pub(super) level: u8,
    pub(super) list: Vec<Entry>,
}

impl Entries {
    pub(super) fn bytes(&self) -> usize {
        self.list.iter().map(Entry::bytes).sum()
    }

    pub(super) fn fits(&self) -> bool {
        self.bytes() <= CAPACITY_BYTES
    }

    /// The page that holds these.
    ///
    /// # Panics
    /// Where they do not fit: a bug of ours, callers split first.
    pub(super) fn encode(&self, at: VirtualBlock) -> Page {
        assert!(self.fits(), "page overflows");
        let mut page = Page::zeroed();
        put_header(&mut page, at, Kind::Tree, self.level, short(self.list.len()));
        let mut offset = HEADER_BYTES + self.list.len() * SLOT_BYTES;
        for (index, entry) in self.list.iter().enumerate() {
            let slot = HEADER_BYTES + index * SLOT_BYTES;
            page.bytes_mut()[slot..][..SLOT_BYTES].copy_from_slice(&short(offset).to_le_bytes());
            offset = put_entry(page.bytes_mut(), offset, entry);
        }
        page
    }
}

fn put_entry(bytes: &mut [u8; BLOCK_BYTES], offset: usize, entry: &Entry) -> usize {
    bytes[offset..][..2].copy_from_slice(&short(entry.key.len()).to_le_bytes());
    bytes[offset + 2..][..2].copy_from_slice(&short(entry.value.len()).to_le_bytes());
    let key_at = offset + LENGTHS_BYTES;
    let value_at = key_at + entry.key.len();
    bytes[key_at..][..entry.key.len()].copy_from_slice(&entry.key);
    bytes[value_at..][..entry.value.len()].copy_from_slice(&entry.value);
    value_at + entry.value.len()
}

fn short(value: usize) -> u16 {
    u16::try_from(value).expect("less than a page")
}
