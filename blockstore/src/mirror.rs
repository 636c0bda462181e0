//! Blocks kept twice: the catalogue's pool.
//!
//! Owns the mapping from a block to its second copy. Never decides which copy is right: readers
//! do, by checksum. The invariant: a completed write has reached both copies.

use std::sync::{Arc, RwLock};

use crate::addr::{BlockAddr, BlockCount, BlockRun, to_u64, to_usize};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::device::{Device, DeviceError, DeviceFault, IoFuture, Operation};
use crate::join::join;
use crate::superblock::PoolRun;

/// A device of which every block is written twice. Blocks outside its runs are out of range.
pub struct Mirrored {
    inner: Arc<dyn Device>,
    pool: RwLock<Vec<PoolRun>>,
}

/// Blocks that lie side by side in both copies.
struct Piece {
    primary: BlockAddr,
    mirror: BlockAddr,
    count: usize,
}

/// Which copy is read first.
#[derive(Clone, Copy)]
enum Side {
    Primary,
    Mirror,
}

impl Mirrored {
    /// The runs of `pool`, on `inner`.
    pub fn new(inner: Arc<dyn Device>, pool: Vec<PoolRun>) -> Arc<Self> {
        Arc::new(Self { inner, pool: RwLock::new(pool) })
    }

    /// Adds a run: the pool has grown.
    pub fn add_run(&self, run: PoolRun) {
        self.pool.write().expect("nobody panics under this lock").push(run);
    }

    /// The request's parts, in order, none of which crosses a run's end.
    fn pieces(
        &self,
        operation: Operation,
        at: BlockAddr,
        count: usize,
    ) -> Result<Vec<Piece>, DeviceError> {
        let pool = self.pool.read().expect("nobody panics under this lock");
        let mut pieces = Vec::new();
        let (mut next, end) = (at.raw(), at.raw() + to_u64(count));
        while next < end {
            let inside =
                |run: &&PoolRun| run.primary.raw() <= next && next < run.primary.raw() + run.count;
            let Some(run) = pool.iter().find(inside) else {
                let kind = DeviceFault::OutOfRange;
                return Err(DeviceError { operation, at, run_count: to_u64(count), kind });
            };
            let skipped = next - run.primary.raw();
            let here = (end - next).min(run.count - skipped);
            pieces.push(Piece {
                primary: run.primary.plus(skipped),
                mirror: run.mirror.plus(skipped),
                count: to_usize(here),
            });
            next += here;
        }
        Ok(pieces)
    }

    fn read_side(&self, at: BlockAddr, count: usize, side: Side) -> IoFuture<BlockBuf> {
        let inner = Arc::clone(&self.inner);
        let pieces = self.pieces(Operation::Read, at, count);
        Box::pin(async move {
            let mut whole = BlockBuf::with_capacity(0);
            for piece in pieces? {
                let part = read_piece(&inner, &piece, side).await?;
                if part.block_count() == count {
                    return Ok(part);
                }
                whole.append(part);
            }
            Ok(whole)
        })
    }
}

/// One copy; the primary's second one too, where the medium cannot read the first.
async fn read_piece(
    inner: &Arc<dyn Device>,
    piece: &Piece,
    side: Side,
) -> Result<BlockBuf, DeviceError> {
    match side {
        Side::Mirror => inner.read(piece.mirror, piece.count).await,
        Side::Primary => match inner.read(piece.primary, piece.count).await {
            Ok(buf) => Ok(buf),
            Err(error) => inner.read(piece.mirror, piece.count).await.map_err(|_| error),
        },
    }
}

impl Device for Mirrored {
    fn block_count(&self) -> BlockCount {
        self.inner.block_count()
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        self.read_side(at, count, Side::Primary)
    }

    fn read_mirror(&self, at: BlockAddr, count: usize) -> Option<IoFuture<BlockBuf>> {
        Some(self.read_side(at, count, Side::Mirror))
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        let inner = Arc::clone(&self.inner);
        let pieces = self.pieces(Operation::Write, at, data.block_count());
        Box::pin(async move {
            let mut first = 0;
            for piece in pieces? {
                let part = data.slice(first, piece.count);
                let primary = inner.write(piece.primary, part.clone());
                let mirror = inner.write(piece.mirror, part);
                // Both end before either's failure is told: nothing is left under way.
                let (primary, mirror) = join(primary, mirror).await;
                primary.and(mirror)?;
                first += piece.count;
            }
            Ok(())
        })
    }

    fn sync(&self) -> IoFuture<()> {
        self.inner.sync()
    }

    /// Keeps the pool: it is a fixed reserve, never given back.
    fn discard(&self, _run: BlockRun) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        self.inner.grow(to)
    }
}
