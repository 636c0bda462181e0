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
                whole.append(&part);
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

    fn reserve(&self, run: BlockRun) -> IoFuture<()> {
        self.inner.reserve(run)
    }

    fn is_sparse(&self) -> bool {
        self.inner.is_sparse()
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        self.inner.grow(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{CrashKind, Mishap, Sim, SimDevice};

    /// Two runs whose first copies adjoin and whose second ones do not.
    fn pool() -> Vec<PoolRun> {
        let run = |primary, mirror, count| PoolRun {
            primary: BlockAddr::of(primary),
            mirror: BlockAddr::of(mirror),
            count,
        };
        vec![run(10, 50, 5), run(15, 70, 5)]
    }

    fn mirrored(sim: &Sim) -> (Arc<SimDevice>, Arc<Mirrored>) {
        let inner = sim.create_device(BlockCount(100));
        (Arc::clone(&inner), Mirrored::new(inner, pool()))
    }

    fn pattern(count: usize) -> BlockBuf {
        let mut buf = BlockBuf::zeroed(count);
        for index in 0..count {
            buf.block_mut(index).fill(u8::try_from(index + 1).expect("few"));
        }
        buf
    }

    #[test]
    fn each_copy_reads_as_what_was_written_across_runs() {
        let sim = Sim::new(1);
        let (inner, mirrored) = mirrored(&sim);
        sim.run(async {
            let at = BlockAddr::of(12);
            mirrored.write(at, pattern(6).share()).await.expect("healthy");
            let first = mirrored.read(at, 6).await.expect("healthy");
            let second = mirrored.read_mirror(at, 6).expect("there is one").await.expect("healthy");
            assert_eq!(first[..], pattern(6)[..]);
            assert_eq!(second[..], pattern(6)[..]);
            let image = inner.image();
            assert_eq!(image.read(BlockAddr::of(54))[0], 3);
            assert_eq!(image.read(BlockAddr::of(70))[0], 4);
        });
    }

    #[test]
    fn the_second_copy_stands_in_for_an_unreadable_first() {
        let sim = Sim::new(1);
        let (inner, mirrored) = mirrored(&sim);
        sim.run(async {
            mirrored.write(BlockAddr::of(10), pattern(2).share()).await.expect("healthy");
            inner.make_unreadable(BlockAddr::of(11));
            let found = mirrored.read(BlockAddr::of(10), 2).await.expect("the copy");
            assert_eq!(found[..], pattern(2)[..]);
        });
    }

    #[test]
    fn a_write_that_one_copy_failed_is_a_failed_write() {
        for after in 0..2 {
            let sim = Sim::new(1);
            let (inner, mirrored) = mirrored(&sim);
            inner.plan(Operation::Write, after, Mishap::Error);
            let written = sim.run(mirrored.write(BlockAddr::of(10), pattern(1).share()));
            assert!(written.is_err());
        }
    }

    #[test]
    fn what_lies_outside_the_pool_is_out_of_range_until_it_grows() {
        let sim = Sim::new(1);
        let (_, mirrored) = mirrored(&sim);
        sim.run(async {
            let at = BlockAddr::of(19);
            let refused = mirrored.write(at, pattern(2).share()).await;
            assert!(matches!(refused, Err(DeviceError { kind: DeviceFault::OutOfRange, .. })));
            assert!(mirrored.read(at, 2).await.is_err());
            let (primary, mirror) = (BlockAddr::of(20), BlockAddr::of(90));
            mirrored.add_run(PoolRun { primary, mirror, count: 4 });
            mirrored.write(at, pattern(2).share()).await.expect("inside now");
        });
    }

    #[test]
    fn a_crash_leaves_at_least_one_copy_of_what_was_synced() {
        let sim = Sim::new(1);
        let (inner, mirrored) = mirrored(&sim);
        sim.run(async {
            mirrored.write(BlockAddr::of(10), pattern(3).share()).await.expect("healthy");
            mirrored.sync().await.expect("healthy");
        });
        drop(inner);
        let mut image = sim.crash(CrashKind::PowerCut);
        image.damage(BlockAddr::of(10), |block| block.fill(0));
        let mirrored = Mirrored::new(sim.open_device(image), pool());
        let second = mirrored.read_mirror(BlockAddr::of(10), 3).expect("there is one");
        assert_eq!(sim.run(second).expect("healthy")[..], pattern(3)[..]);
    }
}
