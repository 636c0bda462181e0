//! Versions as the engine keeps them, over a store that never forgives, beside a map per version.

use std::collections::{BTreeMap, BTreeSet};

use bough_blockstore::{Epoch, VirtualBlock};

use super::medium::{Store, Use, Violation, block_on};
use super::tree::{
    Found, MergeContext, Merged, OnDamage, Onward, Ownership, Position, Reclaim, ReclaimedBelow,
    Root, Update, clear, count_data, height_for, merge, reclaim_step, reheight, walk,
};

/// Ways to build it wrong, each of which the tests have to notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    None,
    /// Ownership by comparison with the current epoch.
    OwnedIfBornNow,
    /// The head goes on judging by its parent's epoch while that is being reclaimed.
    CursorIgnored,
    /// The head judges everything by the grandparent's epoch as soon as reclaim begins.
    CursorAtEnd,
    /// A step begins where the step before it began: its cursor was not committed.
    CursorLost,
    /// Two neighbours are reclaimed at once.
    Neighbours,
    /// The child's tree is not looked at.
    ChildForgotten,
}

type Id = usize;

#[derive(Clone, Debug)]
pub(crate) struct Version {
    epoch: u64,
    parent: Option<Id>,
    children: Vec<Id>,
    root: Root,
    blocks: u64,
    is_head: bool,
    is_deleted: bool,
    cursor: Option<u64>,
    freed_data: i64,
    referenced: i64,
    owned: i64,
    /// The model: what a reader must find.
    map: BTreeMap<u64, u32>,
}

pub(crate) struct Forest {
    pub(crate) store: Store,
    versions: BTreeMap<Id, Version>,
    next_id: Id,
    epoch: u64,
    flaw: Flaw,
}

/// A change to a head: blocks written, or a range zeroed.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) count: u64,
    pub(crate) is_zero: bool,
}

/// What can happen; versions are picked by number, modulo how many there are.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write {
        head: usize,
        spans: Vec<Span>,
    },
    /// One piece of a large discard.
    Clear {
        head: usize,
        spans: Vec<Span>,
        budget: u64,
    },
    Resize {
        head: usize,
        blocks: u64,
    },
    Snapshot {
        head: usize,
    },
    Clone {
        snapshot: usize,
    },
    Rollback {
        head: usize,
    },
    Delete {
        version: usize,
    },
    /// Deletes the version that a head goes on from.
    Forget {
        head: usize,
    },
    Reclaim {
        version: usize,
        budget: u64,
    },
}

impl Forest {
    pub(crate) fn new(blocks: u64, cache_bytes: u64, flaw: Flaw) -> Self {
        let store = Store::new(cache_bytes);
        let mut forest = Self { store, versions: BTreeMap::new(), next_id: 0, epoch: 0, flaw };
        forest.add_head(None, Root::for_blocks(blocks), blocks, BTreeMap::new());
        forest
    }

    pub(crate) fn happen(&mut self, event: &Event) -> Result<(), Violation> {
        let Some(id) = self.subject(event) else { return Ok(()) };
        match event {
            Event::Write { spans, .. } => self.write(id, spans)?,
            Event::Clear { spans, budget, .. } => self.clear(id, spans, *budget)?,
            Event::Resize { blocks, .. } => self.resize(id, *blocks)?,
            Event::Reclaim { budget, .. } => self.reclaim(id, *budget)?,
            Event::Snapshot { .. } => self.snapshot(id),
            Event::Clone { .. } => self.branch(id),
            Event::Rollback { .. } => self.rollback(id),
            Event::Delete { .. } => self.version(id).is_deleted = true,
            Event::Forget { .. } => {
                if let Some(parent) = self.versions[&id].parent {
                    self.version(parent).is_deleted = true;
                }
            }
        }
        Ok(())
    }

    /// Which version an event happens to.
    fn subject(&self, event: &Event) -> Option<Id> {
        match event {
            Event::Write { head, .. }
            | Event::Clear { head, .. }
            | Event::Resize { head, .. }
            | Event::Snapshot { head }
            | Event::Rollback { head }
            | Event::Forget { head } => self.pick(*head, Self::is_live_head),
            Event::Clone { snapshot } => self.pick(*snapshot, |v| !v.is_head && !v.is_deleted),
            Event::Delete { version } => self.pick(*version, |v| !v.is_deleted),
            Event::Reclaim { version, .. } => self.pick_victim(*version),
        }
    }

    fn is_live_head(version: &Version) -> bool {
        version.is_head && !version.is_deleted
    }

    fn pick(&self, number: usize, wanted: impl Fn(&Version) -> bool) -> Option<Id> {
        let ids: Vec<_> =
            self.versions.iter().filter(|(_, v)| wanted(v)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[number % ids.len()])
    }

    fn pick_victim(&self, number: usize) -> Option<Id> {
        let ready = |id: &Id| self.versions[id].cursor.is_some() || self.may_be_reclaimed(*id);
        let ids: Vec<_> = self.versions.keys().copied().filter(ready).collect();
        (!ids.is_empty()).then(|| ids[number % ids.len()])
    }

    fn may_be_reclaimed(&self, id: Id) -> bool {
        let version = &self.versions[&id];
        let mut neighbours = version.parent.iter().chain(&version.children);
        let alone = neighbours.all(|other| self.versions[other].cursor.is_none());
        version.is_deleted
            && version.children.len() <= 1
            && (alone || self.flaw == Flaw::Neighbours)
    }

    fn version(&mut self, id: Id) -> &mut Version {
        self.versions.get_mut(&id).expect("picked")
    }

    fn epoch_of(&self, id: Option<Id>) -> Epoch {
        Epoch::of(id.map_or(0, |id| self.versions[&id].epoch))
    }

    fn add_head(&mut self, parent: Option<Id>, root: Root, blocks: u64, map: BTreeMap<u64, u32>) {
        self.epoch += 1;
        let referenced = i64::try_from(map.len()).unwrap();
        let head = Version {
            epoch: self.epoch,
            parent,
            children: Vec::new(),
            root,
            blocks,
            is_head: true,
            is_deleted: false,
            cursor: None,
            freed_data: 0,
            referenced,
            owned: 0,
            map,
        };
        self.versions.insert(self.next_id, head);
        if let Some(parent) = parent {
            let id = self.next_id;
            self.version(parent).children.push(id);
        }
        self.next_id += 1;
    }

    fn ownership(&self, id: Id) -> Ownership {
        let version = &self.versions[&id];
        let parent_epoch = match self.flaw {
            Flaw::OwnedIfBornNow => Epoch::of(version.epoch - 1),
            _ => self.epoch_of(version.parent),
        };
        let parent = version.parent.map(|parent| &self.versions[&parent]);
        let below = parent.and_then(|parent| {
            let grandparent_epoch = self.epoch_of(parent.parent);
            parent.cursor.map(|cursor| ReclaimedBelow { cursor, grandparent_epoch })
        });
        let below = match self.flaw {
            Flaw::CursorIgnored => None,
            Flaw::CursorAtEnd => below.map(|below| ReclaimedBelow { cursor: u64::MAX, ..below }),
            _ => below,
        };
        Ownership { parent_epoch, below }
    }

    fn context(&self, id: Id) -> MergeContext {
        let birth = Epoch::of(self.versions[&id].epoch);
        MergeContext { birth, ownership: self.ownership(id), on_damage: OnDamage::Fail }
    }

    fn write(&mut self, id: Id, spans: &[Span]) -> Result<(), Violation> {
        let context = self.context(id);
        let (root, blocks) = (self.versions[&id].root, self.versions[&id].blocks);
        let mut updates = Vec::new();
        let mut free_from = 0;
        let mut sorted = spans.to_vec();
        sorted.sort_by_key(|span| span.start);
        for span in sorted.iter().filter(|span| span.start < blocks) {
            let end = (span.start + span.count).min(blocks);
            let start = span.start.max(free_from);
            free_from = free_from.max(end);
            if span.is_zero && start < end {
                updates.push(Update::Zero { range: start..end });
                self.version(id).map.retain(|vba, _| !(start..end).contains(vba));
            }
            for vba in (start..end).filter(|_| !span.is_zero) {
                let (addr, crc) = self.store.write_data();
                let vba = VirtualBlock::of(vba);
                updates.push(Update::Data { vba, addr, crc, birth: context.birth });
                self.version(id).map.insert(vba.raw(), crc);
            }
        }
        let (cache, mut sink) = self.store.split();
        let merged = block_on(merge(cache, &mut sink, root, updates, context))?;
        self.commit(id, merged)
    }

    /// The blocks of `spans`, ascending and disjoint.
    fn ranges(&self, id: Id, spans: &[Span]) -> Vec<std::ops::Range<u64>> {
        let mut free_from = 0;
        let mut sorted = spans.to_vec();
        sorted.sort_by_key(|span| span.start);
        let ranges = sorted.iter().map(|span| {
            let end = (span.start + span.count).min(self.versions[&id].blocks);
            let start = span.start.max(free_from);
            free_from = free_from.max(end);
            start..end
        });
        ranges.filter(|range| !range.is_empty()).collect()
    }

    fn clear(&mut self, id: Id, spans: &[Span], budget: u64) -> Result<(), Violation> {
        let (root, context) = (self.versions[&id].root, self.context(id));
        let ranges = self.ranges(id, spans);
        let Some(first) = ranges.first().map(|range| range.start) else { return Ok(()) };
        let (cache, mut sink) = self.store.split();
        let cleared = block_on(clear(cache, &mut sink, root, &ranges, first, budget, context))?;
        if cleared.next.is_some_and(|next| next <= first) {
            return Err(Violation::Other(format!("no progress at {first}")));
        }
        let upto = cleared.next.unwrap_or(u64::MAX);
        let is_gone = |vba: &u64| *vba < upto && ranges.iter().any(|range| range.contains(vba));
        self.version(id).map.retain(|vba, _| !is_gone(vba));
        self.commit(id, cleared.merged)
    }

    /// Made smaller, a head leaves what it was behind for the reclaimer.
    fn resize(&mut self, id: Id, blocks: u64) -> Result<(), Violation> {
        let root = self.versions[&id].root;
        let (mut beyond, mut from) = (0, Some(blocks));
        while let Some(start) = from {
            let counted = block_on(count_data(&self.store.cache, root, start..u64::MAX, 7))?;
            beyond += i64::try_from(counted.blocks).unwrap();
            from = counted.next;
        }
        if blocks < self.versions[&id].blocks {
            self.snapshot(id);
            let past = self.versions[&id].parent.expect("it has one now");
            self.version(past).is_deleted = true;
        }
        let context = self.context(id);
        let (cache, mut sink) = self.store.split();
        let mut merged = block_on(reheight(cache, &mut sink, root, blocks, context))?;
        merged.referenced_delta -= beyond;
        let version = self.version(id);
        version.blocks = blocks;
        version.map.retain(|vba, _| *vba < blocks);
        self.commit(id, merged)
    }

    fn commit(&mut self, id: Id, merged: Merged) -> Result<(), Violation> {
        let version = self.version(id);
        version.root = merged.root;
        version.referenced += merged.referenced_delta;
        version.owned += merged.owned_delta;
        self.store.release(&merged.freed)
    }

    /// The head's past becomes a version of its own; the head goes on in a new epoch.
    fn snapshot(&mut self, head: Id) {
        let past = Version { is_head: false, children: vec![head], ..self.versions[&head].clone() };
        let (id, parent) = (self.next_id, past.parent);
        self.next_id += 1;
        self.versions.insert(id, past);
        if let Some(parent) = parent {
            let place = self.version(parent).children.iter_mut().find(|child| **child == head);
            *place.expect("listed") = id;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        let head = self.version(head);
        (head.epoch, head.parent, head.owned) = (epoch, Some(id), 0);
    }

    fn branch(&mut self, from: Id) {
        let Version { root, blocks, map, .. } = self.versions[&from].clone();
        self.add_head(Some(from), root, blocks, map);
    }

    fn rollback(&mut self, head: Id) {
        let parent = self.versions[&head].parent;
        if let Some(parent) = parent.filter(|parent| !self.versions[parent].is_deleted) {
            self.version(head).is_deleted = true;
            self.branch(parent);
        }
    }

    fn plan(&self, id: Id, budget: u64) -> Reclaim {
        let victim = &self.versions[&id];
        let child = victim.children.first().map(|child| self.versions[child].root);
        Reclaim {
            victim: victim.root,
            child: child.filter(|_| self.flaw != Flaw::ChildForgotten),
            parent_epoch: self.epoch_of(victim.parent),
            cursor: victim.cursor.unwrap_or(0),
            budget_blocks: budget,
            on_damage: OnDamage::Fail,
        }
    }

    fn reclaim(&mut self, id: Id, budget: u64) -> Result<(), Violation> {
        let plan = self.plan(id, budget);
        let step = block_on(reclaim_step(&self.store.cache, plan))?;
        self.store.release(&step.freed)?;
        let next = step.next;
        if next.is_some_and(|next| next <= plan.cursor) {
            return Err(Violation::Other(format!("no progress at {next:?}")));
        }
        let is_lost = self.flaw == Flaw::CursorLost;
        let victim = self.version(id);
        victim.freed_data += i64::try_from(step.freed_data).unwrap();
        victim.cursor = next.map(|next| if is_lost { plan.cursor } else { next });
        if next.is_none() {
            self.forget(id);
        }
        Ok(())
    }

    /// A reclaimed version's child inherits what is left.
    fn forget(&mut self, id: Id) {
        let victim = self.versions.remove(&id).expect("picked");
        for child in &victim.children {
            let child = self.version(*child);
            child.parent = victim.parent;
            child.owned += victim.owned - victim.freed_data;
        }
        if let Some(parent) = victim.parent {
            let siblings = &mut self.version(parent).children;
            siblings.retain(|child| *child != id);
            siblings.extend(&victim.children);
        }
    }

    /// Finishes every reclaim that can be finished.
    pub(crate) fn drain(&mut self) -> Result<(), Violation> {
        for _ in 0..10_000 {
            match self.pick_victim(0) {
                Some(id) => self.reclaim(id, 1_000)?,
                None => return Ok(()),
            }
        }
        Err(Violation::Other("reclaim never ends".into()))
    }

    /// Every version reads as its model says, counts are right, and the blocks in use are exactly
    /// those of the versions and those still to be reclaimed.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        let mut wanted = BTreeSet::new();
        let mut places = BTreeMap::new();
        for (id, version) in &self.versions {
            if version.cursor.is_some() {
                let rest = block_on(reclaim_step(&self.store.cache, self.plan(*id, u64::MAX)))?;
                wanted.extend(rest.freed.iter().map(|at| at.raw()));
            } else {
                self.check_version(*id, version, &mut wanted, &mut places)?;
            }
        }
        let used: BTreeSet<u64> = self.store.used.keys().copied().collect();
        ensure(wanted == used, || {
            let leaked: Vec<_> = used.difference(&wanted).collect();
            let missing: Vec<_> = wanted.difference(&used).collect();
            format!("leaked {leaked:?}, missing {missing:?}")
        })
    }

    fn check_version(
        &self,
        id: Id,
        version: &Version,
        wanted: &mut BTreeSet<u64>,
        places: &mut BTreeMap<u64, Position>,
    ) -> Result<(), Violation> {
        ensure(version.root.height == height_for(version.blocks), || format!("{id}: height"))?;
        let mut map = BTreeMap::new();
        let mut owned = 0;
        let parent_epoch = self.epoch_of(version.parent);
        let mut wrong = None;
        block_on(walk(&self.store.cache, version.root, |found| {
            let Found::Entry { position, entry } = found else {
                wrong = Some(format!("{id}: {found:?}"));
                return Onward::Down;
            };
            let at = entry.addr().raw();
            wanted.insert(at);
            if *places.entry(at).or_insert(position) != position {
                wrong = Some(format!("{id}: block {at} is at {position} and elsewhere"));
            }
            if position.level == 0 {
                owned += i64::from(entry.birth() > parent_epoch);
                map.insert(position.index, entry.crc());
            }
            let what = if position.level == 0 { Use::Data(entry.crc()) } else { Use::Node };
            if self.store.used.get(&at) != Some(&what) {
                wrong = Some(format!("{id}: block {at} at {position} is no longer its own"));
            }
            Onward::Down
        }));
        ensure(wrong.is_none(), || wrong.unwrap_or_default())?;
        ensure(map == version.map, || format!("{id}: other contents"))?;
        let referenced = i64::try_from(map.len()).unwrap();
        ensure(referenced == version.referenced, || format!("{id}: referenced is wrong"))?;
        let settled = version.parent.is_none_or(|parent| self.versions[&parent].cursor.is_none());
        ensure(!settled || owned == version.owned, || {
            format!("{id}: owns {owned}, counted {}", version.owned)
        })
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::Other(what())) }
}
