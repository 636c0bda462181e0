//! Reading a chain back after a crash.
//!
//! Owns the decision where a chain ends. Never writes, never interprets entries. The invariant: a
//! record that anybody was told is durable is returned, or its loss is reported as damage; what is
//! returned is a prefix of the chain that ends between groups.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::addr::{BLOCK_BYTES, BlockAddr, BlockRun, Epoch, Nonce, Sequence, to_u64, to_usize};
use crate::buffer::BlockBuf;
use crate::chain::ChainStart;
use crate::device::{Device, DeviceError, IoFuture};
use crate::record::{ChainEntry, GroupEnd, RecordHeader};

/// Bounds of a scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanLimits {
    /// Records, at most; checkpoints keep a chain far shorter.
    pub max_records: u64,
    /// Blocks of the extents to search for headers beyond the end, at most.
    pub max_beyond_blocks: u64,
    /// Everything before this is known to have been published, and nothing beyond it was ever told to
    /// anybody or called synced: a chain that is whole up to here is not searched.
    pub published: Option<ChainStart>,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { max_records: 1 << 22, max_beyond_blocks: 1 << 18, published: None }
    }
}

/// A record found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRecord {
    /// Its place in the chain.
    pub sequence: Sequence,
    /// The epoch it was sealed in.
    pub epoch: Epoch,
    /// What it says, in order.
    pub entries: Vec<ChainEntry>,
    /// Where its header lies.
    pub header_at: BlockAddr,
    /// That header's CRC.
    pub header_crc: u32,
    /// The highest record known synced when this one was sealed.
    pub synced_upto: Sequence,
    /// Whether its group goes on in the next record.
    pub continues: bool,
}

/// How a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Nothing beyond the last record was ever promised.
    Clean,
    /// A record is missing or damaged that a later header says was synced.
    Damaged {
        /// The header of the first missing record (its place, where the header itself is bad).
        at: BlockAddr,
        /// The first missing record.
        sequence: Sequence,
    },
}

/// A chain read back.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The records that count, in order.
    pub records: Vec<ScannedRecord>,
    /// The highest record that the headers of `records` say was synced. A requirement of a record
    /// up to here needs no check: its commit was completed. (Headers beyond the end may say more,
    /// but nobody keeps them: a recovery that is cut short and begun again may not find them.)
    pub known_synced: Sequence,
    /// How it ended.
    pub end: ScanEnd,
    /// Whether that took a search of the extents.
    pub searched: bool,
}

impl Scan {
    /// Every block that reading the chain again from `start` needs, and that must therefore keep
    /// its contents until a durable commit no longer names the chain: headers, and the data of
    /// records that would be verified again. Data of records known synced is among them only
    /// where it has not been replaced: that is for the owner to say, who replays the entries.
    pub fn blocks_needed(&self, start: &ChainStart) -> BTreeSet<BlockAddr> {
        let headers = self.records.iter().map(|record| record.header_at);
        let verified = self.records.iter().filter(|record| record.sequence > self.known_synced);
        let data = verified.flat_map(|record| &record.entries).filter_map(|entry| match entry {
            ChainEntry::Data { addr, .. } => Some(*addr),
            ChainEntry::Zero { .. } | ChainEntry::Require { .. } => None,
        });
        headers.chain(data).chain([start.at]).collect()
    }
}

/// Why a chain could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScanError {
    /// The medium failed; nothing was decided.
    #[error("a chain could not be read")]
    Device(#[from] DeviceError),
    /// More records than a chain can have.
    #[error("a chain has more than {max_records} records")]
    TooLong {
        /// The bound.
        max_records: u64,
    },
}

/// Reads the chain that begins at `start`; `extents` is where its records may lie.
///
/// # Errors
/// Where the medium fails, or the chain has no end.
pub async fn scan(
    device: &Arc<dyn Device>,
    start: &ChainStart,
    limits: ScanLimits,
    extents: &[BlockRun],
) -> Result<Scan, ScanError> {
    let mut reader = Reader::new(device);
    // 1. All headers that link up; each says what it knew to be synced.
    let (mut walked, end_at) = walk(&mut reader, start, limits).await?;
    let before = Sequence(start.sequence.0.saturating_sub(1));
    let known = walked.iter().map(|(record, _)| record.synced_upto).fold(before, Ord::max);
    // 2. Up to the first whose data is not what it says; data known synced may since have been
    //    replaced and overwritten, and is not looked at.
    let whole = count_whole(&mut reader, &walked, known).await?;
    let end_at = walked.get(whole).map_or(end_at, |(record, _)| record.header_at);
    walked.truncate(whole);
    // 3. A group counts wholly or not at all.
    let mut first_missing = (end_at, Sequence(start.sequence.0 + to_u64(walked.len())));
    while let Some((record, _)) = walked.pop_if(|(_, group)| *group == GroupEnd::Later) {
        first_missing = (record.header_at, record.sequence);
    }
    // 4. Whatever is missing now must never have been promised.
    let (at, sequence) = first_missing;
    let searched = !limits.published.is_some_and(|next| is_reached(start, &walked, &next));
    let promised = if searched {
        beyond(device, start.nonce, &walked, first_missing, limits, extents).await.max(known)
    } else {
        known
    };
    let damaged = promised >= sequence;
    let records: Vec<_> = walked.into_iter().map(|(record, _)| record).collect();
    Ok(Scan {
        known_synced: records.iter().map(|record| record.synced_upto).fold(before, Ord::max),
        records,
        end: if damaged { ScanEnd::Damaged { at, sequence } } else { ScanEnd::Clean },
        searched,
    })
}

/// Whether what was found is whole up to `next`: the same chain, with the same record before it.
fn is_reached(start: &ChainStart, found: &Walked, next: &ChainStart) -> bool {
    let Some(count) = next.sequence.0.checked_sub(start.sequence.0) else { return false };
    let before = match to_usize(count).checked_sub(1) {
        None => Some(start.previous_crc),
        Some(last) => found.get(last).map(|(record, _)| record.header_crc),
    };
    next.nonce == start.nonce && before == Some(next.previous_crc)
}

type Walked = Vec<(ScannedRecord, GroupEnd)>;

/// Follows the chain from header to header; also returns where the next one should have been.
async fn walk(
    reader: &mut Reader<'_>,
    start: &ChainStart,
    limits: ScanLimits,
) -> Result<(Walked, BlockAddr), ScanError> {
    let mut walked = Walked::new();
    let mut next = *start;
    while let Some((header, crc)) = header_at(reader, &next).await? {
        if to_u64(walked.len()) == limits.max_records {
            return Err(ScanError::TooLong { max_records: limits.max_records });
        }
        next.sequence = header.sequence.next();
        next.at = header.next_at;
        next.previous_crc = crc;
        let record = ScannedRecord {
            sequence: header.sequence,
            epoch: header.epoch,
            entries: header.entries,
            header_at: header.at,
            header_crc: crc,
            synced_upto: header.synced_upto,
            continues: header.group == GroupEnd::Later,
        };
        walked.push((record, header.group));
    }
    Ok((walked, next.at))
}

/// The header that is expected there, if it is.
async fn header_at(
    reader: &mut Reader<'_>,
    expected: &ChainStart,
) -> Result<Option<(RecordHeader, u32)>, DeviceError> {
    let fits = |block: &[u8; BLOCK_BYTES]| {
        let (header, crc) = RecordHeader::decode(block, expected.nonce, expected.at).ok()?;
        let linked =
            header.sequence == expected.sequence && header.previous_crc == expected.previous_crc;
        linked.then_some((header, crc))
    };
    reader.find(expected.at, fits).await
}

/// How many records come before the first with damaged data.
async fn count_whole(
    reader: &mut Reader<'_>,
    walked: &Walked,
    known: Sequence,
) -> Result<usize, DeviceError> {
    for (index, (record, _)) in walked.iter().enumerate() {
        if record.sequence > known && !is_whole(reader, &record.entries).await? {
            return Ok(index);
        }
    }
    Ok(walked.len())
}

async fn is_whole(reader: &mut Reader<'_>, entries: &[ChainEntry]) -> Result<bool, DeviceError> {
    for entry in entries {
        if let ChainEntry::Data { addr, crc, .. } = entry {
            let fits = |block: &[u8; BLOCK_BYTES]| (crc32fast::hash(block) == *crc).then_some(());
            if reader.find(*addr, fits).await?.is_none() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The highest record that a header of this chain beyond the first missing one says was synced.
/// Such a header proves damage: what it speaks of was on the device before it was sealed.
///
/// Not looked at is what `found` has in use: its headers, and the newest block of everything it
/// maps. One of those would have had to be replaced and used again to hold such a header; the header
/// that allowed the first of them to be used again would itself lie somewhere else, and be found there.
async fn beyond(
    device: &Arc<dyn Device>,
    nonce: Nonce,
    found: &Walked,
    (at, sequence): (BlockAddr, Sequence),
    limits: ScanLimits,
    extents: &[BlockRun],
) -> Sequence {
    let mut promised = Sequence::ZERO;
    let mut left = limits.max_beyond_blocks;
    let mut pieces = pieces_from(at, extents, &in_use(found)).into_iter();
    let mut under_way = VecDeque::new();
    loop {
        while under_way.len() < READS_AT_ONCE
            && let Some(piece) = pieces.next()
        {
            if piece.count > left {
                tracing::warn!(%at, "gave up looking for a chain's records beyond its end");
                pieces = Vec::new().into_iter();
                break;
            }
            left -= piece.count;
            under_way.push_back((piece, device.read(piece.start, to_usize(piece.count))));
        }
        let Some((piece, reading)) = under_way.pop_front() else { return promised };
        for (at, buf) in read_some(device, piece, reading).await {
            for (index, place) in (0..buf.block_count()).zip(at.raw()..) {
                let decoded = RecordHeader::decode(buf.block(index), nonce, BlockAddr::of(place));
                if let Ok((header, _)) = decoded
                    && header.sequence > sequence
                {
                    promised = promised.max(header.synced_upto);
                }
            }
        }
    }
}

/// Headers, and the newest block of everything that is mapped; ascending.
fn in_use(found: &Walked) -> Vec<u64> {
    let mut newest = BTreeMap::new();
    for entry in found.iter().flat_map(|(record, _)| &record.entries) {
        match entry {
            ChainEntry::Data { vba, addr, .. } => {
                newest.insert(vba.raw(), addr.raw());
            }
            ChainEntry::Zero { range } => {
                let gone: Vec<u64> = newest.range(range.clone()).map(|(block, _)| *block).collect();
                for block in gone {
                    newest.remove(&block);
                }
            }
            ChainEntry::Require { .. } => {}
        }
    }
    let headers = found.iter().map(|(record, _)| record.header_at.raw());
    let mut blocks: Vec<u64> = newest.into_values().chain(headers).collect();
    blocks.sort_unstable();
    blocks
}

/// The extents in pieces to be read at once, without blocks in use where that saves much; first
/// what follows `at`, where records tend to be.
fn pieces_from(at: BlockAddr, extents: &[BlockRun], in_use: &[u64]) -> Vec<BlockRun> {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for extent in extents {
        for gap in gaps(*extent, in_use) {
            let mut next = gap.start;
            while next < gap.end {
                let count = (gap.end - next).min(BEYOND_BLOCKS);
                let piece = BlockRun { start: BlockAddr::of(next), count };
                let is_near = extent.contains(at) && piece.end() > at.raw();
                if is_near {
                    near.push(piece)
                } else {
                    far.push(piece)
                }
                next += count;
            }
        }
    }
    near.append(&mut far);
    near
}

/// What of an extent is not in use; a few blocks that are do not part one gap from the next.
fn gaps(extent: BlockRun, in_use: &[u64]) -> Vec<Range<u64>> {
    let first = in_use.partition_point(|block| *block < extent.start.raw());
    let inside = in_use[first..].iter().copied().take_while(|block| *block < extent.end());
    let mut gaps: Vec<Range<u64>> = Vec::new();
    let mut next = extent.start.raw();
    for block in inside.chain([extent.end()]) {
        if next < block {
            match gaps.last_mut() {
                Some(last) if next - last.end < PART_BLOCKS => last.end = block,
                _ => gaps.push(next..block),
            }
        }
        next = block + 1;
    }
    gaps
}

/// A piece, or what of it can be read: nobody promised that unwritten blocks are readable.
async fn read_some(
    device: &Arc<dyn Device>,
    piece: BlockRun,
    reading: IoFuture<BlockBuf>,
) -> Vec<(BlockAddr, BlockBuf)> {
    if let Ok(buf) = reading.await {
        return vec![(piece.start, buf)];
    }
    let mut found = Vec::new();
    for at in piece.blocks() {
        if let Ok(buf) = device.read(at, 1).await {
            found.push((at, buf));
        }
    }
    found
}

/// Blocks read at once when looking beyond the end (1 MiB).
const BEYOND_BLOCKS: u64 = 256;
/// So many blocks in use are worth two reads instead of one.
const PART_BLOCKS: u64 = 8;
/// Such reads under way.
const READS_AT_ONCE: usize = 16;
/// Blocks read at once where nothing says that more are wanted...
const WINDOW_BLOCKS: u64 = 64;
/// ...and where those before them were.
const AHEAD_BLOCKS: u64 = 256;

/// Reads blocks with those that follow them, since a chain lies mostly in one piece.
struct Reader<'a> {
    device: &'a Arc<dyn Device>,
    window: Option<(BlockAddr, BlockBuf)>,
    /// On its way: what follows the window.
    ahead: Option<(BlockRun, IoFuture<BlockBuf>)>,
}

impl<'a> Reader<'a> {
    fn new(device: &'a Arc<dyn Device>) -> Self {
        Self { device, window: None, ahead: None }
    }

    /// What `fits` makes of the block at `at`, of the same read again, or of its second copy.
    /// A block that cannot be read at all is an error: nothing may be concluded from it.
    async fn find<T>(
        &mut self,
        at: BlockAddr,
        fits: impl Fn(&[u8; BLOCK_BYTES]) -> Option<T>,
    ) -> Result<Option<T>, DeviceError> {
        if at.raw() >= self.device.block_count().0 {
            return Ok(None);
        }
        if let Some(found) = self.windowed(at).await.and_then(&fits) {
            return Ok(Some(found));
        }
        let again = self.device.read(at, 1).await;
        if let Ok(buf) = &again
            && let Some(found) = fits(buf.block(0))
        {
            return Ok(Some(found));
        }
        if let Some(mirror) = self.device.read_mirror(at, 1)
            && let Ok(buf) = mirror.await
            && let Some(found) = fits(buf.block(0))
        {
            return Ok(Some(found));
        }
        again.map(|_| None)
    }

    async fn windowed(&mut self, at: BlockAddr) -> Option<&[u8; BLOCK_BYTES]> {
        let place = |(first, buf): &(BlockAddr, BlockBuf)| {
            let index = to_usize(at.raw().checked_sub(first.raw())?);
            (index < buf.block_count()).then_some(index)
        };
        if self.window.as_ref().and_then(place).is_none() {
            self.window = Some(self.move_window(at).await?);
        }
        let index = self.window.as_ref().and_then(place)?;
        self.window.as_ref().map(|(_, buf)| buf.block(index))
    }

    /// The window with `at` in it. Where it follows the one before, what follows it is asked for.
    async fn move_window(&mut self, at: BlockAddr) -> Option<(BlockAddr, BlockBuf)> {
        let (window, follows) = match self.ahead.take() {
            Some((run, reading)) if run.contains(at) => ((run.start, reading.await.ok()?), true),
            _ => {
                let last = self.window.take();
                let end = last.map(|(first, buf)| first.raw() + to_u64(buf.block_count()));
                let run = self.run_from(at.raw(), WINDOW_BLOCKS)?;
                let buf = self.device.read(run.start, to_usize(run.count)).await.ok()?;
                let follows = end.is_some_and(|end| (end..end + WINDOW_BLOCKS).contains(&at.raw()));
                ((run.start, buf), follows)
            }
        };
        if follows {
            let end = window.0.raw() + to_u64(window.1.block_count());
            self.ahead = self
                .run_from(end, AHEAD_BLOCKS)
                .map(|run| (run, self.device.read(run.start, to_usize(run.count))));
        }
        Some(window)
    }

    /// So many blocks from there on, if the device has them; `None` where it has none.
    fn run_from(&self, start: u64, count: u64) -> Option<BlockRun> {
        let count = self.device.block_count().0.saturating_sub(start).min(count);
        (count > 0).then(|| BlockRun { start: BlockAddr::of(start), count })
    }
}
