//! The rows' bytes: a version byte, then little-endian fields in a fixed order. Values carry
//! their whole row, keys included, so that a list needs no key parsing.

use bough_blockstore::{BlockAddr, BlockRun, DiskId, Epoch, Nonce, Sequence};
use uuid::Uuid;

use super::rows::{
    AttachmentRow, ChainRow, DiskRow, ExtentRow, LimitsRow, ReclaimRow, VersionId, VersionKind,
    VersionRow,
};
use super::table::{RowFault, RowKind};
use crate::info::Limits;
use crate::node::Root;

const ROW_VERSION: u8 = 1;

/// Something with bytes in the catalogue.
pub(super) trait Coded: Sized {
    const KIND: RowKind;
    fn put(&self, out: &mut Writer);
    fn take(from: &mut Reader<'_>) -> Option<Self>;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer(vec![ROW_VERSION]);
        self.put(&mut out);
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, RowFault> {
        let mut from = Reader(bytes);
        let version = from.u8();
        let row = version.filter(|v| *v == ROW_VERSION).and_then(|_| Self::take(&mut from));
        row.filter(|_| from.0.is_empty()).ok_or(RowFault::Malformed(Self::KIND))
    }
}

pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    fn text(&mut self, value: &str) {
        self.0.push(u8::try_from(value.len()).expect("names are short"));
        self.bytes(value.as_bytes());
    }

    fn optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
    }
}

/// What is left of a row; every read is checked.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let count = self.u8()?;
        std::str::from_utf8(self.bytes(usize::from(count))?).ok()
    }

    /// The outer `None` is a fault, the inner one an absent field.
    fn optional<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { take(self).map(Some) } else { Some(None) }
    }

    /// The last number of a kind is never given out: after every one there is a next to read from.
    fn disk(&mut self) -> Option<DiskId> {
        self.u32().filter(|id| *id < u32::MAX).map(DiskId)
    }

    fn version(&mut self) -> Option<VersionId> {
        self.u64().filter(|id| *id < u64::MAX).map(VersionId)
    }

    fn epoch(&mut self) -> Option<Epoch> {
        self.u64().and_then(Epoch::new).filter(|epoch| *epoch < Epoch::MAX)
    }

    fn addr(&mut self) -> Option<BlockAddr> {
        self.u64().and_then(BlockAddr::new)
    }

    /// A count of blocks; no store has more than there are addresses.
    fn blocks(&mut self) -> Option<i64> {
        self.i64().filter(|count| count.unsigned_abs() <= BlockAddr::MAX.raw())
    }

    /// A count of blocks that only grows.
    fn freed(&mut self) -> Option<u64> {
        self.u64().filter(|count| *count <= BlockAddr::MAX.raw())
    }

    fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid::from_bytes)
    }
}

impl Coded for u64 {
    const KIND: RowKind = RowKind::Index;

    fn put(&self, out: &mut Writer) {
        out.u64(*self);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        from.u64()
    }
}

impl Coded for DiskRow {
    const KIND: RowKind = RowKind::Disk;

    fn put(&self, out: &mut Writer) {
        out.u32(self.id.0);
        out.text(self.name.as_str());
        out.bytes(self.uuid.as_bytes());
        out.u64(self.head.0);
        out.optional(self.newest_sealed, |out, id| out.u64(id.0));
        out.u64(self.created_unix);
        out.u8(u8::from(self.deleting));
        out.u64(self.snapshot_count);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: from.disk()?,
            name: from.text()?.parse().ok()?,
            uuid: from.uuid()?,
            head: from.version()?,
            newest_sealed: from.optional(Reader::version)?,
            created_unix: from.u64()?,
            deleting: from.flag()?,
            snapshot_count: from.u64()?,
        })
    }
}

impl Coded for VersionRow {
    const KIND: RowKind = RowKind::Version;

    fn put(&self, out: &mut Writer) {
        out.u64(self.id.0);
        out.u32(self.disk.0);
        out.u8(u8::from(self.kind == VersionKind::Snapshot));
        out.optional(self.label.as_deref(), Writer::text);
        out.u64(self.epoch.raw());
        out.optional(self.parent, |out, id| out.u64(id.0));
        out.bytes(self.uuid.as_bytes());
        out.optional(self.parent_uuid, |out, uuid| out.bytes(uuid.as_bytes()));
        out.u32(self.key_id);
        out.u64(self.size_bytes);
        out.bytes(&self.root.encode());
        for flag in [self.pending, self.sealed, self.hidden] {
            out.u8(u8::from(flag));
        }
        out.u64(self.created_unix);
        out.i64(self.referenced_blocks);
        out.i64(self.owned_blocks);
        out.u64(self.child_count);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: from.version()?,
            disk: from.disk()?,
            kind: if from.flag()? { VersionKind::Snapshot } else { VersionKind::Head },
            label: from.optional(|from| from.text().map(str::to_owned))?,
            epoch: from.epoch()?,
            parent: from.optional(Reader::version)?,
            uuid: from.uuid()?,
            parent_uuid: from.optional(Reader::uuid)?,
            key_id: from.u32()?,
            size_bytes: from.u64()?,
            root: Root::decode(&from.array()?).ok()?,
            pending: from.flag()?,
            sealed: from.flag()?,
            hidden: from.flag()?,
            created_unix: from.u64()?,
            referenced_blocks: from.blocks()?,
            owned_blocks: from.blocks()?,
            child_count: from.u64()?,
        })
    }
}

impl Coded for ExtentRow {
    const KIND: RowKind = RowKind::Extent;

    fn put(&self, out: &mut Writer) {
        out.u64(self.run.start.raw());
        out.u64(self.run.count);
        out.u32(self.disk.0);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        let run = BlockRun { start: from.addr()?, count: from.u64()? };
        let last = run.count.checked_sub(1)?.checked_add(run.start.raw())?;
        BlockAddr::new(last)?;
        Some(Self { run, disk: from.disk()? })
    }
}

impl Coded for ChainRow {
    const KIND: RowKind = RowKind::Chain;

    fn put(&self, out: &mut Writer) {
        out.u32(self.disk.0);
        out.bytes(&self.nonce.0);
        out.u64(self.sequence.0);
        out.u64(self.at.raw());
        out.u32(self.previous_crc);
        out.u64(self.epoch.raw());
        out.u64(self.synced_upto.0);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            disk: from.disk()?,
            nonce: Nonce(from.array()?),
            sequence: Sequence(from.u64()?),
            at: from.addr()?,
            previous_crc: from.u32()?,
            epoch: from.epoch()?,
            synced_upto: Sequence(from.u64()?),
        })
    }
}

impl Coded for ReclaimRow {
    const KIND: RowKind = RowKind::Reclaim;

    fn put(&self, out: &mut Writer) {
        for number in [self.version.0, self.cursor, self.freed_data, self.freed_nodes] {
            out.u64(number);
        }
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            version: from.version()?,
            cursor: from.u64()?,
            freed_data: from.freed()?,
            freed_nodes: from.freed()?,
        })
    }
}

impl Coded for AttachmentRow {
    const KIND: RowKind = RowKind::Attachment;

    fn put(&self, out: &mut Writer) {
        out.u32(self.disk.0);
        out.bytes(&self.queues.to_le_bytes());
        out.u8(u8::from(self.read_only));
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            disk: from.disk()?,
            queues: u16::from_le_bytes(from.array()?),
            read_only: from.flag()?,
        })
    }
}

impl Coded for LimitsRow {
    const KIND: RowKind = RowKind::Limits;

    fn put(&self, out: &mut Writer) {
        let Limits { iops, bandwidth_bytes, burst_seconds } = self.limits;
        out.u32(self.disk.0);
        out.optional(iops, Writer::u64);
        out.optional(bandwidth_bytes, Writer::u64);
        out.u32(burst_seconds);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        let disk = from.disk()?;
        let limits = Limits {
            iops: from.optional(Reader::u64)?,
            bandwidth_bytes: from.optional(Reader::u64)?,
            burst_seconds: from.u32()?,
        };
        limits.is_sound().then_some(Self { disk, limits })
    }
}
