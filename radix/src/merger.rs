//! The machine behind [`merge`](crate::merge): one path of open nodes, moving to the right.

use std::sync::Arc;

use bough_blockstore::{VirtualRange, to_u64};

use crate::cache::NodeCache;
use crate::merge::{MergeContext, Merged, NodeSink, Update};
use crate::node::{Entry, Kind, Node, Root};
use crate::path::Position;
use crate::read_ahead::{read_ahead_nodes, warm_paths, warm_slots};
use crate::tree_error::{TreeError, Unreadable};

/// A node that updates may still change.
struct OpenNode {
    position: Position,
    node: Box<Node>,
    /// What the tree had here: freed when the node is replaced.
    original: Entry,
    changed: bool,
}

pub(crate) struct Merger<'a, S> {
    cache: &'a NodeCache,
    sink: &'a mut S,
    context: MergeContext,
    /// The tree so far; each entry of an open node takes the place of what is below it.
    root: Root,
    /// The height wanted. Nodes above it are dropped when they close: whoever asks for less than
    /// the tree has zeros all that lies beyond.
    height: u8,
    open: Vec<OpenNode>,
    /// The first block that updates may still name.
    next_vba: u64,
    nodes_read: u64,
    done: Merged,
}

impl<'a, S: NodeSink> Merger<'a, S> {
    pub(crate) fn new(
        cache: &'a NodeCache,
        sink: &'a mut S,
        root: Root,
        height: u8,
        context: MergeContext,
    ) -> Self {
        let done = Merged {
            root,
            freed: Vec::new(),
            nodes_written: 0,
            referenced_delta: 0,
            owned_delta: 0,
            unreadable: Vec::new(),
        };
        let open = Vec::new();
        let (next_vba, nodes_read) = (0, 0);
        let mut merger =
            Self { cache, sink, context, root, height, open, next_vba, nodes_read, done };
        merger.grow();
        merger
    }

    /// Puts the tree under new levels, opened but not yet written, where more are wanted.
    fn grow(&mut self) {
        if self.root.height >= self.height {
            return;
        }
        let old = std::mem::replace(&mut self.root, Root::empty(self.height));
        if old.top.is_hole() {
            return;
        }
        for level in (old.height + 1..=self.height).rev() {
            let (node, original) = (Box::new(Node::filled(Entry::HOLE)), Entry::HOLE);
            let position = Position::top(level);
            self.open.push(OpenNode { position, node, original, changed: true });
        }
        self.set_entry(Position::top(old.height), old.top);
    }

    pub(crate) async fn apply_all(
        &mut self,
        old: Root,
        mut updates: impl Iterator<Item = Update>,
    ) -> Result<(), S::Error> {
        let at_once = read_ahead_nodes(self.cache).max(1);
        loop {
            let batch: Vec<_> = updates.by_ref().take(at_once).collect();
            if batch.is_empty() {
                return Ok(());
            }
            warm_paths(self.cache, old, batch.iter().filter_map(Update::block)).await;
            for update in batch {
                self.apply(update).await?;
            }
        }
    }

    async fn apply(&mut self, update: Update) -> Result<(), S::Error> {
        match update {
            Update::Zero { range } => self.zero(range, u64::MAX).await.map(drop),
            Update::Lost { range } => self.lose(range).await,
            Update::Data { vba, addr, crc, birth } => {
                assert!(birth <= self.context.birth, "a block younger than its node");
                assert!(vba.raw() < self.root.capacity(), "data beyond the tree");
                self.advance(vba.raw()..vba.raw() + 1);
                self.replace(vba.raw(), Entry::data(addr, birth, crc)).await
            }
        }
    }

    fn advance(&mut self, range: VirtualRange) {
        assert!(range.start >= self.next_vba, "updates out of order");
        self.next_vba = range.end.max(range.start);
    }

    /// Replaces one block's entry.
    async fn replace(&mut self, vba: u64, new: Entry) -> Result<(), S::Error> {
        self.close_before(vba).await?;
        let mut position = self.next_position(vba);
        while position.level > 0 {
            self.open(position).await?;
            position = self.next_position(vba);
        }
        let old = self.entry(position);
        if old.pointer() != new.pointer() {
            self.count_out(position, &old);
            self.count_in(position, &new);
        }
        self.set_entry(position, new);
        Ok(())
    }

    /// Makes holes of a range, which may reach beyond the tree. Reads nothing below holes, and
    /// elsewhere only what has to be counted or freed. Ends early, but never where it began, when
    /// all that the merger has read and freed comes to `budget_blocks`; says how far it came.
    pub(crate) async fn zero(
        &mut self,
        range: VirtualRange,
        budget_blocks: u64,
    ) -> Result<u64, S::Error> {
        self.advance(range.clone());
        let end = range.end.min(self.root.capacity());
        let mut at = range.start;
        while at < end {
            if at > range.start && self.has_spent(budget_blocks) {
                return Ok(at);
            }
            self.close_before(at).await?;
            let position = self.next_position(at);
            let (entry, span) = (self.entry(position), position.span());
            if entry.is_hole() {
                at = span.end;
                continue;
            }
            self.warm(position, &range).await;
            let is_covered = span.start == at && span.end <= end;
            if is_covered && (position.level < 2 || !entry.is_data()) {
                self.drop_leaf(position, entry).await?;
                self.set_entry(position, Entry::HOLE);
                at = span.end;
            } else {
                self.open(position).await?;
            }
        }
        Ok(range.end)
    }

    /// Marks a range as lost. What hangs below nodes that can be read is counted, and freed where the
    /// version owns it.
    async fn lose(&mut self, range: VirtualRange) -> Result<(), S::Error> {
        self.advance(range.clone());
        let end = range.end.min(self.root.capacity());
        let mut at = range.start;
        while at < end {
            self.close_before(at).await?;
            let position = self.next_position(at);
            let (entry, span) = (self.entry(position), position.span());
            let is_covered = span.start == at && span.end <= end;
            if is_covered && (position.level == 0 || !entry.is_data()) {
                self.count_out(position, &entry);
                self.set_entry(position, Entry::LOST);
                at = span.end;
            } else {
                self.open(position).await?;
            }
        }
        Ok(())
    }

    /// Makes holes of everything from `at` on. Reads nothing but the way there, counts nothing
    /// and frees nothing: for a version that owns none of it.
    pub(crate) async fn cut(&mut self, mut at: u64) -> Result<(), S::Error> {
        self.advance(at..u64::MAX);
        while at < self.root.capacity() {
            self.close_before(at).await?;
            let position = self.next_position(at);
            let (entry, span) = (self.entry(position), position.span());
            if !entry.is_hole() && span.start < at {
                self.open(position).await?;
                continue;
            }
            self.set_entry(position, Entry::HOLE);
            at = span.end;
        }
        Ok(())
    }

    /// Whether reading and freeing has come to so much.
    pub(crate) fn has_spent(&self, blocks: u64) -> bool {
        self.nodes_read + to_u64(self.done.freed.len()) >= blocks
    }

    /// Has the nodes read ahead that making holes of `range` comes to after `position`.
    async fn warm(&self, position: Position, range: &VirtualRange) {
        let Some(parent) = self.open.last() else { return };
        let wanted = |child: Position| {
            let entry = parent.node.entry(child.slot());
            let span = child.span();
            let is_needed = entry.is_data() && span.start < range.end && range.start < span.end;
            [is_needed.then_some(entry), None]
        };
        warm_slots(self.cache, parent.position, position.slot(), wanted).await;
    }

    /// Closes what is left of everything.
    pub(crate) async fn finish(mut self) -> Result<Merged, S::Error> {
        while !self.open.is_empty() {
            self.close().await?;
        }
        self.done.root = Root { top: self.root.top, height: self.height };
        Ok(self.done)
    }

    /// The position below the innermost open node that covers `vba`; the top where none is open.
    fn next_position(&self, vba: u64) -> Position {
        match self.open.last() {
            Some(open) => open.position.child(open.position.slot_of(vba)),
            None => Position::top(self.root.height),
        }
    }

    fn entry(&self, position: Position) -> Entry {
        match self.open.last() {
            Some(open) => open.node.entry(position.slot()),
            None => self.root.top,
        }
    }

    fn set_entry(&mut self, position: Position, entry: Entry) {
        match self.open.last_mut() {
            Some(open) if open.node.entry(position.slot()) == entry => {}
            Some(open) => {
                open.node.set(position.slot(), entry);
                open.changed = true;
            }
            None => self.root.top = entry,
        }
    }

    async fn open(&mut self, position: Position) -> Result<(), S::Error> {
        let entry = self.entry(position);
        // Whatever becomes of a node above the wanted height, its first entry takes its place.
        let dropped = position.level > self.height;
        let open = match entry.kind() {
            Kind::Hole | Kind::Lost => OpenNode {
                position,
                node: Box::new(Node::filled(entry)),
                original: entry,
                changed: dropped,
            },
            Kind::Data => match self.read(position, &entry).await? {
                Some(node) => OpenNode {
                    position,
                    node: Box::new(Node::clone(&node)),
                    original: entry,
                    changed: dropped,
                },
                // Its block leaks like those below it: somebody may want to look at it.
                None => OpenNode {
                    position,
                    node: Box::new(Node::filled(Entry::LOST)),
                    original: Entry::LOST,
                    changed: true,
                },
            },
        };
        self.open.push(open);
        Ok(())
    }

    /// Closes the nodes that `vba` is beyond: nothing will change them any more.
    async fn close_before(&mut self, vba: u64) -> Result<(), S::Error> {
        while self.open.last().is_some_and(|open| open.position.span().end <= vba) {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), S::Error> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        if !open.changed {
            return Ok(());
        }
        let entry = if open.position.level > self.height {
            assert!(open.node.entries().skip(1).all(|entry| entry.is_hole()), "dropping data");
            open.node.entry(0)
        } else if open.node.is_empty() {
            Entry::HOLE
        } else {
            self.write(open.position, open.node).await?
        };
        if self.context.ownership.owns(open.position, &open.original) {
            self.done.freed.push(open.original.addr());
        }
        self.set_entry(open.position, entry);
        Ok(())
    }

    async fn write(&mut self, position: Position, node: Box<Node>) -> Result<Entry, S::Error> {
        let addr = self.sink.put(position, &node).await?;
        let entry = Entry::data(addr, self.context.birth, node.checksum(position));
        self.cache.insert(&entry, position, Arc::from(node));
        self.done.nodes_written += 1;
        Ok(entry)
    }

    /// Frees what the version owns of a block or of a node above blocks, and counts all of it out.
    async fn drop_leaf(&mut self, position: Position, entry: Entry) -> Result<(), S::Error> {
        if position.level == 0 || !entry.is_data() {
            self.count_out(position, &entry);
            return Ok(());
        }
        let Some(node) = self.read(position, &entry).await? else { return Ok(()) };
        if self.context.ownership.owns(position, &entry) {
            self.done.freed.push(entry.addr());
        }
        for (slot, below) in node.entries().enumerate() {
            self.count_out(position.child(slot), &below);
        }
        Ok(())
    }

    fn count_out(&mut self, position: Position, old: &Entry) {
        if !old.is_data() {
            return;
        }
        self.done.referenced_delta -= 1;
        if self.context.ownership.owns(position, old) {
            self.done.freed.push(old.addr());
            self.done.owned_delta -= 1;
        }
    }

    fn count_in(&mut self, position: Position, new: &Entry) {
        self.done.referenced_delta += 1;
        self.done.owned_delta += i64::from(self.context.ownership.owns(position, new));
    }

    /// The node, or none where it is given up.
    async fn read(
        &mut self,
        position: Position,
        entry: &Entry,
    ) -> Result<Option<Arc<Node>>, TreeError> {
        self.nodes_read += 1;
        match self.cache.fetch(entry, position).await {
            Err(error) if self.context.on_damage.gives_up(&error) => {
                self.done.unreadable.push(Unreadable { position, error });
                Ok(None)
            }
            other => other.map(Some),
        }
    }
}
