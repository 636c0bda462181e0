//! `bough show DISK[@SNAP]`

use std::process::ExitCode;

use bough_radix::{DiskDetail, SnapshotName, VersionInfo, VersionName};

use super::set;
use crate::cli::Show;
use crate::failure::Failure;
use crate::output::{Align, Output, Table};
use crate::session::Session;

pub async fn run(args: Show, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/versions/{}", args.version);
    let detail: DiskDetail = session.backend.get(&path).await?;
    let output = session.output;
    match &args.version {
        VersionName::Head(_) => output.print(&detail, |detail| disk(detail, output))?,
        VersionName::Snapshot(name) => {
            let version = find(&detail, name)?;
            output.print(version, |version| facts(&version_facts(version, output)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(detail: &'a DiskDetail, name: &SnapshotName) -> Result<&'a VersionInfo, Failure> {
    let wanted = name.to_string();
    let found = detail.snapshots.iter().find(|version| version.name == wanted);
    found.ok_or_else(|| Failure::NoSuchSnapshot {
        disk: name.disk.to_string(),
        label: name.label().to_owned(),
    })
}

fn disk(detail: &DiskDetail, output: Output) -> String {
    let disk = &detail.disk;
    let mut lines = version_facts(&disk.head, output);
    if let Some(origin) = &disk.origin {
        lines.push(("cloned from", origin.clone()));
    }
    if let Some(attachment) = disk.attachment {
        let access = if attachment.read_only { "read-only" } else { "read and write" };
        lines.push(("attached", format!("{access}, queues: {}", attachment.queues)));
    }
    if let Some(limits) = &disk.limits {
        lines.push(("limited to", set::text(limits, output)));
    }
    if !disk.clients.is_empty() {
        lines.push(("in use by", disk.clients.join(", ")));
    }
    if let Some(fault) = &disk.fault {
        lines.push(("fault", fault.clone()));
    }
    let mut text = facts(&lines);
    if !detail.snapshots.is_empty() {
        text.push_str("\n\n");
        text.push_str(&snapshots(&detail.snapshots, output));
    }
    text
}

fn version_facts(version: &VersionInfo, output: Output) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("name", version.name.clone()),
        ("uuid", version.uuid.to_string()),
        ("size", output.size(version.size_bytes)),
        ("referenced", output.size(version.referenced_bytes)),
        ("owned", output.size(version.owned_bytes)),
        ("made", timestamp(version.created_unix)),
    ];
    if let Some(parent) = &version.parent {
        lines.push(("began as", parent.clone()));
    }
    if version.sealed {
        lines.push(("sealed", "yes: `bough unseal` allows it to be deleted".to_owned()));
    }
    lines
}

fn facts(lines: &[(&'static str, String)]) -> String {
    lines.iter().map(|(name, value)| format!("{name:<12}{value}")).collect::<Vec<_>>().join("\n")
}

fn snapshots(snapshots: &[VersionInfo], output: Output) -> String {
    let mut table = Table::new(&[
        ("SNAPSHOT", Align::Left),
        ("SIZE", Align::Right),
        ("REFERENCED", Align::Right),
        ("OWNED", Align::Right),
        ("MADE", Align::Left),
        ("BRANCHES", Align::Right),
        ("SEALED", Align::Left),
    ]);
    for version in snapshots {
        table.row(vec![
            version.name.clone(),
            output.size(version.size_bytes),
            output.size(version.referenced_bytes),
            output.size(version.owned_bytes),
            timestamp(version.created_unix),
            version.child_count.to_string(),
            if version.sealed { "sealed".to_owned() } else { String::new() },
        ]);
    }
    table.text()
}

/// Seconds since 1970 as a date and time in UTC.
fn timestamp(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The Gregorian date so many days after 1970-01-01, counted in years that begin in March: then a
/// leap day is the last day of its year, and months follow a fixed pattern.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(timestamp(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(timestamp(1_795_364_205), "2026-11-22 16:16:45 UTC");
        assert_eq!(timestamp(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(timestamp(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }
}
