//! A store, its server and the command, driven as a person drives them.
//!
//! Owns one store folder, one socket folder and the server process. Everything goes through the
//! `bough` binary; nothing is read behind its back.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Process, tied, wait_for};

const SERVER_STARTS: Duration = Duration::from_secs(60);
const SERVER_STOPS: Duration = Duration::from_secs(60);
/// What a guest is given: enough for Debian and a full page cache, small enough for any builder.
const GUEST_MEMORY: &str = "512M";

/// A store and, sometimes, its server.
pub struct Bough {
    binary: PathBuf,
    folder: PathBuf,
    server: Option<Process>,
    spare: Option<Process>,
    echo: bool,
}

impl Bough {
    /// Makes a store in `folder`. With `echo`, each command is shown as if typed.
    pub fn init(binary: &Path, folder: &Path, size: &str, echo: bool) -> Result<Self> {
        let bough = Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            server: None,
            spare: None,
            echo,
        };
        std::fs::create_dir_all(bough.sockets())?;
        bough.run(&["init", "--size", size])?;
        Ok(bough)
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn sockets(&self) -> PathBuf {
        self.folder.join("sockets")
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        if self.echo {
            println!("    $ bough {}", args.join(" "));
        }
        let out = self.output(args)?;
        if !out.status.success() {
            bail!(
                "bough {} failed ({}):\n{}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// Runs a command that must be refused; returns what it complained of.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let out = self.output(args)?;
        if out.status.success() {
            bail!("bough {} should have been refused", args.join(" "));
        }
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }

    fn output(&self, args: &[&str]) -> Result<Output> {
        tied(&self.binary)
            .args(args)
            .env("BOUGH_STORE", self.store())
            .env("BOUGH_SOCKET_DIR", self.sockets())
            .output()
            .with_context(|| format!("cannot run {}", self.binary.display()))
    }

    /// Starts the server and waits until it serves.
    pub fn serve(&mut self) -> Result<()> {
        let sockets = self.sockets();
        if self.echo {
            println!("    $ bough serve &");
        }
        let mut server = self.start_server(&[], "server.log")?;
        // Not by `bough status`: without a server it opens the store itself, and so would recover
        // it in the server's place.
        wait_for("the server to serve", SERVER_STARTS, || {
            server.still_runs()?;
            Ok(UnixStream::connect(sockets.join("control")).is_ok().then_some(()))
        })?;
        self.server = Some(server);
        if self.output(&["status"])?.status.success() {
            return Ok(());
        }
        bail!("bough status knows of no server")
    }

    fn start_server(&self, options: &[&OsStr], log: &str) -> Result<Process> {
        let (store, sockets) = (self.store(), self.sockets());
        let [serve, store_is, sockets_are] = ["serve", "--store", "--socket-dir"].map(OsStr::new);
        let usual = [serve, store_is, store.as_os_str(), sockets_are, sockets.as_os_str()];
        Process::start(&self.binary, &[&usual, options].concat(), &self.folder.join(log))
    }

    /// Starts a spare and waits until it holds what the server has.
    pub fn stand_by(&mut self) -> Result<()> {
        let log = self.folder.join("spare.log");
        let _ = std::fs::remove_file(&log);
        let mut spare = self.start_server(&["--spare".as_ref()], "spare.log")?;
        wait_for("the spare to stand by", SERVER_STARTS, || {
            spare.still_runs()?;
            Ok(crate::process::tail(&log, 30).contains("standing by").then_some(()))
        })?;
        self.spare = Some(spare);
        Ok(())
    }

    /// The spare is the server from now on.
    pub fn succeed(&mut self) -> Result<()> {
        self.server = Some(self.spare.take().context("no spare to succeed")?);
        Ok(())
    }

    /// `kill -9` on the server.
    pub fn kill_server(&mut self) -> Result<()> {
        let mut server = self.server.take().context("no server to kill")?;
        server.still_runs()?;
        if self.echo {
            println!("    $ kill -9 {}", server.id());
        }
        server.kill()
    }

    /// Stops the server by SIGTERM; it must end well.
    pub fn stop_server(&mut self) -> Result<()> {
        let mut server = self.server.take().context("no server to stop")?;
        server.still_runs()?;
        let status = server.terminate(SERVER_STOPS)?;
        if !status.success() {
            bail!("the server ended badly ({status}):\n{}", server.last_words());
        }
        Ok(())
    }

    /// Fails if the server is gone without having been told to.
    pub fn check_if_serving(&mut self) -> Result<()> {
        self.server.as_mut().map_or(Ok(()), Process::still_runs)
    }

    /// The server's last log lines.
    pub fn server_log(&self) -> String {
        crate::process::tail(&self.folder.join("server.log"), 30)
    }

    /// QEMU's options for these disks, which must be attached.
    pub fn qemu_args(&self, disks: &[&str]) -> Result<Vec<String>> {
        let mut args = vec!["qemu-args", "--memory", GUEST_MEMORY];
        args.extend(disks);
        Ok(self.run(&args)?.split_whitespace().map(String::from).collect())
    }

    /// Writes a version to a raw file beside the store; returns its path.
    pub fn export(&self, version: &str) -> Result<PathBuf> {
        let file = self.folder.join(format!("{version}.raw"));
        let name = file.to_str().context("the folder's name is UTF-8")?;
        self.run(&["export", version, name])?;
        Ok(file)
    }

    /// The checker must find the store clean.
    pub fn check(&self) -> Result<()> {
        self.run(&["check"]).map(drop)
    }
}
