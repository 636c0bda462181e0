//! `bough tree`

use std::process::ExitCode;

use bough_radix::{TreeNode, VersionInfo};

use crate::failure::Failure;
use crate::output::{Align, Output, Table, draw_forest};
use crate::session::Session;

pub async fn run(session: &mut Session) -> Result<ExitCode, Failure> {
    let forest: Vec<TreeNode> = session.backend.get("/v1/tree").await?;
    let output = session.output;
    output.print(&forest, |forest| draw(forest, output))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(forest: &[TreeNode], output: Output) -> String {
    let mut table = Table::new(&[
        ("VERSION", Align::Left),
        ("SIZE", Align::Right),
        ("REFERENCED", Align::Right),
        ("OWNED", Align::Right),
        ("", Align::Left),
    ]);
    for (line, node) in draw_forest(forest).into_iter().zip(forest) {
        let version = &node.version;
        table.row(vec![
            line,
            output.size(version.size_bytes),
            output.size(version.referenced_bytes),
            output.size(version.owned_bytes),
            marks(version),
        ]);
    }
    table.text()
}

/// What a version is besides: a deleted one says what holds it.
fn marks(version: &VersionInfo) -> String {
    match version {
        version if version.hidden && version.child_count > 1 => {
            format!("deleted, held by {} branches", version.child_count)
        }
        version if version.hidden => "deleted, being reclaimed".to_owned(),
        version if version.sealed => "sealed".to_owned(),
        version if version.head => "head".to_owned(),
        _ => " ".to_owned(),
    }
}
