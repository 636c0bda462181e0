//! The catalogue's pages and rows, read from their description.

use std::collections::BTreeMap;

use crate::layout::Root;
use crate::medium::Block;

/// Page 0, its fields in order.
pub type Meta = [u64; 14];

/// A version.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number.
    pub id: u64,
    /// Its disk's number.
    pub disk: u32,
    /// `DISK` or `DISK@LABEL`.
    pub name: String,
    /// Its epoch.
    pub epoch: u64,
    /// What it began from.
    pub parent: Option<u64>,
    /// Its size.
    pub size_bytes: u64,
    /// Its tree.
    pub root: Root,
    /// Whether it has no tree of its own yet.
    pub pending: bool,
    /// Data blocks that its tree reaches.
    pub referenced_blocks: i64,
    /// Data blocks that are its own.
    pub owned_blocks: i64,
}

impl Version {
    /// The key of its row.
    pub fn key(&self) -> Vec<u8> {
        [b"V".as_slice(), &self.id.to_be_bytes()].concat()
    }

    /// The key of its place in its disk's list.
    pub fn timeline_key(&self) -> Vec<u8> {
        [b"T".as_slice(), &self.disk.to_be_bytes(), &self.epoch.to_be_bytes()].concat()
    }

    /// The key by which its parent knows it.
    pub fn child_key(&self) -> Option<Vec<u8>> {
        Some([b"K".as_slice(), &self.parent?.to_be_bytes(), &self.id.to_be_bytes()].concat())
    }
}

/// A disk's right to allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its first block.
    pub start: u64,
    /// Its blocks.
    pub count: u64,
    /// Whose.
    pub disk: u32,
}

/// A disk's active chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Whose.
    pub disk: u32,
    /// Its secret.
    pub nonce: [u8; 16],
    /// Its first record.
    pub sequence: u64,
    /// The block of that record's header.
    pub at: u64,
}

/// All rows.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Page 0.
    pub meta: Meta,
    /// Keys and values, as they are.
    pub raw: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Which page each key is in.
    pub pages: BTreeMap<Vec<u8>, u64>,
    /// Disks by number.
    pub disks: BTreeMap<u32, String>,
    /// Versions by name; hidden ones are left out.
    pub versions: BTreeMap<String, Version>,
    /// Extents.
    pub extents: Vec<Extent>,
    /// Chains.
    pub chains: Vec<Chain>,
}

impl Rows {
    /// Reads everything that page 0 leads to.
    ///
    /// # Panics
    /// At the first thing that is not as described.
    pub(crate) fn read(page: &impl Fn(u64) -> Block) -> Self {
        let first = page(0);
        check_header(&first, 0, 1);
        let meta: Meta = std::array::from_fn(|field| word(&first[..], 16 + 8 * field));
        assert_eq!(meta[0], 1, "the version of page 0");
        assert!(first[128..].iter().all(|byte| *byte == 0));
        let (mut raw, mut pages) = (BTreeMap::new(), BTreeMap::new());
        let mut ahead = vec![(meta[1], meta[2])];
        while let Some((number, level)) = ahead.pop() {
            for (key, value) in entries(&page(number), number, level) {
                if level > 0 {
                    ahead.push((word(&value, 0), level - 1));
                } else {
                    pages.insert(key.clone(), number);
                    assert!(raw.insert(key, value).is_none(), "a key twice");
                }
            }
        }
        let mut rows = Self {
            meta,
            raw,
            pages,
            disks: BTreeMap::new(),
            versions: BTreeMap::new(),
            extents: Vec::new(),
            chains: Vec::new(),
        };
        for (key, value) in rows.raw.clone() {
            rows.take(key[0], &key[1..], &value);
        }
        rows
    }

    /// A version by name.
    ///
    /// # Panics
    /// Where there is none.
    pub fn version(&self, name: &str) -> &Version {
        self.versions.get(name).unwrap_or_else(|| panic!("no version {name}"))
    }

    fn take(&mut self, letter: u8, key: &[u8], value: &[u8]) {
        let mut row = Row(value);
        assert_eq!(row.u8(), 1, "the version of a row");
        match letter {
            b'D' => {
                let (id, name) = row.disk();
                assert_eq!(key, id.to_be_bytes());
                self.disks.insert(id, name);
            }
            b'V' => {
                let (version, hidden) = row.version(&self.disks);
                assert_eq!(key, version.id.to_be_bytes());
                if !hidden {
                    self.versions.insert(version.name.clone(), version);
                }
            }
            b'E' => {
                let extent = Extent { start: row.u64(), count: row.u64(), disk: row.u32() };
                assert_eq!(key, extent.start.to_be_bytes());
                self.extents.push(extent);
            }
            b'C' => {
                let (disk, nonce) = (row.u32(), row.array());
                let (sequence, at) = (row.u64(), row.u64());
                let _previous_crc_epoch_synced = (row.u32(), row.u64(), row.u64());
                assert_eq!(key, disk.to_be_bytes());
                self.chains.push(Chain { disk, nonce, sequence, at });
            }
            b'R' => {
                assert_eq!(key, row.u64().to_be_bytes());
                let _cursor_data_nodes = (row.u64(), row.u64(), row.u64());
            }
            b'A' => {
                assert_eq!(key, row.u32().to_be_bytes());
                let [_, _]: [u8; 2] = row.array();
                row.flag();
            }
            b'Q' => {
                assert_eq!(key, row.u32().to_be_bytes());
                let (iops, bytes) = (row.optional(Row::u64), row.optional(Row::u64));
                assert!(iops.or(bytes).is_some(), "limits that limit nothing");
                assert!(row.u32() > 0);
            }
            b'N' | b'S' | b'T' => drop(row.u64()),
            b'K' => assert_eq!(key[8..], row.u64().to_be_bytes()),
            other => panic!("a row of kind {other:?}"),
        }
        assert!(row.0.is_empty(), "{} bytes after a row {letter:?}", row.0.len());
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn short(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes")))
}

fn check_header(page: &Block, number: u64, kind: u8) {
    assert_eq!(&page[..4], b"BRow");
    assert_eq!(page[4], kind);
    assert_eq!(word(&page[..], 8), number, "a page in the wrong place");
}

fn entries(page: &Block, number: u64, level: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    check_header(page, number, 2);
    assert_eq!(u64::from(page[5]), level);
    let count = short(&page[..], 6);
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut expected = 16 + 2 * count;
    for index in 0..count {
        let at = short(&page[..], 16 + 2 * index);
        assert_eq!(at, expected, "a gap before an entry");
        let (key_bytes, value_bytes) = (short(&page[..], at), short(&page[..], at + 2));
        let key = page[at + 4..][..key_bytes].to_vec();
        let value = page[at + 4 + key_bytes..][..value_bytes].to_vec();
        expected = at + 4 + key_bytes + value_bytes;
        assert!(found.last().is_none_or(|(before, _)| *before < key), "keys out of order");
        found.push((key, value));
    }
    assert!(page[expected..].iter().all(|byte| *byte == 0));
    found
}

/// What is left of a row.
struct Row<'a>(&'a [u8]);

impl Row<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_first_chunk().expect("a row goes on");
        self.0 = tail;
        *head
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.array())
    }

    fn flag(&mut self) -> bool {
        match self.u8() {
            0 => false,
            1 => true,
            other => panic!("a flag of {other}"),
        }
    }

    fn text(&mut self) -> String {
        let (text, tail) = {
            let count = usize::from(self.u8());
            self.0.split_at(count)
        };
        self.0 = tail;
        std::str::from_utf8(text).expect("UTF-8").to_owned()
    }

    fn optional<T>(&mut self, take: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flag() { Some(take(self)) } else { None }
    }

    fn disk(&mut self) -> (u32, String) {
        let (id, name) = (self.u32(), self.text());
        let _uuid: [u8; 16] = self.array();
        let _head = self.u64();
        let _newest_sealed = self.optional(Row::u64);
        let _created = self.u64();
        let _deleting = self.flag();
        let _snapshot_count = self.u64();
        (id, name)
    }

    fn version(&mut self, disks: &BTreeMap<u32, String>) -> (Version, bool) {
        let (id, disk, snapshot) = (self.u64(), self.u32(), self.flag());
        let label = self.optional(Row::text);
        assert!(snapshot || label.is_none(), "a head with a label");
        let disk_name = disks.get(&disk).expect("D sorts before V");
        let label_is_missing = label.is_none();
        let name = label.map_or_else(|| disk_name.clone(), |label| format!("{disk_name}@{label}"));
        let (epoch, parent) = (self.u64(), self.optional(Row::u64));
        let _uuid: [u8; 16] = self.array();
        let _parent_uuid: Option<[u8; 16]> = self.optional(Row::array);
        assert_eq!(self.u32(), 0, "nothing is encrypted");
        let size_bytes = self.u64();
        let root = Root::decode(&self.array::<24>());
        let (pending, _sealed, hidden) = (self.flag(), self.flag(), self.flag());
        let _created = self.u64();
        let (referenced_blocks, owned_blocks) = (self.i64(), self.i64());
        let _children = self.u64();
        let version = Version {
            id,
            disk,
            name,
            epoch,
            parent,
            size_bytes,
            root,
            pending,
            referenced_blocks,
            owned_blocks,
        };
        // A reader's own snapshot has no label; like a deleted one it cannot be named.
        (version, hidden || (snapshot && label_is_missing))
    }
}
