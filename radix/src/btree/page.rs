//! One page: its bytes, checked, and its entries, editable.
//!
//! ```text
//! 0   magic "BRow"   4  kind   5  level   6  count u16   8  own page number u64
//! 16  count offsets, u16, each where an entry begins; then the entries without gaps:
//!     key bytes u16, value bytes u16, key, value; then zeros
//! ```
//! An inner page is the same with 8-byte values, the children; its first key is empty.

use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicBool, Ordering};

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
pub struct Page {
    bytes: Box<[u8; BLOCK_BYTES]>,
    /// The entries were found in order, and nothing has been changed since.
    is_sound: AtomicBool,
}

impl Page {
    /// A page of zeros.
    pub fn zeroed() -> Self {
        Self::new([0; BLOCK_BYTES])
    }

    /// A page of these bytes.
    pub fn new(bytes: [u8; BLOCK_BYTES]) -> Self {
        Self { bytes: Box::new(bytes), is_sound: AtomicBool::new(false) }
    }

    /// The bytes, to be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK_BYTES] {
        *self.is_sound.get_mut() = false;
        &mut self.bytes
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let is_sound = AtomicBool::new(self.is_sound.load(Ordering::Relaxed));
        Self { bytes: self.bytes.clone(), is_sound }
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Page {}

impl Deref for Page {
    type Target = [u8; BLOCK_BYTES];
    fn deref(&self) -> &[u8; BLOCK_BYTES] {
        &self.bytes
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

/// Whether the rest of a page is zeros. Compared as memory: byte by byte it took most of the time
/// of looking a key up, for page 0 is read with every key.
pub(super) fn is_zero(rest: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    *rest == ZEROS[..rest.len()]
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
        // Once: a tree's upper pages are looked at with every key.
        if !page.is_sound.load(Ordering::Relaxed) {
            view.check_entries().map_err(|kind| kind.at(at))?;
            page.is_sound.store(true, Ordering::Relaxed);
        }
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
        if !is_zero(&self.page[expected..]) {
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

    /// A leaf whose entries need not be in order.
    #[cfg(test)]
    pub(super) fn unchecked(page: &'a Page, at: VirtualBlock) -> Self {
        let (level, count) = check_header(page, at, Kind::Tree).expect("a leaf");
        Self { page, at, level, count: usize::from(count) }
    }

    /// What the entries take of [`CAPACITY_BYTES`].
    pub(super) fn bytes(&self) -> usize {
        self.end() - HEADER_BYTES
    }

    /// Where entry `index` begins, or would.
    fn start(&self, index: usize) -> usize {
        if index < self.count { self.offset(index) } else { self.end() }
    }

    /// Where the last entry ends.
    fn end(&self) -> usize {
        let Some(last) = self.count.checked_sub(1) else { return HEADER_BYTES };
        let offset = self.offset(last);
        let (key_bytes, value_bytes) = self.lengths(offset);
        offset + LENGTHS_BYTES + key_bytes + value_bytes
    }

    /// The page with `entry`, a key and its value, in place of the entries of `range`; nothing
    /// where it does not fit. Keeping the keys in order is the caller's.
    pub(super) fn spliced(
        &self,
        range: Range<usize>,
        entry: Option<(&[u8], &[u8])>,
    ) -> Option<Page> {
        let count = self.count - range.len() + usize::from(entry.is_some());
        let before = self.start(0)..self.start(range.start);
        let after = self.start(range.end)..self.end();
        let entry_bytes = entry.map_or(0, |(key, value)| LENGTHS_BYTES + key.len() + value.len());
        let first = HEADER_BYTES + count * SLOT_BYTES;
        if first + before.len() + entry_bytes + after.len() > BLOCK_BYTES {
            return None;
        }
        let (entry_at, after_at) = (first + before.len(), first + before.len() + entry_bytes);
        let mut page = Page::zeroed();
        put_header(&mut page, self.at, Kind::Tree, self.level, short(count));
        let bytes = page.bytes_mut();
        bytes[first..entry_at].copy_from_slice(&self.page[before.clone()]);
        if let Some((key, value)) = entry {
            put_entry(bytes, entry_at, key, value);
        }
        bytes[after_at..after_at + after.len()].copy_from_slice(&self.page[after.clone()]);
        let kept = (0..range.start).map(|index| self.offset(index) - before.start + first);
        let moved =
            (range.end..self.count).map(|index| self.offset(index) - after.start + after_at);
        let offsets = kept.chain(entry.map(|_| entry_at)).chain(moved);
        for (slot, offset) in offsets.enumerate() {
            put_offset(bytes, slot, offset);
        }
        // What was checked here need not be checked there.
        let is_sound = self.page.is_sound.load(Ordering::Relaxed);
        let keeps_order = entry.is_none_or(|(key, _)| self.is_place(range, key));
        *page.is_sound.get_mut() = is_sound && keeps_order && self.level == 0;
        Some(page)
    }

    /// Whether `key` lies between the entries around `range`.
    fn is_place(&self, range: Range<usize>, key: &[u8]) -> bool {
        let after = range.start.checked_sub(1).is_none_or(|before| self.key(before) < key);
        after && (range.end == self.count || key < self.key(range.end))
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
            put_offset(page.bytes_mut(), index, offset);
            offset = put_entry(page.bytes_mut(), offset, &entry.key, &entry.value);
        }
        page
    }
}

fn put_entry(bytes: &mut [u8; BLOCK_BYTES], offset: usize, key: &[u8], value: &[u8]) -> usize {
    bytes[offset..][..2].copy_from_slice(&short(key.len()).to_le_bytes());
    bytes[offset + 2..][..2].copy_from_slice(&short(value.len()).to_le_bytes());
    let key_at = offset + LENGTHS_BYTES;
    let value_at = key_at + key.len();
    bytes[key_at..][..key.len()].copy_from_slice(key);
    bytes[value_at..][..value.len()].copy_from_slice(value);
    value_at + value.len()
}

/// Says where entry `index` begins.
fn put_offset(bytes: &mut [u8; BLOCK_BYTES], index: usize, offset: usize) {
    let slot = HEADER_BYTES + index * SLOT_BYTES;
    bytes[slot..][..SLOT_BYTES].copy_from_slice(&short(offset).to_le_bytes());
}

fn short(value: usize) -> u16 {
    u16::try_from(value).expect("less than a page")
}
