//! `bough top`: what guests ask of each disk, second by second.
//!
//! At a terminal the picture stays and changes; elsewhere each sample is a table, or with `--json` a
//! line of JSON. A sample is the difference of two answers of the server.

mod sample;
mod screen;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use bough_server::Activity;
use clap::Args;

use crate::failure::Failure;
use crate::output;
use crate::session::Session;
use sample::Sample;
use screen::{Screen, Wish};

/// `bough top`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough top
  bough top --interval 5
  bough --json top --count 1          one sample, as one line of JSON

Keys: q ends it. Latencies are of the requests answered since the last sample, as the server sees
them: from taking a request to answering it.")]
pub struct Top {
    /// Seconds from one sample to the next
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = interval)]
    pub interval: Duration,
    /// End after so many samples
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.05..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds, 0.05 to 3600".to_owned())
}

pub async fn run(args: Top, session: &mut Session) -> Result<ExitCode, Failure> {
    let mut before = ask(session).await?;
    let is_at_terminal = !session.output.json && io::stdout().is_terminal();
    let mut screen = if is_at_terminal { Some(Screen::open()?) } else { None };
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        match &mut screen {
            Some(screen) => {
                if screen.wait(args.interval).await? == Wish::End {
                    break;
                }
            }
            None => tokio::time::sleep(args.interval).await,
        }
        let now = ask(session).await?;
        let sample = Sample::between(&before, &now);
        match &mut screen {
            Some(screen) => screen.show(&sample)?,
            None => print(&sample, session)?,
        }
        before = now;
        shown += 1;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(session: &mut Session) -> Result<Activity, Failure> {
    Ok(session.backend.get("/v1/activity").await?)
}

fn print(sample: &Sample, session: &Session) -> io::Result<()> {
    if session.output.json {
        return output::line(&serde_json::to_string(sample).map_err(io::Error::other)?);
    }
    output::line(&format!("{}\n{}", sample.table(session.output), sample.cache_line()))
}
