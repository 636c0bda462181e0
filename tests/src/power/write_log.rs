//! The log of the kernel's device-mapper target `log-writes`, read back.
//!
//! ```text
//! super    magic u64 | version u64 | entries u64 | sector bytes u32, in one sector
//! entry    sector u64 | sectors u64 | flags u64 | data bytes u64, in one sector; a mark's text
//!          follows in that sector, a write's data in the sectors behind it, a discard has none
//! ```
//!
//! Little-endian. A write that the device may still have in its cache is logged only when a flush
//! that began after its completion has completed, just before that flush. So what lies before a
//! flush is all that a power cut at that moment leaves for certain, and of what lies between two
//! flushes a cut between them may keep anything.

/// Of every sector number here, whatever the device's own sectors are.
const SECTOR_BYTES: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const ENTRY_BYTES: usize = 32;

const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// Why a file is no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not begun like one.
    #[error("this is no log of dm-log-writes, or one of another version")]
    Alien,
    /// It ends too early.
    #[error("entry {index} of the log is cut short")]
    Short {
        /// Which.
        index: u64,
    },
}

/// What was asked of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but a flush.
    Nothing,
    /// These bytes, from this byte on.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// These bytes need not be kept.
    Discard {
        /// Where.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Somebody left word.
    Mark(String),
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was asked.
    pub action: Action,
    /// Everything before this is on the medium.
    pub is_flush: bool,
    /// This is on the medium, too.
    pub is_durable: bool,
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteLog {
    /// In order.
    pub entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads a log.
    ///
    /// # Errors
    /// Where it is none, or not whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        if word(bytes, 0) != Some(MAGIC) || word(bytes, 8) != Some(VERSION) {
            return Err(LogError::Alien);
        }
        let count = word(bytes, 16).ok_or(LogError::Alien)?;
        // A u32, and zeros behind it.
        let unit = word(bytes, 24).ok_or(LogError::Alien)?;
        if !(SECTOR_BYTES..=65536).contains(&unit) {
            return Err(LogError::Alien);
        }
        let unit = usize::try_from(unit).map_err(|_| LogError::Alien)?;
        let mut at = unit;
        let mut entries = Vec::new();
        for index in 0..count {
            let (entry, length) =
                entry(&bytes[at.min(bytes.len())..], unit).ok_or(LogError::Short { index })?;
            at += length;
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The entries between flushes: each part ends with a flush, but for the last.
    pub fn parts(&self) -> impl Iterator<Item = &[Entry]> {
        self.entries.split_inclusive(|entry| entry.is_flush)
    }
}

/// An entry, and how much of the log it takes.
fn entry(bytes: &[u8], unit: usize) -> Option<(Entry, usize)> {
    let [sector, count, flags, data_bytes] = [0, 8, 16, 24].map(|at| word(bytes, at));
    let (flags, unit_bytes) = (flags?, u64::try_from(unit).ok()?);
    let offset = sector?.checked_mul(unit_bytes)?;
    let length = usize::try_from(count?.checked_mul(unit_bytes)?).ok()?;
    let mut taken = unit;
    let action = if flags & MARK != 0 {
        let text =
            bytes.get(ENTRY_BYTES..ENTRY_BYTES.checked_add(usize::try_from(data_bytes?).ok()?)?)?;
        Action::Mark(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    } else if flags & DISCARD != 0 {
        Action::Discard { offset, bytes: u64::try_from(length).ok()? }
    } else if length == 0 {
        Action::Nothing
    } else {
        taken = unit.checked_add(length)?;
        Action::Write { offset, data: bytes.get(unit..taken)?.to_vec() }
    };
    bytes.get(..taken)?;
    Some((Entry { action, is_flush: flags & FLUSH != 0, is_durable: flags & FUA != 0 }, taken))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: &[u64], text: &[u8], unit: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(text);
        bytes.resize(unit, 0);
        bytes
    }

    /// A write of two sectors, a mark, a discard, an empty flush, a durable write.
    fn sample(unit: usize) -> Vec<u8> {
        let size = u64::try_from(unit).unwrap();
        [
            sector(&[MAGIC, VERSION, 5, size], &[], unit),
            sector(&[3, 2, 0, 0], &[], unit),
            vec![7; 2 * unit],
            sector(&[0, 0, MARK, 5], b"hello", unit),
            sector(&[8, 4, DISCARD, 0], &[], unit),
            sector(&[0, 0, FLUSH, 0], &[], unit),
            sector(&[1, 1, FUA, 0], &[], unit),
            vec![9; unit],
        ]
        .concat()
    }

    #[test]
    fn a_log_is_read_whatever_the_devices_sectors_are() {
        for unit in [512, 4096] {
            let log = WriteLog::parse(&sample(unit)).unwrap();
            let size = u64::try_from(unit).unwrap();
            let plain = |action| Entry { action, is_flush: false, is_durable: false };
            let expected = [
                plain(Action::Write { offset: 3 * size, data: vec![7; 2 * unit] }),
                plain(Action::Mark("hello".into())),
                plain(Action::Discard { offset: 8 * size, bytes: 4 * size }),
                Entry { is_flush: true, ..plain(Action::Nothing) },
                Entry {
                    is_durable: true,
                    ..plain(Action::Write { offset: size, data: vec![9; unit] })
                },
            ];
            assert_eq!(log.entries, expected);
            let parts: Vec<usize> = log.parts().map(<[Entry]>::len).collect();
            assert_eq!(parts, [4, 1]);
        }
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_refused() {
        let whole = sample(512);
        for length in 512..whole.len() {
            assert!(matches!(WriteLog::parse(&whole[..length]), Err(LogError::Short { .. })));
        }
        assert_eq!(WriteLog::parse(&whole[1..]), Err(LogError::Alien));
        assert_eq!(WriteLog::parse(&[]), Err(LogError::Alien));
        let vast = [&sector(&[MAGIC, VERSION, 1, 512], &[], 512)[..], &[0xff; 512]].concat();
        assert_eq!(WriteLog::parse(&vast), Err(LogError::Short { index: 0 }));
    }
}
