//! The picture at a terminal.

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row, Table};

use super::sample::{COLUMNS, Sample};
use crate::output::{Align, Output};

/// How long to look for a key at a time: whoever ends us waits no longer.
const LOOK: Duration = Duration::from_millis(100);

/// The terminal, ours until we end.
pub struct Screen {
    terminal: DefaultTerminal,
    /// Drawn again when the terminal changes its size.
    shown: Option<Sample>,
}

/// What whoever looks at it wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    GoOn,
    End,
}

impl Screen {
    /// Takes the terminal.
    pub fn open() -> io::Result<Self> {
        let mut screen = Self { terminal: ratatui::try_init()?, shown: None };
        screen.draw()?;
        Ok(screen)
    }

    /// Waits, and hears keys meanwhile.
    pub async fn wait(&mut self, interval: Duration) -> io::Result<Wish> {
        let due = tokio::time::Instant::now() + interval;
        loop {
            let left = due.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Ok(Wish::GoOn);
            }
            let look = tokio::task::spawn_blocking(move || look(left.min(LOOK)));
            match look.await.map_err(io::Error::other)?? {
                Some(Event::Key(key)) if ends(key) => return Ok(Wish::End),
                Some(Event::Resize(..)) => self.draw()?,
                _ => {}
            }
        }
    }

    /// Shows a sample.
    pub fn show(&mut self, sample: &Sample) -> io::Result<()> {
        self.shown = Some(sample.clone());
        self.draw()
    }

    fn draw(&mut self) -> io::Result<()> {
        let shown = self.shown.as_ref();
        self.terminal.draw(|frame| picture(frame, shown))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn look(patience: Duration) -> io::Result<Option<Event>> {
    if event::poll(patience)? { event::read().map(Some) } else { Ok(None) }
}

fn ends(key: KeyEvent) -> bool {
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
    let wanted = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || interrupt;
    key.kind == KeyEventKind::Press && wanted
}

fn picture(frame: &mut Frame<'_>, sample: Option<&Sample>) {
    let [head, body] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(frame.area());
    let Some(sample) = sample else {
        return frame.render_widget(Line::from("bough top: waiting for the first sample"), head);
    };
    let title = format!("bough top: {} disks attached, q ends it", sample.disks.len());
    frame.render_widget(Text::from(vec![title.bold().into(), sample.cache_line().into()]), head);
    frame.render_widget(table(sample), body);
}

fn table(sample: &Sample) -> Table<'static> {
    let output = Output { json: false, exact: false };
    let lean = |text: String, align: Align| match align {
        Align::Left => Cell::from(Line::from(text).left_aligned()),
        Align::Right => Cell::from(Line::from(text).right_aligned()),
    };
    let heading = COLUMNS.map(|(name, align)| lean(name.to_owned(), align));
    let rows = sample.disks.iter().map(|disk| {
        let cells = disk.cells(output).into_iter().zip(COLUMNS);
        Row::new(cells.map(|(cell, (_, align))| lean(cell, align)))
    });
    let widths = COLUMNS.map(|(name, _)| match name {
        "DISK" => Constraint::Min(16),
        "TROUBLE" => Constraint::Min(18),
        _ => Constraint::Length(9),
    });
    Table::new(rows, widths).header(Row::new(heading).style(Style::new().reversed()))
}

#[cfg(test)]
mod tests {
    use bough_server::{Activity, CacheActivity};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_picture_names_disks_and_fits_a_small_terminal() {
        let cache = CacheActivity { held_bytes: 0, budget_bytes: 0, hits: 3, misses: 1 };
        let disk = r#"{"name":"web-1","waiting":0"#.to_owned();
        let nothing = r#"{"requests":0,"failed":0,"bytes":0,"total_ns":0,"latency":[]}"#;
        let busy = r#"{"requests":9,"failed":0,"bytes":36864,"total_ns":9,
            "latency":[{"upto_ns":65536,"requests":9}]}"#;
        let names = ["write", "flush", "discard", "write_zeroes", "other"];
        let rest = names.map(|name| format!(r#","{name}":{nothing}"#)).concat();
        let disk = serde_json::from_str(&format!(r#"{disk},"read":{busy}{rest}}}"#)).unwrap();
        let now = Activity { at_ns: 1_000_000_000, cache, disks: vec![disk] };
        let nothing = CacheActivity { hits: 0, misses: 0, ..cache };
        let sample =
            Sample::between(&Activity { at_ns: 0, cache: nothing, disks: Vec::new() }, &now);
        for (width, height) in [(120, 10), (40, 4), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| picture(frame, Some(&sample))).unwrap();
            let drawn = terminal.backend().to_string();
            assert!(width < 120 || drawn.contains("web-1") && drawn.contains("66"), "{drawn}");
            assert!(width < 120 || drawn.contains("3 of 4 were"), "{drawn}");
        }
    }
}
