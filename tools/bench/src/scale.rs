//! What an operation costs with many snapshots behind a disk, many clones of one template, and
//! clones of clones: it should cost the same.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use bough_radix::{DeleteOptions, Disk, DiskName, Engine, SnapshotName, VersionName};
use serde::Serialize;

use crate::bed::{Bed, read_block, resident_bytes, timed, write_block};
use crate::dice::Dice;
use crate::figures::micros;

/// Data that every disk begins with, in blocks (64 MiB).
const DATA_BLOCKS: u64 = 16 << 10;
/// The disks' size.
const DISK_BYTES: u64 = 1 << 30;
/// Snapshots or clones asked for at once while there get to be many.
const AT_ONCE: u64 = 64;
/// Each operation's time is the median of so many.
const SAMPLES: u64 = 41;

/// One row: median times in microseconds at `count` of whatever there are many of.
#[derive(Debug, Serialize)]
pub struct Row {
    pub count: u64,
    pub snapshot_us: f64,
    pub clone_us: f64,
    pub read_us: f64,
    pub write_us: f64,
    pub delete_us: f64,
    pub open_us: f64,
    pub resident_bytes: u64,
}

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

async fn grow(bed: &Bed, limit: u64, shape: Shape) -> Result<Vec<Row>> {
    let mut engine = bed.create(64 << 30).await?;
    let first = name("d")?;
    engine.create_disk(&first, DISK_BYTES).await?;
    fill(&engine.disk(&first).await?).await?;
    engine.snapshot(&[snapshot("d", "base")?]).await?;
    let (mut rows, mut made, mut target) = (Vec::new(), 0, 10);
    while target < limit {
        target *= 10;
        let begun = Instant::now();
        while made < target {
            made += add(&engine, shape, made, target).await?;
        }
        eprintln!("{shape:?}: {made} after {:.1} s more", begun.elapsed().as_secs_f64());
        engine.close().await?;
        drop(engine);
        let (opened, took) = bed.reopen().await?;
        engine = opened;
        let open_us = micros(took);
        let row = measure_at(&engine, shape, made, open_us).await?;
        eprintln!("{row:?}");
        rows.push(row);
    }
    engine.close().await?;
    Ok(rows)
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

/// The disk that is worked on: the one with all the history behind it.
fn subject(shape: Shape, made: u64) -> String {
    match shape {
        Shape::Snapshots => "d".into(),
        Shape::Clones | Shape::Depth => format!("c{}", made - 1),
    }
}

async fn measure_at(engine: &Engine, shape: Shape, made: u64, open_us: f64) -> Result<Row> {
    let on = subject(shape, made);
    let disk = engine.disk(&name(&on)?).await?;
    let mut dice = Dice::new(made);
    // The first touches load what any disk needs; they are not what is asked about.
    for _ in 0..256 {
        read_block(&disk, dice.below(DATA_BLOCKS)).await?;
        write_block(&disk, dice.below(DATA_BLOCKS), made).await?;
    }
    let blocks: Vec<u64> = (0..2000).map(|_| dice.below(DATA_BLOCKS)).collect();
    let read_us = timed(2000, |n| read_block(&disk, at(&blocks, n))).await?;
    let write_us = timed(2000, |n| write_block(&disk, at(&blocks, n), n)).await?;
    let snapshot_us = timed(SAMPLES, |n| take(engine, on.clone(), format!("t{made}-{n}"))).await?;
    let source = VersionName::from(snapshot(&on, &format!("t{made}-0"))?);
    let clone_us = timed(SAMPLES, |n| clone_one(engine, &source, format!("x{made}-{n}"))).await?;
    for number in 0..SAMPLES {
        delete(engine, name(&format!("x{made}-{number}"))?.into()).await?;
    }
    let delete_us = timed(SAMPLES, |n| {
        let doomed = snapshot(&on, &format!("t{made}-{n}"));
        async move { delete(engine, doomed?.into()).await }
    })
    .await?;
    let resident_bytes = resident_bytes()?;
    Ok(Row {
        count: made,
        snapshot_us,
        clone_us,
        read_us,
        write_us,
        delete_us,
        open_us,
        resident_bytes,
    })
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
