//! VMDK in one file with a table of grains: `monolithicSparse` (what VMware and QEMU make) and
//! `streamOptimized` (what an OVA holds).
//!
//! I never trust a number from the file: sizes are bounded on opening, and an address is checked where it
//! is used.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bough_blockstore::to_usize;
use flate2::read::ZlibDecoder;

use super::{Image, ImageError, Mapped};

const SECTOR_BYTES: u64 = 512;
const GRAIN_MAX_SECTORS: u64 = 2048;
const TABLE_MAX_ENTRIES: u64 = 4096;
const CAPACITY_MAX_SECTORS: u64 = 1 << 41;
const DESCRIPTOR_MAX_SECTORS: u64 = 128;
/// A grain that compresses badly is a little longer than it was.
const COMPRESSED_MAX_BYTES: u32 = 2 * 2048 * 512;

const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const DIRECTORY_AT_END: u64 = u64::MAX;
/// Where the real header of a streamed image is, from its end.
const FOOTER_FROM_END_BYTES: u64 = 1024;
const GRAIN_OF_ZEROS: u32 = 1;

/// A sparse VMDK image.
pub struct SparseVmdk {
    file: File,
    path: PathBuf,
    header: Header,
    /// The grain table looked at last: its index in the directory, and its entries.
    table: Option<(u64, Vec<u32>)>,
    /// The grain unpacked last: its sector in the file, and its bytes.
    unpacked: Option<(u32, Vec<u8>)>,
}

/// The header's fields, as far as they matter.
struct Header {
    flags: u32,
    capacity_sectors: u64,
    grain_sectors: u64,
    descriptor_sector: u64,
    descriptor_sectors: u64,
    table_entries: u64,
    directory_sector: u64,
}

impl Header {
    fn parse(bytes: &[u8; 512]) -> Option<Self> {
        let u32_at = |at: usize| bytes[at..].first_chunk().map(|x| u32::from_le_bytes(*x));
        let u64_at = |at: usize| bytes[at..].first_chunk().map(|x| u64::from_le_bytes(*x));
        (bytes.starts_with(b"KDMV")).then_some(())?;
        Some(Self {
            flags: u32_at(8)?,
            capacity_sectors: u64_at(12)?,
            grain_sectors: u64_at(20)?,
            descriptor_sector: u64_at(28)?,
            descriptor_sectors: u64_at(36)?,
            table_entries: u64::from(u32_at(44)?),
            directory_sector: u64_at(56)?,
        })
    }

    fn fault(&self) -> Option<&'static str> {
        if self.capacity_sectors > CAPACITY_MAX_SECTORS {
            return Some("it claims to hold more than 1 PiB");
        }
        if !self.grain_sectors.is_power_of_two() || self.grain_sectors > GRAIN_MAX_SECTORS {
            return Some("its grain size is impossible");
        }
        if self.table_entries == 0 || self.table_entries > TABLE_MAX_ENTRIES {
            return Some("its grain tables have an impossible size");
        }
        if self.descriptor_sectors > DESCRIPTOR_MAX_SECTORS {
            return Some("its descriptor is too long");
        }
        None
    }

    fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR_BYTES
    }
}

impl SparseVmdk {
    /// Reads the header, and refuses what depends on other files.
    pub fn new(file: File, path: &Path) -> Result<Self, ImageError> {
        let damaged = |what| ImageError::Damaged { path: path.to_owned(), what };
        let mut header = read_header(&file, path, 0)?;
        if header.directory_sector == DIRECTORY_AT_END {
            let length = file.metadata().map_err(ImageError::io(path))?.len();
            let footer = length.checked_sub(FOOTER_FROM_END_BYTES);
            header = read_header(&file, path, footer.ok_or(damaged("it was cut off"))?)?;
        }
        let image = Self { file, path: path.to_owned(), header, table: None, unpacked: None };
        image.refuse_parent()?;
        Ok(image)
    }

    fn refuse_parent(&self) -> Result<(), ImageError> {
        let length = to_usize(self.header.descriptor_sectors * SECTOR_BYTES);
        let mut text = vec![0; length];
        self.read_file(self.header.descriptor_sector, &mut text)?;
        let text = String::from_utf8_lossy(&text).to_lowercase();
        let parent = text.lines().find_map(|line| line.trim().strip_prefix("parentcid="));
        match parent.map(str::trim) {
            None | Some("ffffffff") => Ok(()),
            Some(_) => {
                let what = "has a parent image";
                Err(ImageError::Unsupported { path: self.path.clone(), what })
            }
        }
    }

    fn damaged(&self, what: &'static str) -> ImageError {
        ImageError::Damaged { path: self.path.clone(), what }
    }

    fn read_file(&self, sector: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let at = sector.checked_mul(SECTOR_BYTES);
        let at = at.ok_or_else(|| self.damaged("it refers to a place beyond its end"))?;
        self.read_bytes(at, out)
    }

    fn read_bytes(&self, at: u64, out: &mut [u8]) -> Result<(), ImageError> {
        match self.file.read_exact_at(out, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it was cut off, or refers to a place beyond its end"))
            }
            other => other.map_err(ImageError::io(&self.path)),
        }
    }

    /// The entry of a grain: zero for a hole, one for zeros, else its sector.
    fn entry(&mut self, grain: u64) -> Result<u32, ImageError> {
        let (table, slot) = (grain / self.header.table_entries, grain % self.header.table_entries);
        if self.table.as_ref().is_none_or(|(cached, _)| *cached != table) {
            self.table = Some((table, self.load_table(table)?));
        }
        let entries = self.table.as_ref().map_or(&[][..], |(_, entries)| entries);
        let entry = entries.get(to_usize(slot)).copied().unwrap_or(0);
        let zeros = entry == GRAIN_OF_ZEROS && self.header.flags & FLAG_ZERO_GRAINS != 0;
        Ok(if zeros { 0 } else { entry })
    }

    /// An empty table stands for one that is all holes.
    fn load_table(&self, table: u64) -> Result<Vec<u32>, ImageError> {
        let mut pointer = [0; 4];
        let directory = self.header.directory_sector.checked_mul(SECTOR_BYTES);
        let at = directory.and_then(|directory| directory.checked_add(table * 4));
        let at = at.ok_or_else(|| self.damaged("it refers to a place beyond its end"))?;
        self.read_bytes(at, &mut pointer)?;
        let sector = u32::from_le_bytes(pointer);
        if sector == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; to_usize(self.header.table_entries * 4)];
        self.read_file(u64::from(sector), &mut bytes)?;
        let (entries, _) = bytes.as_chunks::<4>();
        Ok(entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect())
    }

    fn unpack(&mut self, sector: u32) -> Result<&[u8], ImageError> {
        let cached = self.unpacked.as_ref().is_some_and(|(known, _)| *known == sector);
        if !cached {
            let grain = self.inflate(sector)?;
            self.unpacked = Some((sector, grain));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, grain)| grain))
    }

    /// A compressed grain: its number (8 bytes), its length (4), and a zlib stream of at most a grain.
    fn inflate(&self, sector: u32) -> Result<Vec<u8>, ImageError> {
        let mut marker = [0; 12];
        self.read_file(u64::from(sector), &mut marker)?;
        let length = u32::from_le_bytes([marker[8], marker[9], marker[10], marker[11]]);
        if length > COMPRESSED_MAX_BYTES {
            return Err(self.damaged("a compressed grain is impossibly long"));
        }
        let mut packed = vec![0; to_usize(u64::from(length))];
        self.read_bytes(u64::from(sector) * SECTOR_BYTES + 12, &mut packed)?;
        let mut grain = Vec::new();
        let limit = self.header.grain_bytes();
        let unpacked = ZlibDecoder::new(packed.as_slice()).take(limit).read_to_end(&mut grain);
        unpacked.map_err(|_| self.damaged("a compressed grain cannot be unpacked"))?;
        grain.resize(to_usize(limit), 0);
        Ok(grain)
    }

    /// Fills `out`, which lies in one grain.
    fn read_in_grain(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let grain_bytes = self.header.grain_bytes();
        let within = offset_bytes % grain_bytes;
        match self.entry(offset_bytes / grain_bytes)? {
            0 => out.fill(0),
            sector if self.header.flags & FLAG_COMPRESSED != 0 => {
                let from = to_usize(within);
                let to = from + out.len();
                out.copy_from_slice(&self.unpack(sector)?[from..to]);
            }
            sector => self.read_bytes(u64::from(sector) * SECTOR_BYTES + within, out)?,
        }
        Ok(())
    }
}

fn read_header(file: &File, path: &Path, at: u64) -> Result<Header, ImageError> {
    let damaged = |what| ImageError::Damaged { path: path.to_owned(), what };
    let mut bytes = [0; 512];
    file.read_exact_at(&mut bytes, at).map_err(|_| damaged("it was cut off"))?;
    let header = Header::parse(&bytes).ok_or(damaged("its header is missing"))?;
    match header.fault() {
        Some(what) => Err(damaged(what)),
        None => Ok(header),
    }
}

impl Image for SparseVmdk {
    fn size_bytes(&self) -> u64 {
        self.header.capacity_sectors * SECTOR_BYTES
    }

    fn map(&mut self, offset_bytes: u64) -> Result<Mapped, ImageError> {
        let grain_bytes = self.header.grain_bytes();
        let grain = offset_bytes / grain_bytes;
        let zero = self.entry(grain)? == 0;
        let mut last = grain;
        // A table of holes is passed over at once; else neighbours of one kind, within one table.
        if zero && self.table.as_ref().is_some_and(|(_, entries)| entries.is_empty()) {
            last = (grain / self.header.table_entries + 1) * self.header.table_entries - 1;
        }
        let size_bytes = self.size_bytes();
        let in_table = |next: u64, entries: u64| !next.is_multiple_of(entries);
        while in_table(last + 1, self.header.table_entries)
            && (last + 1) * grain_bytes < size_bytes
            && (self.entry(last + 1)? == 0) == zero
        {
            last += 1;
        }
        let end = ((last + 1) * grain_bytes).min(size_bytes);
        Ok(Mapped { zero, length_bytes: end - offset_bytes })
    }

    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let (mut at, mut rest) = (offset_bytes, out);
        while !rest.is_empty() {
            let in_grain = to_usize(self.header.grain_bytes() - at % self.header.grain_bytes());
            let length = in_grain.min(rest.len());
            let (piece, later) = rest.split_at_mut(length);
            self.read_in_grain(at, piece)?;
            at += bough_blockstore::to_u64(length);
            rest = later;
        }
        Ok(())
    }
}
