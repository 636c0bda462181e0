//! `bough serve`: logging and options; the rest is the server's.

use std::io::IsTerminal;
use std::process::ExitCode;

use bough_server::{
    MetricsPort, OpenOptions, Sandbox, ServeOptions, SocketRights, default_socket_dir, group_number,
};
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, OnFull, SandboxMode, Serve};
use crate::failure::Failure;
use crate::session;

/// What has to be done while the process has one thread: the log, and the sandbox around all
/// threads to come. Gives the options.
pub fn prepare(args: &Serve, global: &Global) -> Result<ServeOptions, Failure> {
    log_to_stderr(args.log_json);
    let mut options = options(args)?;
    // A port cannot be had from within the sandbox.
    let claim = |address| MetricsPort::claim(address, args.spare);
    options.metrics = args.metrics.map(claim).transpose()?;
    if args.sandbox == SandboxMode::Auto {
        options.sandbox = Sandbox::begin(&session::folder(global), &options.socket_dir)?;
    }
    Ok(options)
}

pub async fn run(options: ServeOptions, global: &Global) -> Result<ExitCode, Failure> {
    bough_server::serve(session::folder(global), options).await?;
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Serve) -> Result<ServeOptions, Failure> {
    let group = args.socket_group.as_deref().map(group_number).transpose()?;
    let control_rights = match args.control_group.as_deref().map(group_number).transpose()? {
        Some(group) => SocketRights { group: Some(group), mode: 0o660 },
        None => SocketRights::PRIVATE,
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(ServeOptions {
        open: OpenOptions {
            memory_bytes: args.memory.0,
            reactor_count: args.reactors.map_or(processors, usize::from),
        },
        socket_dir: args.socket_dir.clone().unwrap_or_else(default_socket_dir),
        disk_rights: SocketRights { group, mode: args.socket_mode },
        control_rights,
        spare: args.spare,
        sandbox: Sandbox::OFF,
        metrics: None,
        on_full: match args.on_full {
            OnFull::Pause => bough_server::OnFull::Pause,
            OnFull::Error => bough_server::OnFull::Error,
        },
    })
}

/// People at a terminal get colours, log collectors lines, programs JSON.
fn log_to_stderr(json: bool) {
    let filter = EnvFilter::try_from_env("BOUGH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().flatten_event(true).init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
