//! What a chain remembers between calls; straight-line bookkeeping, no I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::addr::{BlockAddr, BlockRun, Epoch, Sequence};
use crate::buffer::BlockSlice;
use crate::chain::batch::{Staged, StagedEntry, Terms};
use crate::chain::reuse::Reuse;
use crate::chain::ticket::Answer;
use crate::chain::{ChainConfig, ChainFault, ChainStart, PublishedRecord};
use crate::record::{ChainEntry, GroupEnd, RecordHeader};

/// A sealed record on its way.
pub(super) struct FlyingRecord {
    pub record: PublishedRecord,
    pub header_at: BlockAddr,
    pub header_crc: u32,
    pub synced_upto: Sequence,
    /// Its data, then the next header: what it took from the store.
    pub taken: Vec<BlockAddr>,
    /// Device writes that have not ended.
    pub parts_left: usize,
}

/// Records that are answered together, on their way; or a refusal waiting for its turn.
pub(super) struct Flying {
    pub answer: Arc<Answer>,
    pub records: SmallVec<[FlyingRecord; 1]>,
    /// Why they cannot count.
    pub fault: Option<ChainFault>,
}

impl Flying {
    /// Never sealed; answered after those before it.
    pub fn refused(staged: &Staged, fault: ChainFault) -> Self {
        Self { answer: Arc::clone(&staged.answer), records: SmallVec::new(), fault: Some(fault) }
    }

    pub fn has_landed(&self) -> bool {
        self.records.iter().all(|record| record.parts_left == 0)
    }

    /// What a broken chain does; see `Sabotage`.
    pub fn answer_out_of_order(&self) {
        if let (true, None, Some(last)) = (self.has_landed(), &self.fault, self.records.last()) {
            self.answer.set(Ok(last.record.sequence));
        }
    }
}

/// Pieces of a record, and where each goes: one, unless there was no room for it in one place.
type Parts = SmallVec<[(BlockAddr, BlockSlice); 1]>;

/// One record's device writes.
pub(super) struct RecordWrite {
    /// Whose: the unit's number and the record's place in it.
    pub unit: u64,
    pub index: usize,
    pub parts: Parts,
}

/// See the module.
pub(super) struct State {
    /// Full or closed, to be sealed in order.
    pub queue: VecDeque<Staged>,
    /// Being filled; follows the queue.
    pub open: Option<Staged>,
    /// How large the last records were: the next will want as much.
    pub expected_blocks: usize,
    /// The answer that the last staged write will get.
    pub last_answer: Option<Arc<Answer>>,
    /// Where the next sealed record goes.
    pub seal_at: ChainStart,
    pub epoch: Epoch,
    /// Sealed and not yet published, in order; the front one's number is `first_unit`.
    pub flying: VecDeque<Flying>,
    pub first_unit: u64,
    /// Records whose device writes are under way.
    pub writing: usize,
    pub published: Sequence,
    pub published_bytes: u64,
    pub synced: Sequence,
    pub synced_bytes: u64,
    /// The last record that requires something of other chains.
    pub last_requiring: Sequence,
    /// The highest record that somebody wants synced.
    pub sync_wanted: Sequence,
    pub reuse: Reuse,
    /// Why nothing more is taken.
    pub fault: Option<ChainFault>,
    /// Nothing that comes after this counts, whether it reaches the device or not.
    pub cut_off: bool,
    pub sealer_runs: bool,
    /// Somebody has taken a unit from the queue that is not sealed yet, nor refused.
    pub sealing: bool,
    pub syncer_runs: bool,
    pub timer_runs: bool,
}

impl State {
    pub fn new(start: ChainStart, epoch: Epoch) -> Self {
        let before = Sequence(start.sequence.0.saturating_sub(1));
        Self {
            queue: VecDeque::new(),
            open: None,
            expected_blocks: 0,
            last_answer: None,
            seal_at: start,
            epoch,
            flying: VecDeque::new(),
            first_unit: 0,
            writing: 0,
            published: before,
            published_bytes: 0,
            synced: before,
            synced_bytes: 0,
            last_requiring: before,
            sync_wanted: before,
            reuse: Reuse::new(),
            fault: None,
            cut_off: false,
            sealer_runs: false,
            sealing: false,
            syncer_runs: false,
            timer_runs: false,
        }
    }

    /// Closes the batch that is being filled.
    pub fn close_open(&mut self) {
        self.queue.extend(self.open.take());
    }

    /// The next to be sealed.
    pub fn pop_staged(&mut self) -> Option<Staged> {
        self.queue.pop_front().or_else(|| self.open.take())
    }

    /// Whether there is anything to be sealed.
    pub fn is_anything_staged(&self) -> bool {
        !self.queue.is_empty() || self.open.is_some()
    }

    /// The next to be sealed, where it is a full record that neither waits for anything nor has
    /// what follows wait for it; whoever gets it seals it, or puts it back.
    pub fn pop_full(&mut self, config: &ChainConfig) -> Option<Staged> {
        let is_held_up = self.is_held_up() || self.writing >= config.max_inflight;
        let staged =
            if is_held_up { None } else { self.queue.pop_front_if(|next| next.is_simple()) };
        self.sealing |= staged.is_some();
        staged
    }

    /// As [`Self::pop_full`], whether it is full or not.
    pub fn pop_simple(&mut self, config: &ChainConfig) -> Option<Staged> {
        let next = self.queue.front().or(self.open.as_ref());
        let is_held_up = self.is_held_up() || !self.may_seal(config);
        let staged = if is_held_up || !next.is_some_and(Staged::is_simple) {
            None
        } else {
            self.pop_staged()
        };
        self.sealing |= staged.is_some();
        staged
    }

    /// Where the next record's data would best be: right behind its header.
    pub fn next_place(&self) -> Option<BlockAddr> {
        BlockAddr::new(self.seal_at.at.raw() + 1)
    }

    /// Whether whatever comes next has to wait for something.
    fn is_held_up(&self) -> bool {
        self.sealing || self.fault.is_some() || self.last_requiring > self.synced
    }

    /// Puts back what was taken from the queue and could not be sealed.
    pub fn unpop(&mut self, staged: Staged) {
        self.queue.push_front(staged);
    }

    /// Whether another record may go to the device.
    pub fn may_seal(&self, config: &ChainConfig) -> bool {
        let small = config.small_inflight.min(config.max_inflight);
        let limit = if self.is_much_staged(config) { config.max_inflight } else { small };
        self.writing < limit
    }

    /// Whether what is sealed next is no small record.
    pub fn is_much_staged(&self, config: &ChainConfig) -> bool {
        let is_large = |open: &Staged| open.data_blocks() >= config.large_blocks;
        !self.queue.is_empty() || self.open.as_ref().is_some_and(is_large)
    }

    /// Takes no more: what is staged is refused, in its turn. The gravest fault is kept.
    pub fn set_fault(&mut self, fault: ChainFault) {
        if self.fault.as_ref().is_none_or(|old| old.gravity() < fault.gravity()) {
            self.fault = Some(fault.clone());
        }
        while let Some(staged) = self.pop_staged() {
            self.flying.push_back(Flying::refused(&staged, fault.clone()));
        }
    }

    /// Gives every record of `staged` its number and its blocks, and joins it to the chain. From
    /// here on it counts as sealed, whole.
    pub fn seal(&mut self, staged: Staged, runs: &[BlockRun]) -> SmallVec<[RecordWrite; 1]> {
        let unit = self.first_unit + crate::addr::to_u64(self.flying.len());
        let mut blocks = runs.iter().flat_map(|run| run.blocks());
        let last = staged.batches.len() - 1;
        let (mut records, mut writes) = (SmallVec::new(), SmallVec::new());
        for (index, mut batch) in staged.batches.into_iter().enumerate() {
            let taken: Vec<_> = blocks.by_ref().take(batch.buf.block_count()).collect();
            // Forgotten slowly: the last record of a burst is short, the next burst's first is not.
            self.expected_blocks =
                batch.buf.block_count().max(self.expected_blocks - self.expected_blocks / 8);
            assert_eq!(taken.len(), batch.buf.block_count(), "take returned too few blocks");
            let group = if index == last { GroupEnd::Here } else { GroupEnd::Later };
            let header = self.header(place(batch.entries, &taken), &taken, group);
            let header_crc = header.encode(self.seal_at.nonce, batch.buf.block_mut(0));
            let parts = parts(header.at, &taken, &batch.buf.share());
            records.push(FlyingRecord {
                header_at: header.at,
                header_crc,
                synced_upto: header.synced_upto,
                parts_left: parts.len(),
                taken,
                record: PublishedRecord {
                    sequence: header.sequence,
                    epoch: header.epoch,
                    entries: header.entries,
                },
            });
            writes.push(RecordWrite { unit, index, parts });
            self.seal_at.sequence = header.sequence.next();
            self.seal_at.at = header.next_at;
            self.seal_at.previous_crc = header_crc;
        }
        assert!(blocks.next().is_none(), "take returned too many blocks");
        if staged.terms == Terms::Requiring {
            self.last_requiring = Sequence(self.seal_at.sequence.0 - 1);
        }
        self.flying.push_back(Flying { answer: staged.answer, records, fault: None });
        writes
    }

    fn header(
        &self,
        entries: Vec<ChainEntry>,
        taken: &[BlockAddr],
        group: GroupEnd,
    ) -> RecordHeader {
        RecordHeader {
            sequence: self.seal_at.sequence,
            epoch: self.epoch,
            at: self.seal_at.at,
            synced_upto: self.synced,
            next_at: *taken.last().expect("the next header at least"),
            previous_crc: self.seal_at.previous_crc,
            group,
            entries,
        }
    }
}

/// Gives each staged block its address.
fn place(entries: Vec<StagedEntry>, taken: &[BlockAddr]) -> Vec<ChainEntry> {
    let mut taken = taken.iter().copied();
    let place_one = |entry| match entry {
        StagedEntry::Data { vba, crc } => {
            let addr = taken.next().expect("a block for each");
            ChainEntry::Data { vba, addr, crc }
        }
        StagedEntry::Zero { range } => ChainEntry::Zero { range },
        StagedEntry::Require { disk, sequence } => ChainEntry::Require { disk, sequence },
    };
    entries.into_iter().map(place_one).collect()
}

/// The record's device writes: header and data in as few as their places allow.
fn parts(header_at: BlockAddr, taken: &[BlockAddr], buf: &BlockSlice) -> Parts {
    let data = &taken[..taken.len() - 1];
    let place = |block: usize| if block == 0 { header_at } else { data[block - 1] };
    let count = data.len() + 1;
    let mut parts = Parts::new();
    let mut first = 0;
    while first < count {
        let goes_on = |end: &usize| place(*end).raw() == place(*end - 1).raw() + 1;
        let end = (first + 1..count).find(|end| !goes_on(end)).unwrap_or(count);
        parts.push((place(first), buf.slice(first, end - first)));
        first = end;
    }
    parts
}
