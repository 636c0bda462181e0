//! A durable snapshot's latency and rate, idle and under random writes, by the disk's size.
//!
//! How it depends on the number of snapshots before it is [`crate::scale`]'s to say.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bough_radix::{Disk, DiskName, Engine, SnapshotName};
use futures_util::future::{join, join_all};
use serde::Serialize;

use crate::bed::{Bed, write_block};
use crate::dice::Dice;
use crate::figures::{micros, percentile};

/// Writers under which snapshots are taken.
const WRITERS: u64 = 32;

/// One row.
#[derive(Debug, Serialize)]
pub struct Row {
    pub disk_bytes: u64,
    pub under_writes: bool,
    pub p50_us: f64,
    pub p99_us: f64,
    /// One after the other.
    pub per_second: f64,
    /// 64 in one request.
    pub per_second_together: f64,
    /// Of the writers meanwhile.
    pub write_iops: f64,
}

/// Runs on a reactor; `bed` is an empty folder.
pub async fn measure(bed: &Bed, each: Duration) -> Result<Vec<Row>> {
    let engine = bed.create(32 << 30).await?;
    let mut rows = Vec::new();
    for disk_bytes in [1 << 30, 64 << 30, 4 << 40] {
        let name: DiskName = format!("d{}", disk_bytes >> 30).parse()?;
        engine.create_disk(&name, disk_bytes).await?;
        let disk = engine.disk(&name).await?;
        for under_writes in [false, true] {
            let row = measure_one(&engine, &disk, under_writes, each).await?;
            eprintln!("{row:?}");
            rows.push(row);
        }
    }
    engine.close().await?;
    Ok(rows)
}

async fn measure_one(
    engine: &Engine,
    disk: &Arc<Disk>,
    under_writes: bool,
    each: Duration,
) -> Result<Row> {
    let over = Cell::new(false);
    let written = Cell::new(0_u32);
    let writers = async {
        let count = if under_writes { WRITERS } else { 0 };
        let all = join_all((0..count).map(|seed| write_until(disk, seed, &over, &written))).await;
        all.into_iter().collect::<Result<Vec<()>>>()
    };
    let taker = async {
        let label = if under_writes { "w" } else { "i" };
        let taken = take_many(engine, disk, label, each).await;
        over.set(true);
        taken
    };
    let begun = Instant::now();
    let (wrote, taken) = join(writers, taker).await;
    wrote?;
    let (mut times, together) = taken?;
    let count = u32::try_from(times.len())?;
    let spent: f64 = times.iter().sum();
    Ok(Row {
        disk_bytes: disk.size_bytes(),
        under_writes,
        per_second: f64::from(count) / (spent / 1e6),
        p50_us: percentile(&mut times, 50),
        p99_us: percentile(&mut times, 99),
        per_second_together: together,
        write_iops: f64::from(written.get()) / begun.elapsed().as_secs_f64(),
    })
}

async fn take_many(
    engine: &Engine,
    disk: &Arc<Disk>,
    label: &str,
    each: Duration,
) -> Result<(Vec<f64>, f64)> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < each {
        let one = Instant::now();
        engine
            .snapshot(&[SnapshotName::new(disk.name(), &format!("{label}{}", times.len()))?])
            .await?;
        times.push(micros(one.elapsed()));
    }
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < each {
        let names = (count..count + 64)
            .map(|n| SnapshotName::new(disk.name(), &format!("{label}t{n}")))
            .collect::<Result<Vec<_>, _>>()?;
        engine.snapshot(&names).await?;
        count += 64;
    }
    Ok((times, f64::from(count) / begun.elapsed().as_secs_f64()))
}

async fn write_until(
    disk: &Arc<Disk>,
    seed: u64,
    over: &Cell<bool>,
    written: &Cell<u32>,
) -> Result<()> {
    let mut dice = Dice::new(seed);
    // A part of the disk, so that every size writes the same amount of tree.
    let blocks = (1 << 30) / 4096;
    while !over.get() {
        write_block(disk, dice.below(blocks), dice.roll()).await?;
        written.set(written.get() + 1);
    }
    Ok(())
}
