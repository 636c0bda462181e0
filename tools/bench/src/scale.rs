//! What an operation costs with many snapshots behind a disk, many clones of one template, and
//! clones of clones: it should cost the same.
//!
//! Measured in turns with the same operation in a store that has only a hundred of them, so that
//! whatever else the machine does falls on both; the ratio is the median of the rounds' ratios.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use bough_radix::{DeleteOptions, Disk, DiskName, Engine, SnapshotName, VersionName};
use serde::Serialize;

use crate::bed::{Bed, read_block, resident_bytes, timed, write_block};
use crate::dice::Dice;
use crate::figures::{median, micros};

/// Data that every disk begins with, in blocks (64 MiB).
const DATA_BLOCKS: u64 = 16 << 10;
/// The disks' size.
const DISK_BYTES: u64 = 1 << 30;
/// Snapshots or clones asked for at once while there get to be many.
const AT_ONCE: u64 = 64;
/// What every row is compared with.
const FEW: u64 = 100;
/// Turns of each store.
const ROUNDS: u64 = 15;
/// In a turn each operation's time is the median of so many, of reads and writes...
const BLOCKS_A_TURN: u64 = 300;
/// ...and of the others.
const VERBS_A_TURN: u64 = 9;

/// The operations that are measured.
pub const OPERATIONS: [&str; 5] = ["read", "write", "snapshot", "clone", "delete"];

/// One row: what operations cost at `count` of whatever there are many of.
#[derive(Debug, Serialize)]
pub struct Row {
    pub count: u64,
    /// In the order of [`OPERATIONS`].
    pub operations: [Cost; OPERATIONS.len()],
    pub open_us: f64,
    pub resident_bytes: u64,
}

/// The median of an operation's times, and of its ratios to the same among a hundred.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub us: f64,
    pub ratio: f64,
}

/// Medians of one turn, in microseconds.
type Turn = [f64; OPERATIONS.len()];

/// The three tables.
#[derive(Debug, Serialize)]
pub struct Scale {
    pub snapshots_of_one_disk: Vec<Row>,
    pub clones_of_one_template: Vec<Row>,
    pub clone_of_clone_deep: Vec<Row>,
}

/// How far each table goes: powers of ten up to these.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub snapshots: u64,
    pub clones: u64,
    pub depth: u64,
}

/// Runs on a reactor; the three beds are empty folders.
pub async fn measure(beds: [Bed; 3], limits: Limits) -> Result<Scale> {
    let [snapshots, clones, depth] = beds;
    Ok(Scale {
        snapshots_of_one_disk: grow(&snapshots, limits.snapshots, Shape::Snapshots).await?,
        clones_of_one_template: grow(&clones, limits.clones, Shape::Clones).await?,
        clone_of_clone_deep: grow(&depth, limits.depth, Shape::Depth).await?,
    })
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Snapshots,
    Clones,
    Depth,
}

/// A store that holds many of something, open.
struct Subject {
    bed: Bed,
    engine: Engine,
    made: u64,
}

async fn grow(bed: &Bed, limit: u64, shape: Shape) -> Result<Vec<Row>> {
    let mut few = Subject::create(bed.within("few")?).await?;
    let mut many = Subject::create(bed.within("many")?).await?;
    let (mut rows, mut target) = (Vec::new(), 10);
    while target < limit {
        target *= 10;
        let open_us;
        (many, open_us) = many.grow(shape, target).await?;
        // Opened anew like the other: a log that has just begun gets its blocks in small portions.
        (few, _) = few.grow(shape, FEW).await?;
        let few_disk = few.disk(shape).await?;
        let many_disk = many.disk(shape).await?;
        let (mut turns_of_few, mut turns_of_many) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let label = format!("{target}-{round}");
            turns_of_few.push(few.turn(shape, &few_disk, &label).await?);
            turns_of_many.push(many.turn(shape, &many_disk, &label).await?);
        }
        let operations =
            std::array::from_fn(|operation| cost(&turns_of_many, &turns_of_few, operation));
        let row = Row { count: target, operations, open_us, resident_bytes: resident_bytes()? };
        eprintln!("{shape:?}: {row:?}");
        rows.push(row);
    }
    few.engine.close().await?;
    many.engine.close().await?;
    Ok(rows)
}

fn cost(many: &[Turn], few: &[Turn], operation: usize) -> Cost {
    let mut times: Vec<f64> = many.iter().map(|turn| turn[operation]).collect();
    let pairs = many.iter().zip(few);
    let mut ratios: Vec<f64> = pairs.map(|(a, b)| a[operation] / b[operation]).collect();
    Cost { us: median(&mut times), ratio: median(&mut ratios) }
}

impl Subject {
    async fn create(bed: Bed) -> Result<Self> {
        let engine = bed.create(64 << 30).await?;
        let first = name("d")?;
        engine.create_disk(&first, DISK_BYTES).await?;
        fill(&engine.disk(&first).await?).await?;
        engine.snapshot(&[snapshot("d", "base")?]).await?;
        Ok(Self { bed, engine, made: 0 })
    }

    /// Makes it hold so many, and opens it anew; says how long that took, in microseconds.
    async fn grow(mut self, shape: Shape, target: u64) -> Result<(Self, f64)> {
        let begun = Instant::now();
        while self.made < target {
            self.made += add(&self.engine, shape, self.made, target).await?;
        }
        eprintln!("{shape:?}: {target} after {:.1} s more", begun.elapsed().as_secs_f64());
        let Self { bed, engine, made } = self;
        engine.close().await?;
        drop(engine);
        let (engine, took) = bed.reopen().await?;
        Ok((Self { bed, engine, made }, micros(took)))
    }

    /// The disk that is worked on, the one with all the history behind it, once it has loaded
    /// what any disk needs.
    async fn disk(&self, shape: Shape) -> Result<Arc<Disk>> {
        let disk = self.engine.disk(&name(&self.subject(shape))?).await?;
        let mut dice = Dice::new(self.made);
        for _ in 0..256 {
            read_block(&disk, dice.below(DATA_BLOCKS)).await?;
            write_block(&disk, dice.below(DATA_BLOCKS), self.made).await?;
        }
        Ok(disk)
    }

    fn subject(&self, shape: Shape) -> String {
        match shape {
            Shape::Snapshots => "d".into(),
            Shape::Clones | Shape::Depth => format!("c{}", self.made - 1),
        }
    }

    async fn turn(&self, shape: Shape, disk: &Arc<Disk>, label: &str) -> Result<Turn> {
        let (engine, on) = (&self.engine, self.subject(shape));
        let mut dice = Dice::new(self.made);
        let blocks: Vec<u64> = (0..BLOCKS_A_TURN).map(|_| dice.below(DATA_BLOCKS)).collect();
        let read = timed(BLOCKS_A_TURN, |n| read_block(disk, at(&blocks, n))).await?;
        let write = timed(BLOCKS_A_TURN, |n| write_block(disk, at(&blocks, n), n)).await?;
        let taken = |n| format!("t{label}-{n}");
        let snapshots = timed(VERBS_A_TURN, |n| take(engine, on.clone(), taken(n))).await?;
        let source = VersionName::from(snapshot(&on, &taken(0))?);
        let cloned = |n| format!("x{label}-{n}");
        let clones = timed(VERBS_A_TURN, |n| clone_one(engine, &source, cloned(n))).await?;
        for number in 0..VERBS_A_TURN {
            delete(engine, name(&cloned(number))?.into()).await?;
        }
        let deletes = timed(VERBS_A_TURN, |n| {
            let doomed = snapshot(&on, &taken(n));
            async move { delete(engine, doomed?.into()).await }
        })
        .await?;
        Ok([read, write, snapshots, clones, deletes])
    }
}

/// Adds some; says how many.
async fn add(engine: &Engine, shape: Shape, made: u64, target: u64) -> Result<u64> {
    let upto = target.min(made + AT_ONCE);
    match shape {
        Shape::Snapshots => {
            let disk = engine.disk(&name("d")?).await?;
            write_block(&disk, Dice::new(made).below(DATA_BLOCKS), made).await?;
            let names = (made..upto).map(|n| snapshot("d", &format!("s{n}")));
            engine.snapshot(&names.collect::<Result<Vec<_>>>()?).await?;
        }
        Shape::Clones => {
            let base = VersionName::from(snapshot("d", "base")?);
            let names = (made..upto).map(|n| name(&format!("c{n}"))).collect::<Result<Vec<_>>>()?;
            engine.clone_disks(&base, &names).await?;
        }
        Shape::Depth => {
            let parent = if made == 0 { "d".into() } else { format!("c{}", made - 1) };
            let label = if made == 0 { "base" } else { "s" };
            let child = name(&format!("c{made}"))?;
            engine
                .clone_disks(&snapshot(&parent, label)?.into(), std::slice::from_ref(&child))
                .await?;
            let disk = engine.disk(&child).await?;
            write_block(&disk, Dice::new(made).below(DATA_BLOCKS), made).await?;
            drop(disk);
            engine.snapshot(&[snapshot(child.as_str(), "s")?]).await?;
            return Ok(1);
        }
    }
    Ok(upto - made)
}

fn at(blocks: &[u64], number: u64) -> u64 {
    usize::try_from(number).ok().and_then(|n| blocks.get(n)).copied().unwrap_or(0)
}

async fn fill(disk: &Arc<Disk>) -> Result<()> {
    let mut dice = Dice::new(7);
    for part in 0..DATA_BLOCKS / 256 {
        disk.write(part << 20, 1 << 20, &mut |_, piece| {
            piece.chunks_exact_mut(8).for_each(|to| to.copy_from_slice(&dice.roll().to_le_bytes()));
        })
        .await?;
    }
    Ok(())
}

async fn take(engine: &Engine, disk: String, label: String) -> Result<()> {
    engine.snapshot(&[snapshot(&disk, &label)?]).await?;
    Ok(())
}

async fn clone_one(engine: &Engine, source: &VersionName, to: String) -> Result<()> {
    engine.clone_disks(source, &[name(&to)?]).await?;
    Ok(())
}

async fn delete(engine: &Engine, doomed: VersionName) -> Result<()> {
    engine.delete(&[doomed], DeleteOptions::default()).await?;
    Ok(())
}

fn name(text: &str) -> Result<DiskName> {
    Ok(text.parse()?)
}

fn snapshot(disk: &str, label: &str) -> Result<SnapshotName> {
    Ok(SnapshotName::new(name(disk)?, label)?)
}
