//! `bough diff A B`: prints as it walks, and holds nothing.

use std::io::{self, Write};
use std::process::ExitCode;

use axum::body::Body;
use axum::http::Method;
use bough_radix::{Extent, ExtentKind};
use bough_server::DiffEvent;

use crate::backend::{CommandError, Ndjson};
use crate::cli::Diff;
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

pub async fn run(args: Diff, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/diff?from={}&to={}", args.from, args.to);
    let response = session.backend.request(Method::GET, &path, Body::empty()).await?;
    let mut events = Ndjson::new(response);
    let mut printer = Printer { output: session.output, count: 0 };
    loop {
        match events.next::<DiffEvent>().await? {
            DiffEvent::Extents(extents) => printer.print(&extents)?,
            DiffEvent::Done { .. } => break,
            DiffEvent::Error(detail) => return Err(CommandError::Refused(detail).into()),
        }
    }
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// One JSON array, or a line for each extent, written as they come.
struct Printer {
    output: Output,
    count: u64,
}

impl Printer {
    fn print(&mut self, extents: &[Extent]) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for extent in extents {
            if self.output.json {
                let before = if self.count == 0 { "[\n  " } else { ",\n  " };
                let json = serde_json::to_string(extent).map_err(io::Error::other)?;
                write!(out, "{before}{json}")?;
            } else {
                writeln!(out, "{}", self.line(extent))?;
            }
            self.count += 1;
        }
        out.flush()
    }

    fn line(&self, extent: &Extent) -> String {
        let kind = match extent.kind {
            ExtentKind::Data => "data",
            ExtentKind::Zero => "zero",
        };
        let length = self.output.size(extent.length_bytes);
        format!("{:>16} {length:>8} {kind}", extent.start_bytes)
    }

    fn finish(self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match (self.output.json, self.count) {
            (true, 0) => writeln!(out, "[]"),
            (true, _) => writeln!(out, "\n]"),
            (false, _) => Ok(()),
        }
    }
}
