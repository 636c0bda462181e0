//! The `bough` command.
//!
//! I own the way from words to a verb and from its end to an exit status: 0 done, 1 failed, 2 not
//! understood (and what `check`, `scrub` and `status` tell by theirs).

mod backend;
mod cli;
mod failure;
mod image;
mod output;
mod session;
mod size;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Builder;

use crate::cli::{Cli, Verb};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { json: cli.global.json, exact: cli.global.exact };
    match run(cli, output) {
        Ok(code) => code,
        // Whoever reads our output has seen enough.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            output::error(output, error.detail());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, output: Output) -> Result<ExitCode, failure::Failure> {
    let done;
    let runtime;
    if let Verb::Serve(args) = &cli.verb {
        let options = verbs::serve::prepare(args, &cli.global)?;
        runtime = Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
        done = runtime.block_on(verbs::serve::run(options, &cli.global));
    } else {
        runtime = Builder::new_current_thread().enable_all().build()?;
        done = runtime.block_on(verbs::carry_out(cli, output));
    }
    // A thread that still reads an image nobody wants is no reason to stay.
    runtime.shutdown_background();
    done
}
