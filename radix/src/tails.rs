//! Where the published part of each live log ends, in memory that outlives the process.
//!
//! A crash of the machine takes such memory along; the death of the process alone does not. Then a
//! successor that has followed a log to the end of what was published has all of it: what was
//! answered, and what any header could call synced, lies before that end. So it has no need to search
//! the disk's extents for records beyond a gap. Where nothing was left, or the log ends before, it
//! searches as after any crash.

use bough_blockstore::{ChainStart, Nonce};

/// Where ends are noted, and what a dead process noted.
pub trait Tails: std::fmt::Debug + Send + Sync {
    /// A place for a log that begins; none where there is no room for more.
    fn begin(&self) -> Option<Box<dyn Tail>>;

    /// Where the log with this nonce would have gone on when its server died, if that is known. It may
    /// be an earlier end, never a later one, than that of what was answered last.
    fn left(&self, nonce: Nonce) -> Option<ChainStart>;
}

/// One log's place. It is free for another when this is dropped.
pub trait Tail: Send + Sync {
    /// Everything before `next` is published. Called before anybody is told so. Straight-line code.
    fn set(&self, next: &ChainStart);
}
