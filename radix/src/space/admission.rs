//! What requests under way have been promised, and what of that their chain has drawn.
//!
//! A chain takes blocks for a batch of requests, which end one by one and later. Until then a
//! block must not count twice, as taken and as promised: others would be refused for it.

use bough_blockstore::{BlockAddr, BlockRun, DiskId};

use super::counts::{Full, Need};
use super::{Space, arena::Arena};

/// Room for one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// For data and record headers: drawn by the chain.
    pub blocks: u64,
    /// For the checkpoint that will merge the request: settled one by one.
    pub nodes: u64,
}

impl Space {
    /// Promises a request its room, before anything of it is staged. [`Space::dismiss`] it when
    /// it has been answered.
    pub fn admit(&mut self, disk: DiskId, need: Need, room: Room) -> Result<(), Full> {
        self.promise(disk, need, room.blocks + room.nodes)?;
        self.change_arena(disk, |arena| arena.admitted += room.blocks);
        Ok(())
    }

    /// As [`Space::take`], for the requests under way; what they have not been promised is taken
    /// only where it has been promised to nobody else.
    pub fn draw(
        &mut self,
        disk: DiskId,
        near: Option<BlockAddr>,
        count: u64,
    ) -> Option<Vec<BlockRun>> {
        let drawn = self.arenas.get(&disk).map_or(0, Arena::undrawn).min(count);
        if count - drawn > self.available(disk, Need::Checkpoint) {
            return None;
        }
        let runs = self.take(disk, near, count)?;
        self.change_arena(disk, |arena| {
            arena.drawn += drawn;
            arena.promised -= drawn;
        });
        Some(runs)
    }

    /// A request that was admitted with so many blocks has ended: what was not drawn is anybody's.
    ///
    /// # Panics
    /// Where it was not admitted: a bug of ours.
    pub fn dismiss(&mut self, disk: DiskId, blocks: u64) {
        self.change_arena(disk, |arena| {
            let drawn = arena.drawn.min(blocks);
            arena.drawn -= drawn;
            arena.promised -= blocks - drawn;
            arena.admitted = arena.admitted.checked_sub(blocks).expect("it was admitted");
        });
    }
}
