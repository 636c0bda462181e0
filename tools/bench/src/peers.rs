//! The servers that are measured: `bough serve`, and qemu-storage-daemon with a qcow2 image.
//!
//! Each runs as a process of its own, on a file in the same folder, and ends when dropped.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is killed when nobody needs it any more.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, or going: either is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with one disk to measure.
pub struct Peer {
    pub socket: PathBuf,
    pub command_line: String,
    server: Server,
    bough: Option<Store>,
}

/// A store of Bough's with the disk `d`, and its command.
pub struct Store {
    binary: PathBuf,
    folder: PathBuf,
}

impl Peer {
    /// `bough serve` with the disk `d` in a new store, of room for `room` times its size.
    pub fn bough(binary: &Path, folder: &Path, disk_bytes: u64, room: u64) -> Result<Self> {
        let bough = Store::create(binary, folder, disk_bytes, room)?;
        let mut command = bough.serve();
        let command_line = format!("{command:?}");
        let server = Server(command.stderr(Stdio::null()).stdout(Stdio::null()).spawn()?);
        bough.await_served()?;
        let socket = bough.socket();
        await_socket(&socket)?;
        Ok(Self { socket, command_line, server, bough: Some(bough) })
    }

    /// qemu-storage-daemon with a new qcow2 image.
    pub fn qemu(folder: &Path, disk_bytes: u64, aio: &str) -> Result<Self> {
        let (image, socket) = (folder.join("peer.qcow2"), folder.join(format!("{aio}.sock")));
        if !image.exists() {
            let created = Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(&image)
                .arg(disk_bytes.to_string())
                .status()
                .context("qemu-img, of the Debian package qemu-utils")?;
            if !created.success() {
                bail!("qemu-img made no image");
            }
        }
        let file = format!(
            "driver=file,node-name=file,filename={},cache.direct=on,aio={aio}",
            image.display()
        );
        let export = format!(
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=1,\
             addr.type=unix,addr.path={},iothread=io",
            socket.display()
        );
        let mut command = until_we_end("qemu-storage-daemon");
        command
            .args(["--object", "iothread,id=io", "--blockdev", &file])
            .args(["--blockdev", "driver=qcow2,node-name=disk,file=file,cache.direct=on"])
            .args(["--export", &export]);
        let arguments: Vec<_> = command.get_args().skip(3).map(OsStr::to_string_lossy).collect();
        let command_line = arguments.join(" ");
        // A predecessor that was killed has left its socket behind.
        let _ = std::fs::remove_file(&socket);
        let server = command.stdout(Stdio::null()).spawn();
        let server =
            Server(server.context("qemu-storage-daemon, of the package qemu-system-common")?);
        await_socket(&socket)?;
        Ok(Self { socket, command_line, server, bough: None })
    }

    /// Has Bough's command do something with the store.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        self.bough.as_ref().context("only Bough has a command")?.run(arguments)
    }

    /// Processor time that the server has used, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.0.id()))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("no end of the name")?.1.split_whitespace().collect();
        let ticks: u32 = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
        Ok(f64::from(ticks) / 100.0)
    }
}

impl Store {
    /// Makes one with room for `room` times the disk's size.
    pub fn create(binary: &Path, folder: &Path, disk_bytes: u64, room: u64) -> Result<Self> {
        let store = Self { binary: binary.into(), folder: folder.into() };
        store.run(&["init", "--size", &(disk_bytes * room).to_string()])?;
        store.run(&["create", "d", &disk_bytes.to_string()])?;
        store.run(&["attach", "d"])?;
        Ok(store)
    }

    /// Everything is in there.
    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Where the disk is offered.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sockets/d.sock")
    }

    /// What serves it.
    pub fn serve(&self) -> Command {
        let mut command = self.command(&["serve"]);
        command.args(["--memory", "64M", "--socket-dir"]).arg(self.folder.join("sockets"));
        command
    }

    /// Waits until somebody does.
    pub fn await_served(&self) -> Result<()> {
        let begun = Instant::now();
        while self.run(&["status"]).is_err() {
            if begun.elapsed() > PATIENCE {
                bail!("`bough serve` does not answer");
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = until_we_end(&self.binary);
        command.arg("--store").arg(self.folder.join("store")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let out = self.command(arguments).output().context("cannot run bough")?;
        if out.status.success() {
            return Ok(());
        }
        bail!("bough {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim())
    }
}

fn await_socket(path: &Path) -> Result<()> {
    let begun = Instant::now();
    while !path.exists() {
        if begun.elapsed() > PATIENCE {
            bail!("no socket appeared at '{}'", path.display());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A command that ends with the thread that starts it, however that ends.
fn until_we_end(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
