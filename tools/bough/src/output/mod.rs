//! What a command prints: text for people, JSON for programs.
//!
//! I own stdout. Text may change with any version; JSON may only gain fields (docs/json.md).

mod progress;
mod table;
mod tree;

pub use progress::Progress;
pub use table::{Align, Table};
pub use tree::draw_forest;

use std::io::{self, Write};

use bough_server::ErrorDetail;
use serde::Serialize;

use crate::size::Size;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// Sizes as exact bytes.
    pub exact: bool,
}

impl Output {
    /// A size as the caller wants it.
    pub fn size(self, bytes: u64) -> String {
        if self.exact { bytes.to_string() } else { Size(bytes).to_string() }
    }

    /// Prints `value` where JSON is wanted, else what `text` makes of it.
    pub fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
            return line(&json);
        }
        line(&text(value))
    }
}

/// Prints one line, or several; nothing where there is nothing to say.
pub fn line(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    out.flush()
}

/// Prints an error where errors go.
pub fn error(output: Output, detail: ErrorDetail) {
    let text = if output.json {
        let body = bough_server::ErrorBody { error: detail };
        serde_json::to_string(&body).unwrap_or_default()
    } else {
        format!("bough: {}", detail.message)
    };
    let _ = writeln!(io::stderr().lock(), "{text}");
}
