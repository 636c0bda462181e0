//! Random histories against one state per block: nothing is handed out twice, every free block
//! can be had, the counts are right, and a restart from what was committed goes on from there.

use crate::space::counts::SpaceCounts;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::btree::Page;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reserved,
    Clear,
    Taken(DiskId),
    Set,
    Limbo,
}

#[derive(Clone, Debug)]
enum Op {
    Take { disk: u32, count: u64, near: bool },
    Commit { disk: u32, set: Pick, clear: Pick },
    GiveBack { disk: u32, pick: Pick },
    Retire { disk: u32, pick: Pick },
    Release(Pick),
    Close { disk: u32, which: Which, drop: bool },
    AbandonGrant { disk: u32 },
    BeginPunch(u64),
    EndPunch,
    BeginAhead { goal: u64, most: u64 },
    EndAhead,
    Trim,
    Restart { chain: Pick },
}

/// Some of the blocks in a state: `count` of them, every `step`-th from `skip` on.
#[derive(Clone, Debug)]
struct Pick {
    skip: usize,
    step: usize,
    count: usize,
}

fn pick() -> impl Strategy<Value = Pick> {
    (0_usize..200, prop_oneof![3 => Just(1_usize), 1 => 1_usize..9], 0_usize..400)
        .prop_map(|(skip, step, count)| Pick { skip, step, count })
}

fn op() -> impl Strategy<Value = Op> {
    let disk = || 1_u32..4;
    let which = prop_oneof![Just(Which::Spent), Just(Which::All)];
    prop_oneof![
        8 => (disk(), 1_u64..300, any::<bool>())
            .prop_map(|(disk, count, near)| Op::Take { disk, count, near }),
        6 => (disk(), pick(), pick())
            .prop_map(|(disk, set, clear)| Op::Commit { disk, set, clear }),
        2 => (disk(), pick()).prop_map(|(disk, pick)| Op::GiveBack { disk, pick }),
        1 => (disk(), pick()).prop_map(|(disk, pick)| Op::Retire { disk, pick }),
        4 => pick().prop_map(Op::Release),
        2 => (disk(), which, any::<bool>())
            .prop_map(|(disk, which, drop)| Op::Close { disk, which, drop }),
        1 => disk().prop_map(|disk| Op::AbandonGrant { disk }),
        2 => (1_u64..50).prop_map(Op::BeginPunch),
        1 => Just(Op::EndPunch),
        2 => (1_u64..500, 1_u64..200).prop_map(|(goal, most)| Op::BeginAhead { goal, most }),
        1 => Just(Op::EndAhead),
        1 => Just(Op::Trim),
        1 => pick().prop_map(|chain| Op::Restart { chain }),
    ]
}

/// The engine's part, and what it knows to be true.
struct World {
    space: Space,
    config: SpaceConfig,
    states: Vec<State>,
    /// Extent rows, and whether blocks may be taken from them.
    extents: BTreeMap<u64, (BlockRun, DiskId, bool)>,
    /// What is being given back to the host, the oldest first.
    punching: Vec<BlockRun>,
    /// What is being filled with zeros.
    filling: Option<BlockRun>,
    /// The bitmap as the catalogue has it.
    pages: BTreeMap<u64, Page>,
}

impl World {
    fn new(total: u64) -> Self {
        let config =
            SpaceConfig { reserved: vec![run(0, 10), run(300, 7)], ..config(total, NO_FLOORS) };
        let state = |block: u64| match block {
            0..10 | 300..307 => State::Reserved,
            _ => State::Clear,
        };
        Self {
            space: Space::new(config.clone()).unwrap(),
            config,
            states: (0..total).map(state).collect(),
            extents: BTreeMap::new(),
            punching: Vec::new(),
            filling: None,
            pages: BTreeMap::new(),
        }
    }

    fn addr(index: usize) -> BlockAddr {
        BlockAddr::of(u64::try_from(index).unwrap())
    }

    fn state(&mut self, block: BlockAddr) -> &mut State {
        &mut self.states[usize::try_from(block.raw()).unwrap()]
    }

    fn picked(&self, state: State, pick: &Pick) -> Vec<BlockAddr> {
        let all = self.states.iter().enumerate().filter(|(_, s)| **s == state);
        let some = all.skip(pick.skip).step_by(pick.step).take(pick.count);
        some.map(|(index, _)| Self::addr(index)).collect()
    }

    fn mark(&mut self, blocks: &[BlockAddr], state: State) {
        blocks.iter().for_each(|block| *self.state(*block) = state);
    }

    fn clear_within(&self, run: BlockRun) -> u64 {
        let states = &self.states[usize::try_from(run.start.raw()).unwrap()..];
        let clear = states.iter().take(run.count.try_into().unwrap());
        clear.filter(|state| **state == State::Clear).count().try_into().unwrap()
    }

    fn load(&mut self, pages: &[VirtualBlock]) {
        for page in pages {
            let bytes = self.pages.get(&page.raw()).cloned().unwrap_or_else(Page::zeroed);
            self.space.load(*page, &bytes).unwrap();
        }
    }

    fn adopt(&mut self, start: BlockAddr, taken: &[BlockAddr]) {
        let run = self.extents[&start.raw()].0;
        self.load(&self.space.missing_for_run(run));
        self.space.adopt(start, taken).unwrap();
    }

    /// A grant as the engine gets it; `None` where the store is full, which the model confirms.
    fn plan(&mut self, disk: DiskId, want: u64) -> Option<BlockRun> {
        for _ in 0..100 {
            match self.space.plan_grant(disk, want, Need::Data) {
                Grant::Load(pages) => {
                    assert!(!pages.is_empty());
                    self.load(&pages);
                }
                Grant::Extent(run) => {
                    assert!(self.clear_within(run) > 0, "{run:?} has nothing to take");
                    let apart = |punch: &BlockRun| {
                        punch.end() <= run.start.raw() || run.end() <= punch.start.raw()
                    };
                    assert!(self.punching.iter().all(apart), "{run:?} is being punched");
                    assert!(self.filling.iter().all(apart), "{run:?} is being filled");
                    return Some(run);
                }
                Grant::Wait if self.punching.is_empty() => self.end_ahead(),
                Grant::Wait => self.end_punch(),
                Grant::Full(full) => {
                    assert_eq!(full.available, self.ungranted(), "free blocks are not found");
                    assert!(full.available < want);
                    return None;
                }
            }
        }
        panic!("it asks for pages without end");
    }

    fn count(&self, wanted: impl Fn(&State) -> bool) -> u64 {
        self.states.iter().filter(|state| wanted(state)).count().try_into().unwrap()
    }

    fn ungranted(&self) -> u64 {
        let granted: u64 = self.extents.values().map(|(run, _, _)| self.clear_within(*run)).sum();
        self.count(|state| *state == State::Clear) - granted
    }

    fn extent_of(&self, block: usize) -> Option<(BlockRun, DiskId, bool)> {
        let block = Self::addr(block);
        let (_, extent) = self.extents.range(..=block.raw()).next_back()?;
        extent.0.contains(block).then_some(*extent)
    }

    fn take(&mut self, disk: DiskId, count: u64, near: bool) {
        while self.space.arena_free(disk) < count {
            let want = count - self.space.arena_free(disk);
            let Some(run) = self.plan(disk, want) else {
                assert_eq!(self.space.take(disk, None, count), None);
                return;
            };
            self.extents.insert(run.start.raw(), (run, disk, true));
            self.adopt(run.start, &[]);
        }
        let near =
            near.then(|| self.picked(State::Taken(disk), &Pick { skip: 0, step: 1, count: 1 }));
        let near = near.and_then(|blocks| blocks.first().copied());
        let runs = self.space.take(disk, near, count).unwrap();
        assert_eq!(runs.iter().map(|run| run.count).sum::<u64>(), count);
        for block in runs.into_iter().flat_map(BlockRun::blocks) {
            let extent = self.extent_of(usize::try_from(block.raw()).unwrap());
            assert!(extent.is_some_and(|(_, owner, open)| open && owner == disk));
            assert_eq!(*self.state(block), State::Clear, "block {block} is handed out twice");
            *self.state(block) = State::Taken(disk);
        }
    }

    fn commit(&mut self, disk: DiskId, set: &Pick, clear: &Pick) {
        let set = self.picked(State::Taken(disk), set);
        let clear = self.picked(State::Set, clear);
        self.load(&self.space.missing_for_blocks(set.iter().chain(&clear)));
        let pages = self.space.commit_bits(&set, &clear).unwrap();
        self.space.trim(0); // what waits to be written must stay
        let changed: Vec<VirtualBlock> = pages.iter().map(|(at, _)| *at).collect();
        self.pages.extend(pages.into_iter().map(|(at, page)| (at.raw(), page)));
        self.space.written(&changed);
        self.mark(&set, State::Set);
        self.mark(&clear, State::Limbo);
    }

    fn close(&mut self, disk: DiskId, which: Which, drop: bool) {
        let droppable = self.space.close(disk, which);
        let all: Vec<u64> = self.space.extents_of(disk).iter().map(|r| r.start.raw()).collect();
        for start in all {
            let closed = droppable.iter().any(|r| r.start.raw() == start);
            if which == Which::Spent
                && closed
                && let Some(extent) = self.extents.get_mut(&start)
            {
                extent.2 = false;
            }
        }
        if drop {
            self.space.drop_extents(&droppable).unwrap();
            droppable.iter().for_each(|run| drop_value(self.extents.remove(&run.start.raw())));
        }
    }

    fn abandon_grant(&mut self, disk: DiskId) {
        if let Some(run) = self.plan(disk, 1) {
            self.space.abandon(run.start).unwrap();
        }
    }

    fn begin_punch(&mut self, least: u64) {
        loop {
            match self.space.plan_punch(least) {
                Punch::Load(pages) => self.load(&pages),
                Punch::Nothing => return,
                Punch::Run(punch) => {
                    assert!(punch.count >= least);
                    assert_eq!(self.clear_within(punch), punch.count, "{punch:?} is not free");
                    let owner = |b: BlockAddr| self.extent_of(usize::try_from(b.raw()).unwrap());
                    assert!(punch.blocks().all(|block| owner(block).is_none()));
                    let filled = |block: BlockAddr| self.filling.is_some_and(|f| f.contains(block));
                    assert!(!punch.blocks().any(filled), "{punch:?} is being filled");
                    self.punching.push(punch);
                    return;
                }
            }
        }
    }

    fn end_punch(&mut self) {
        let oldest = self.punching.remove(0);
        self.space.end_punch(oldest);
    }

    fn begin_ahead(&mut self, goal: u64, most: u64) {
        if self.filling.is_some() {
            return;
        }
        self.space.set_goal_ahead(goal);
        self.filling = self.space.plan_ahead(most);
        if let Some(run) = self.filling {
            assert!(run.count <= most);
            assert_eq!(self.clear_within(run), run.count, "{run:?} is not free");
            let owner = |b: BlockAddr| self.extent_of(usize::try_from(b.raw()).unwrap());
            assert!(run.blocks().all(|block| owner(block).is_none()), "{run:?} is granted");
        }
    }

    fn end_ahead(&mut self) {
        assert!(self.filling.take().is_some(), "nothing is being filled");
        self.space.end_ahead(true);
    }

    /// The process dies: what is not committed is gone, but for the chain blocks that recovery
    /// finds.
    fn restart(&mut self, chain: &Pick) {
        let config = SpaceConfig {
            used_blocks: self.space.used_blocks(),
            virgin_from: self.space.virgin_from(),
            ..self.config.clone()
        };
        self.space = Space::new(config).unwrap();
        self.punching.clear();
        self.filling = None;
        let disks: Vec<DiskId> = (1..4).map(DiskId).collect();
        let found: Vec<Vec<BlockAddr>> =
            disks.iter().map(|disk| self.picked(State::Taken(*disk), chain)).collect();
        for state in &mut self.states {
            if matches!(state, State::Taken(_) | State::Limbo) {
                *state = State::Clear;
            }
        }
        for (run, disk, _) in self.extents.values() {
            self.space.register(*disk, *run).unwrap();
        }
        for (disk, blocks) in disks.into_iter().zip(found) {
            self.mark(&blocks, State::Taken(disk));
            let own: Vec<_> = self.extents.values().filter(|e| e.1 == disk).copied().collect();
            for (run, _, _) in own {
                let inside: Vec<_> = blocks.iter().copied().filter(|b| run.contains(*b)).collect();
                self.adopt(run.start, &inside);
            }
        }
        self.extents.values_mut().for_each(|extent| extent.2 = true);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Take { disk, count, near } => self.take(DiskId(*disk), *count, *near),
            Op::Commit { disk, set, clear } => self.commit(DiskId(*disk), set, clear),
            Op::GiveBack { disk, pick } => {
                let blocks = self.picked(State::Taken(DiskId(*disk)), pick);
                self.space.give_back(&blocks);
                self.mark(&blocks, State::Clear);
            }
            Op::Retire { disk, pick } => {
                let blocks = self.picked(State::Taken(DiskId(*disk)), pick);
                self.space.retire(&blocks);
                self.mark(&blocks, State::Limbo);
            }
            Op::Release(pick) => {
                let blocks = self.picked(State::Limbo, pick);
                self.space.release(&blocks);
                self.mark(&blocks, State::Clear);
            }
            Op::Close { disk, which, drop } => self.close(DiskId(*disk), *which, *drop),
            Op::AbandonGrant { disk } => self.abandon_grant(DiskId(*disk)),
            Op::BeginPunch(least) => self.begin_punch(*least),
            Op::EndPunch if self.punching.is_empty() => {}
            Op::EndPunch => self.end_punch(),
            Op::BeginAhead { goal, most } => self.begin_ahead(*goal, *most),
            Op::EndAhead if self.filling.is_none() => {}
            Op::EndAhead => self.end_ahead(),
            Op::Trim => self.space.trim(0),
            Op::Restart { chain } => self.restart(chain),
        }
    }

    fn check(&self) {
        let expected = SpaceCounts {
            total: self.config.total.0,
            reserved: self.count(|state| *state == State::Reserved),
            used: self.count(|state| *state == State::Set),
            taken: self.count(|state| matches!(state, State::Taken(_))),
            limbo: self.count(|state| *state == State::Limbo),
            free: self.count(|state| *state == State::Clear),
            ungranted: self.ungranted(),
            promised: 0,
        };
        assert_eq!(self.space.counts(), expected);
        for disk in (1..4).map(DiskId) {
            let open = self.extents.values().filter(|(_, owner, open)| *open && *owner == disk);
            let free: u64 = open.map(|(run, _, _)| self.clear_within(*run)).sum();
            assert_eq!(self.space.arena_free(disk), free);
        }
    }
}

fn drop_value<T>(value: T) {
    drop(value);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_block_is_handed_out_twice_and_every_free_one_can_be_had(
        total in prop_oneof![9 => 320_u64..2500, 1 => Just(34_000)],
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new(total);
        for op in &ops {
            world.apply(op);
            if total < 3000 {
                world.check(); // slow on a large store
            }
        }
        world.check();
    }
}
