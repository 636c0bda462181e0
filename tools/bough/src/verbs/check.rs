//! `bough check`: exit status as `qemu-img check` has it: 0 clean, 1 could not, 2 corrupt, 3 leaks.

use std::process::ExitCode;

use bough_radix::{CheckReport, Finding, LostRange, Severity};
use serde::Serialize;

use crate::failure::Failure;
use crate::session::Session;

const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;

#[derive(Serialize)]
struct Nothing {}

pub async fn run(session: &mut Session) -> Result<ExitCode, Failure> {
    let report: CheckReport = session.backend.post("/v1/check", &Nothing {}).await?;
    session.output.print(&report, |report| text(report, "accounted for"))?;
    Ok(exit_code(&report))
}

/// The exit status that a report earns.
pub fn exit_code(report: &CheckReport) -> ExitCode {
    let has = |severity| report.findings.iter().any(|finding| finding.severity == severity);
    if has(Severity::Corruption) {
        ExitCode::from(CORRUPT)
    } else if has(Severity::Leak) {
        ExitCode::from(LEAKS)
    } else {
        ExitCode::SUCCESS
    }
}

/// Every finding, then the sum.
pub fn text(report: &CheckReport, what_blocks: &str) -> String {
    let mut lines: Vec<String> = report.findings.iter().map(line).collect();
    lines.extend(report.lost.iter().map(lost_line));
    lines.push(format!(
        "{} versions, {} nodes, {} blocks {what_blocks}: {}",
        report.versions,
        report.nodes,
        report.blocks,
        verdict(report)
    ));
    lines.join("\n")
}

fn verdict(report: &CheckReport) -> String {
    let count = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    match (count(Severity::Corruption), count(Severity::Leak)) {
        (0, 0) => "clean".to_owned(),
        (0, leaks) => format!("{leaks} leaks: space lost, data whole"),
        (corruptions, leaks) => format!("CORRUPT: {corruptions} corruptions, {leaks} leaks"),
    }
}

/// Lost, known to be, and no fault of the store's any more.
pub fn lost_line(lost: &LostRange) -> String {
    let LostRange { version, start_bytes, length_bytes } = lost;
    let end_bytes = start_bytes + length_bytes;
    format!("lost: {version}: bytes {start_bytes} to {end_bytes} are an error until written")
}

/// A finding.
pub fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Leak => "leak",
        Severity::Corruption => "CORRUPTION",
    };
    let version = finding.version.as_deref().map(|name| format!(" {name}:"));
    let block = finding.block.map(|block| format!(" block {block}:"));
    let (version, block) = (version.unwrap_or_default(), block.unwrap_or_default());
    format!("{severity}:{version}{block} {}", finding.message)
}
