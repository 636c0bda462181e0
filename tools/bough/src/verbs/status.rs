//! `bough status`: exit status 0 where a server serves the store, 1 where none does.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use bough_server::{DiskState, ServerInfo, StatusReport, Waiting};

use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

pub async fn run(session: &mut Session) -> Result<ExitCode, Failure> {
    let report: StatusReport = session.backend.get("/v1/status").await?;
    let output = session.output;
    output.print(&report, |report| text(report, output))?;
    Ok(if report.server.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &StatusReport, output: Output) -> String {
    let mut lines = vec![
        format!("store      {} ({})", report.folder.display(), report.store.uuid),
        format!("blocks     {}{}", report.blocks.display(), on_host(report, output)),
        format!("server     {}", server(report)),
        format!("space      {}", space(report, output)),
        format!("catalogue  {}", catalogue(report, output)),
        format!(
            "disks      {}, snapshots {}",
            report.store.disk_count, report.store.snapshot_count
        ),
    ];
    if let Some(server) = &report.server {
        lines.insert(3, format!("sandbox    {}", sandbox(server)));
        if let Some(address) = server.metrics_address {
            lines.insert(4, format!("metrics    http://{address}/metrics"));
        }
        if !server.keepers.is_empty() {
            lines.insert(4, format!("kept by    {}", server.keepers.join(", ")));
        }
    }
    if report.store.reclaiming > 0 {
        lines.push(format!("reclaiming {} deleted versions", report.store.reclaiming));
    }
    lines.extend(report.disks.iter().map(disk));
    lines.extend(report.store.warnings.iter().map(|warning| format!("warning    {warning}")));
    lines.join("\n")
}

fn on_host(report: &StatusReport, output: Output) -> String {
    let bytes = report.host_bytes;
    bytes.map(|bytes| format!(", {} on the host", output.size(bytes))).unwrap_or_default()
}

fn server(report: &StatusReport) -> String {
    match &report.server {
        None => "none; start one with `bough serve`".to_owned(),
        Some(server) => format!(
            "process {}, version {}, sockets in {}",
            server.pid,
            server.version,
            server.socket_dir.display()
        ),
    }
}

fn sandbox(server: &ServerInfo) -> String {
    let Some(level) = server.sandbox else { return "off".to_owned() };
    let landlock = format!("Landlock {}", level.landlock_abi);
    let parts = [
        (level.no_new_privileges, "no new privileges"),
        (level.seccomp, "seccomp"),
        (level.landlock_abi > 0, landlock.as_str()),
        (level.io_uring, "io_uring restricted"),
    ];
    let reached = parts.iter().filter(|(is_reached, _)| *is_reached).map(|(_, name)| *name);
    reached.collect::<Vec<_>>().join(", ")
}

fn space(report: &StatusReport, output: Output) -> String {
    let store = &report.store;
    format!(
        "{} in all, {} used, {} reserved, {} free",
        output.size(store.size_bytes),
        output.size(store.used_bytes),
        output.size(store.reserved_bytes),
        output.size(store.free_bytes)
    )
}

fn catalogue(report: &StatusReport, output: Output) -> String {
    let store = &report.store;
    let (used, all) = (store.catalogue_used_bytes, store.catalogue_bytes);
    format!("{} of {} used", output.size(used), output.size(all))
}

fn disk(disk: &DiskState) -> String {
    let mut text = format!("disk       {}", disk.name);
    if let Some(socket) = &disk.socket {
        text.push_str(&format!(", attached at {}", socket.display()));
    }
    if !disk.clients.is_empty() {
        text.push_str(&format!(", in use by {}", disk.clients.join(", ")));
    }
    if let Some(fault) = &disk.fault {
        text.push_str(&format!(", FAULT: {fault}"));
    }
    if let Some(waiting) = &disk.waiting {
        text.push_str(&format!(", {}", waits(waiting)));
    }
    text
}

fn waits(waiting: &Waiting) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(waiting.since_unix);
    format!("WAITS FOR ROOM for {seconds} s: {} requests", waiting.requests)
}
