//! A Debian guest in which systemd runs Bough: the shipped units, installed by the very steps that
//! `docs/restart.md` gives, and a client in that guest whose one connection outlives every server.
//!
//! That guest's own disks lie on a Bough of ours, as other guests' do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Programs;
use super::writer::Writer;
use crate::bough::Bough;
use crate::image::debian_image;
use crate::machine::Machine;
use crate::process::{tied, wait_for};
use crate::scratch::Scratch;
use crate::story::Tally;

type Story = (&'static str, fn(&mut Stage) -> Result<()>);

const STORIES: [Story; 8] = [
    ("the_units_are_installed_as_the_documentation_says", installed),
    ("a_started_service_can_be_reached_at_once", reached),
    ("the_service_is_sandboxed_and_an_ordinary_user", sandboxed),
    ("connections_outlive_restarts_and_kills_of_the_service", kills),
    ("the_watchdog_ends_a_server_that_hangs", watchdog),
    ("the_spare_unit_takes_over_and_gives_back", spare),
    ("every_write_on_the_one_connection_is_there", written),
    ("the_socket_starts_the_service_and_all_stop_in_order", stopped),
];

const DOCUMENT: &str = include_str!("../../../../docs/restart.md");
/// The root, what is to be installed, and what the store is made on.
const DISKS: [&str; 3] = ["root", "parcel", "medium"];
const ROUNDS: u32 = 2;
const COMES_BACK: Duration = Duration::from_secs(120);

/// The guest and what it stands on. Fields drop in this order.
struct Stage {
    guest: Option<Machine>,
    writer: Option<Writer>,
    bough: Bough,
    scratch: Scratch,
}

/// Plays the stories.
pub fn play(programs: &Programs, tally: &mut Tally) -> Result<()> {
    let mut stage = Stage::set(programs)?;
    for (name, story) in STORIES {
        if !tally.play(name, || story(&mut stage)) {
            println!("{}", stage.report());
        }
    }
    Ok(())
}

impl Stage {
    fn set(programs: &Programs) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut bough = Bough::init(&programs.bough, scratch.folder(), "16G", false)?;
        let parcel = parcel(programs, scratch.folder())?;
        for (disk, image) in [("root", debian_image()?), ("parcel", parcel)] {
            bough.run(&["import", image.to_str().context("a UTF-8 path")?, disk])?;
        }
        bough.run(&["create", "medium", "2G"])?;
        bough.serve()?;
        for disk in DISKS {
            bough.run(&["attach", disk])?;
        }
        Ok(Self { guest: None, writer: None, bough, scratch })
    }

    fn guest(&self) -> Result<&Machine> {
        self.guest.as_ref().context("the guest has not booted")
    }

    fn run(&self, command: &str) -> Result<String> {
        self.guest()?.run(&format!("set -e; cd /root; {command}"))
    }

    /// What systemd knows of a unit.
    fn property(&self, unit: &str, name: &str) -> Result<String> {
        let shown = self.run(&format!("systemctl show --property {name} --value {unit}"))?;
        Ok(shown.trim().to_owned())
    }

    fn process(&self, unit: &str) -> Result<u32> {
        Ok(self.property(unit, "MainPID")?.parse()?)
    }

    /// Waits until this unit's process is another one, and ready.
    fn wait_for_successor(&self, unit: &str, of: u32) -> Result<()> {
        wait_for("systemd to start the service again", COMES_BACK, || {
            let ready = self.property(unit, "ActiveState")? == "active";
            Ok((ready && ![0, of].contains(&self.process(unit)?)).then_some(()))
        })
    }

    /// The client goes on.
    fn advance(&self) -> Result<()> {
        let writer = self.writer.as_ref().context("no client has been started")?;
        writer.advance(self.guest()?, 50).map(drop)
    }

    fn check_status(&self, words: &[&str]) -> Result<()> {
        let status = self.run("bough status")?;
        match words.iter().find(|word| !status.contains(**word)) {
            None => Ok(()),
            Some(word) => bail!("no \"{word}\" in:\n{status}"),
        }
    }

    fn report(&self) -> String {
        let journal = "journalctl --no-pager --unit 'bough*' --lines 40";
        let journal = self.run(journal).unwrap_or_else(|error| error.to_string());
        let console = self.guest.as_ref().map(|guest| guest.console_tail(20)).unwrap_or_default();
        format!("--- journal\n{journal}\n--- console\n{console}")
    }
}

/// An archive of what a build leaves and the documentation's steps take.
fn parcel(programs: &Programs, folder: &Path) -> Result<PathBuf> {
    let (tree, archive) = (folder.join("parcel"), folder.join("parcel.tar"));
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/bough/units");
    let (build, tools) = (tree.join("target/release"), tree.join("tools/bough/units"));
    for folder in [&build, &tools] {
        fs::create_dir_all(folder)?;
    }
    fs::copy(&programs.bough, build.join("bough"))?;
    fs::copy(&programs.client, tree.join("steady-client"))?;
    for unit in fs::read_dir(units)? {
        let unit = unit?;
        fs::copy(unit.path(), tools.join(unit.file_name()))?;
    }
    let mut tar = tied(Path::new("tar"));
    let status = tar.arg("-cf").arg(&archive).arg("-C").arg(&tree).arg(".").status()?;
    if !status.success() {
        bail!("tar failed ({status})");
    }
    fs::remove_dir_all(tree)?;
    Ok(archive)
}

/// The commands in the document's section on systemd: to install, to have a spare, to stop.
fn documented() -> Result<[&'static str; 3]> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("systemd\n"));
    let section = section.context("docs/restart.md has no section on systemd")?;
    let blocks: Vec<_> = section.split("```").skip(1).step_by(2).collect();
    blocks.try_into().ok().context("docs/restart.md: three blocks of commands were expected")
}

fn installed(stage: &mut Stage) -> Result<()> {
    let args = stage.bough.qemu_args(&DISKS)?;
    stage.guest = Some(Machine::boot("service", &args, stage.scratch.folder())?);
    stage.run("tar xf /dev/vdb")?;
    let medium = "mkfs.ext4 -q /dev/vdc && mkdir /var/lib/bough && mount /dev/vdc /var/lib/bough";
    stage.run(&format!("{medium} && rmdir /var/lib/bough/lost+found"))?;
    let [install, ..] = documented()?;
    stage.run(install)?;
    let told = stage.run("systemd-analyze verify --man=no bough{,-spare}.service bough.socket")?;
    if !told.trim().is_empty() {
        bail!("systemd says of the units:\n{told}");
    }
    Ok(())
}

/// Nobody holds the disk's socket before: it is there because the service said so in time.
fn reached(stage: &mut Stage) -> Result<()> {
    stage.run("bough create web 4M && bough attach web && systemctl stop bough.socket bough")?;
    let connect = "perl -MIO::Socket::UNIX -e \
        'IO::Socket::UNIX->new(Peer => \"/run/bough/web.sock\") or die $!'";
    stage.run(&format!("! {connect} 2>&1; systemctl start bough.socket bough; {connect}"))?;
    Ok(())
}

fn sandboxed(stage: &mut Stage) -> Result<()> {
    stage.check_status(&["no new privileges", "seccomp", "Landlock", "io_uring restricted"])?;
    let server = stage.process("bough")?;
    let owner = stage.run(&format!("stat --format %U /proc/{server}"))?;
    if owner.trim() != "bough" {
        bail!("the server is run by {owner}");
    }
    stage.run(&format!("grep -E '^Max locked memory +unlimited' /proc/{server}/limits"))?;
    stage.run(&format!("grep -E '^CapEff:\\s+0+$' /proc/{server}/status")).map(drop)
}

fn kills(stage: &mut Stage) -> Result<()> {
    let client = Writer::start(stage.guest()?, "/root/steady-client", "/run/bough/web.sock")?;
    stage.writer = Some(client);
    for _ in 0..ROUNDS {
        stage.advance()?;
        if stage.property("bough", "NFileDescriptorStore")?.parse::<u32>()? < 5 {
            bail!("systemd does not hold the connection");
        }
        stage.run("systemctl restart bough")?;
        stage.advance()?;
        let server = stage.process("bough")?;
        stage.run(&format!("kill -9 {server}"))?;
        stage.wait_for_successor("bough", server)?;
    }
    stage.advance()
}

fn watchdog(stage: &mut Stage) -> Result<()> {
    let server = stage.process("bough")?;
    stage.run(&format!("kill -STOP {server}"))?;
    stage.wait_for_successor("bough", server)?;
    stage.advance()?;
    stage.run("journalctl --unit bough | grep -F 'Watchdog timeout'").map(drop)
}

fn spare(stage: &mut Stage) -> Result<()> {
    let [_, spare, _] = documented()?;
    stage.run(spare)?;
    stage.check_status(&["the service manager, spare"])?;
    let server = stage.process("bough")?;
    stage.run(&format!("kill -9 {server}"))?;
    stage.advance()?;
    let successor = stage.process("bough-spare")?;
    stage.check_status(&[&format!("process {successor}, version")])?;
    // Now the other unit's process stands by, and this one's goes.
    stage.wait_for_successor("bough", server)?;
    stage.run("systemctl restart bough-spare")?;
    stage.advance()?;
    let server = stage.process("bough")?;
    stage.check_status(&[&format!("process {server}, version"), "the service manager, spare"])
}

fn written(stage: &mut Stage) -> Result<()> {
    let writer = stage.writer.take().context("no client has been started")?;
    let answered = writer.stop(stage.guest()?)?;
    print!("[{answered} answered] ");
    Ok(())
}

fn stopped(stage: &mut Stage) -> Result<()> {
    stage.run("systemctl stop bough-spare bough && ! systemctl is-active bough")?;
    stage.run("bough list | grep web && systemctl is-active bough")?;
    let [_, _, stop] = documented()?;
    stage.run("systemctl start bough-spare")?;
    stage.run(stop)?;
    for unit in ["bough-spare.service", "bough.service", "bough.socket"] {
        let state = ["ActiveState", "Result"].map(|name| stage.property(unit, name));
        match state {
            [Ok(active), Ok(result)] if active == "inactive" && result == "success" => {}
            other => bail!("{unit} did not stop well: {other:?}"),
        }
    }
    stage.run("! test -e /run/bough/control")?;
    stage.run("runuser -u bough -- bough --store /var/lib/bough check")?;
    let complaints = stage.run("journalctl --unit 'bough*' | grep -E ' (WARN|ERROR) ' || true")?;
    if !complaints.trim().is_empty() {
        bail!("the servers complained:\n{complaints}");
    }
    let mut guest = stage.guest.take().context("the guest has not booted")?;
    guest.check_health()?;
    guest.power_off()?;
    stage.bough.stop_server()?;
    stage.bough.check()
}
