//! The verbs, one file each: what a command asks of the store, and what it prints.

mod attach;
mod check;
mod clone;
mod completions;
mod create;
mod delete;
mod detach;
mod diff;
mod export;
mod grow;
mod import;
mod init;
mod list;
mod man;
mod qemu_args;
mod rename;
mod repair;
mod resize;
mod rollback;
mod scrub;
mod seal;
pub mod serve;
mod set;
mod show;
mod snapshot;
mod status;
pub mod top;
mod tree;

use std::process::ExitCode;

use crate::cli::{Cli, Verb};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

/// Carries a command out.
pub async fn carry_out(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Init(args) => return init::run(args, &global, output).await,
        Verb::Completions(args) => return completions::run(&args),
        Verb::Man(args) => return man::run(&args),
        _ => {}
    }
    log_errors();
    if let Verb::Repair(args) = verb {
        return repair::run(args, &global, output).await;
    }
    let mut session = Session::open(&global, output).await?;
    let done = with_store(verb, &mut session).await;
    // A store that does not close well is news even to a command that did its work; but the
    // command's own failure is the cause.
    let closed = session.close().await;
    let code = done?;
    closed?;
    Ok(code)
}

/// What the engine itself has to complain of goes to stderr; only a server logs more.
fn log_errors() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR);
    log.with_writer(std::io::stderr).without_time().init();
}

async fn with_store(verb: Verb, session: &mut Session) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Create(args) => create::run(args, session).await,
        Verb::Import(args) => import::run(args, session).await,
        Verb::Export(args) => export::run(args, session).await,
        Verb::Snapshot(args) => snapshot::run(args, session).await,
        Verb::Clone(args) => clone::run(args, session).await,
        Verb::Rollback(args) => rollback::run(args, session).await,
        Verb::Delete(args) => delete::run(args, session).await,
        Verb::Seal(args) => seal::run(args, true, session).await,
        Verb::Unseal(args) => seal::run(args, false, session).await,
        Verb::Attach(args) => attach::run(args, session).await,
        Verb::Detach(args) => detach::run(args, session).await,
        Verb::QemuArgs(args) => qemu_args::run(args, session).await,
        Verb::List => list::run(session).await,
        Verb::Tree => tree::run(session).await,
        Verb::Show(args) => show::run(args, session).await,
        Verb::Status => status::run(session).await,
        Verb::Top(args) => top::run(args, session).await,
        Verb::Diff(args) => diff::run(args, session).await,
        Verb::Check => check::run(session).await,
        Verb::Scrub(args) => scrub::run(args, session).await,
        Verb::Grow(args) => grow::run(args, session).await,
        Verb::Resize(args) => resize::run(args, session).await,
        Verb::Set(args) => set::run(args, session).await,
        Verb::Rename(args) => rename::run(args, session).await,
        Verb::Init(_) | Verb::Serve(_) | Verb::Repair(_) | Verb::Completions(_) | Verb::Man(_) => {
            unreachable!("carried out without a store")
        }
    }
}
