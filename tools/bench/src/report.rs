//! The tables, for people; `--json` prints what they are made from.

use std::fmt::Write;

use serde::Serialize;

use crate::data_path::DataPath;
use crate::{recovery, restart, scale, snapshots};

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub data_path: Option<DataPath>,
    pub snapshots: Option<Vec<snapshots::Row>>,
    pub scale: Option<scale::Scale>,
    pub restart: Option<Vec<restart::Row>>,
    pub recovery: Option<Vec<recovery::Row>>,
    pub opening: Option<recovery::Opening>,
}

/// Where it was measured.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    pub qemu: String,
    pub folder: String,
    pub file_system: String,
}

/// As Markdown.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut out, report);
    out
}

fn write_all(out: &mut String, report: &Report) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(
        out,
        "Machine: {} x {}, Linux {}",
        machine.processors, machine.processor, machine.kernel
    )?;
    writeln!(out, "Folder: {} ({}); {}", machine.folder, machine.file_system, machine.qemu)?;
    if let Some(data_path) = &report.data_path {
        write_data_path(out, data_path)?;
    }
    if let Some(rows) = &report.snapshots {
        write_snapshots(out, rows)?;
    }
    if let Some(scale) = &report.scale {
        write_scale(out, "snapshots of one disk", &scale.snapshots_of_one_disk)?;
        write_scale(out, "clones of one template", &scale.clones_of_one_template)?;
        write_scale(out, "deep clone of clone", &scale.clone_of_clone_deep)?;
    }
    if let Some(rows) = &report.restart {
        write_restart(out, rows)?;
    }
    if let Some(rows) = &report.recovery {
        write_recovery(out, rows)?;
    }
    if let Some(opening) = &report.opening {
        let (disks, snapshots) = (opening.crowd.disks, opening.crowd.snapshots);
        writeln!(
            out,
            "\nOpening a store of {disks} disks and {snapshots} snapshots: {:.0} ms",
            opening.open_ms
        )?;
    }
    Ok(())
}

fn write_restart(out: &mut String, rows: &[restart::Row]) -> std::fmt::Result {
    writeln!(out, "\n| killed, and | kills | a guest waits, p50 ms | p99 ms | max ms |")?;
    writeln!(out, "|---|---:|---:|---:|---:|")?;
    for row in rows {
        let way = match row.way {
            restart::Way::Reconnect => "started again, the front end connects again",
            restart::Way::DescriptorStore => "started again with held connections",
            restart::Way::Spare => "a spare takes over",
        };
        writeln!(
            out,
            "| {way} | {} | {:.1} | {:.1} | {:.1} |",
            row.kills, row.p50_ms, row.p99_ms, row.max_ms
        )?;
    }
    Ok(())
}

fn write_recovery(out: &mut String, rows: &[recovery::Row]) -> std::fmt::Result {
    writeln!(
        out,
        "\n| killed after writes of | MiB written | MiB of log replayed | records | a guest is answered after, ms | with nothing to replay, ms | s per GiB |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|")?;
    for row in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} | {:.0} | {:.0} | {:.2} |",
            row.load,
            row.written_bytes >> 20,
            row.log_bytes >> 20,
            row.records,
            row.served_ms,
            row.nothing_ms,
            row.seconds_per_gib
        )?;
    }
    Ok(())
}

fn write_data_path(out: &mut String, data: &DataPath) -> std::fmt::Result {
    writeln!(
        out,
        "\nData path: {} MiB disk, {} rounds of {} s, medians\n\n- {}\n- {}\n",
        data.disk_bytes >> 20,
        data.rounds,
        data.seconds_each,
        data.bough_command,
        data.peer_command
    )?;
    writeln!(out, "| one queue | | Bough | beside it | ratio | µs CPU/op | beside it |")?;
    writeln!(out, "|---|---|---:|---:|---:|---:|---:|")?;
    for row in &data.rows {
        writeln!(
            out,
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} |",
            row.workload,
            row.unit,
            row.bough,
            row.peer,
            row.ratio,
            row.bough_cpu_us,
            row.peer_cpu_us
        )?;
    }
    let Some(after) = &data.after_snapshot else { return Ok(()) };
    writeln!(
        out,
        "\nrandwrite 4k QD32 before a snapshot {:.0} IOPS, just after it {:.0}: ratio {:.2}",
        after.before_iops, after.after_iops, after.ratio
    )
}

fn write_snapshots(out: &mut String, rows: &[snapshots::Row]) -> std::fmt::Result {
    writeln!(
        out,
        "\n| durable snapshot, disk of | random writes at QD32 | p50 µs | p99 µs | per second | per second, 64 a request | write IOPS meanwhile |"
    )?;
    writeln!(out, "|---:|---|---:|---:|---:|---:|---:|")?;
    for row in rows {
        writeln!(
            out,
            "| {} GiB | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            row.disk_bytes >> 30,
            if row.under_writes { "yes" } else { "no" },
            row.p50_us,
            row.p99_us,
            row.per_second,
            row.per_second_together,
            row.write_iops
        )?;
    }
    Ok(())
}

/// Times in microseconds, each with its ratio to the same among a hundred, measured in turns.
fn write_scale(out: &mut String, what: &str, rows: &[scale::Row]) -> std::fmt::Result {
    write!(out, "\n| {what} |")?;
    for operation in scale::OPERATIONS {
        write!(out, " {operation} µs |")?;
    }
    writeln!(
        out,
        " open store µs | RSS MiB |\n|---:|{}---:|---:|",
        "---:|".repeat(scale::OPERATIONS.len())
    )?;
    for row in rows {
        write!(out, "| {} |", row.count)?;
        for cost in row.operations {
            write!(out, " {:.1} ({:.2}) |", cost.us, cost.ratio)?;
        }
        let resident_kib = u32::try_from(row.resident_bytes >> 10).unwrap_or(u32::MAX);
        writeln!(out, " {:.0} | {:.1} |", row.open_us, f64::from(resident_kib) / 1024.0)?;
    }
    Ok(())
}
