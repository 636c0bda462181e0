//! `bough list`

use std::process::ExitCode;

use bough_radix::DiskInfo;

use crate::failure::Failure;
use crate::output::{Align, Output, Table};
use crate::session::Session;

pub async fn run(session: &mut Session) -> Result<ExitCode, Failure> {
    let disks: Vec<DiskInfo> = session.backend.get("/v1/disks").await?;
    let output = session.output;
    output.print(&disks, |disks| table(disks, output))?;
    Ok(ExitCode::SUCCESS)
}

fn table(disks: &[DiskInfo], output: Output) -> String {
    if disks.is_empty() {
        return "no disks yet; make one with `bough create` or `bough import`".to_owned();
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("REFERENCED", Align::Right),
        ("OWNED", Align::Right),
        ("SNAPSHOTS", Align::Right),
        ("ORIGIN", Align::Left),
        ("STATE", Align::Left),
    ]);
    for disk in disks {
        table.row(vec![
            disk.name.clone(),
            output.size(disk.head.size_bytes),
            output.size(disk.head.referenced_bytes),
            output.size(disk.head.owned_bytes),
            disk.snapshot_count.to_string(),
            disk.origin.clone().unwrap_or_default(),
            state(disk).to_owned(),
        ]);
    }
    table.text()
}

fn state(disk: &DiskInfo) -> &'static str {
    match (&disk.fault, disk.clients.is_empty(), disk.attachment) {
        (Some(_), _, _) => "faulted",
        (None, false, _) => "in use",
        (None, true, Some(_)) => "attached",
        (None, true, None) => "",
    }
}
