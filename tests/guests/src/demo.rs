//! The demo: from a template image to a running guest, and through everything that may befall it.
//!
//! Tells each step, shows each command as it is typed, and checks what it claims: it ends with an
//! error if anything is not as told.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent::Job;
use crate::bough::Bough;
use crate::image::debian_image;
use crate::machine::Machine;
use crate::scratch::Scratch;

/// Whether the demo talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// To a person.
    Aloud,
    /// As a test.
    Silent,
}

/// Plays the demo with this `bough`, aloud.
pub fn demo(binary: &Path) -> Result<()> {
    demo_with(binary, Voice::Aloud)
}

/// Plays the demo.
pub fn demo_with(binary: &Path, voice: Voice) -> Result<()> {
    let scratch = Scratch::new()?;
    let mut demo = Demo::begin(binary, &scratch, voice)?;
    let mut guest = demo.first_boot()?;
    let load = demo.snapshot_under_load(&guest)?;
    demo.kill_server(&mut guest, load)?;
    demo.roll_back(guest)?;
    let guest = demo.second_boot()?;
    demo.end(guest)
}

/// A file system is checked after the snapshot: what the load writes must be whole or absent.
const LOAD: &str = "fio --name=load --directory=/srv --direct=1 --ioengine=libaio --iodepth=8 \
    --rw=randwrite --bs=4k --size=16M --rate_iops=200 --fsync=32 --verify=crc32c --verify_fatal=1 \
    --verify_dump=0";
const LOAD_ENDS: Duration = Duration::from_secs(300);

struct Demo<'a> {
    bough: Bough,
    scratch: &'a Scratch,
    voice: Voice,
}

impl<'a> Demo<'a> {
    fn begin(binary: &Path, scratch: &'a Scratch, voice: Voice) -> Result<Self> {
        let say = |text: &str| tell(voice, text);
        say("A store, a Debian image imported as a template, and a clone of it.");
        let image = debian_image()?;
        let aloud = voice == Voice::Aloud;
        let bough = Bough::init(binary, scratch.folder(), "16G", aloud)?;
        bough.run(&["import", image.to_str().context("a UTF-8 path")?, "debian", "--template"])?;
        bough.run(&["clone", "debian", "web"])?;
        Ok(Self { bough, scratch, voice })
    }

    fn first_boot(&mut self) -> Result<Machine> {
        self.say("The server; then the clone boots in QEMU, by BIOS, GRUB and its own kernel.");
        self.bough.serve()?;
        self.bough.run(&["attach", "web", "--queues", "2"])?;
        let guest = self.boot("first")?;
        self.say("The guest writes to its disk.");
        self.type_in(&guest, "echo 'kept for ever' >/root/diary && sync")?;
        self.show(&["list"])?;
        Ok(guest)
    }

    fn snapshot_under_load(&mut self, guest: &Machine) -> Result<Job> {
        self.say("A snapshot is taken while fio writes.");
        let load = guest.start(LOAD)?;
        guest.run("until [ -s /srv/load.0.0 ]; do sleep 0.1; done; sleep 1")?;
        load.check_running()?;
        self.bough.run(&["snapshot", "web@good"])?;
        load.check_running()?;
        self.show(&["tree"])?;
        Ok(load)
    }

    fn kill_server(&mut self, guest: &mut Machine, load: Job) -> Result<()> {
        self.say("The storage server is killed, with fio still writing, and started again.");
        load.check_running()?;
        self.bough.kill_server()?;
        std::thread::sleep(Duration::from_secs(1));
        self.bough.serve()?;
        self.say("The guest goes on: fio finishes and reads back every block it wrote.");
        load.succeed(LOAD_ENDS)?;
        guest.check_health()
    }

    fn roll_back(&mut self, guest: Machine) -> Result<()> {
        self.say("Disaster: somebody deletes what matters, and the plug is pulled.");
        self.type_in(&guest, "rm -rf /root/diary /etc/systemd /boot/vmlinuz* && sync")?;
        self.bough.refused(&["rollback", "web@good"]).context("a guest is still connected")?;
        guest.pull_plug()?;
        self.bough.run(&["rollback", "web@good"])?;
        Ok(())
    }

    fn second_boot(&mut self) -> Result<Machine> {
        self.say("Rolled back to the snapshot, the guest boots again.");
        let mut guest = self.boot("second")?;
        let diary = self.type_in(&guest, "cat /root/diary")?;
        if diary.trim() != "kept for ever" {
            bail!("the diary says: {diary}");
        }
        guest.check_health()?;
        Ok(guest)
    }

    fn end(&mut self, guest: Machine) -> Result<()> {
        self.say("The guest shuts down, the server stops, the store checks clean.");
        guest.power_off()?;
        self.bough.stop_server()?;
        self.show(&["check"])?;
        self.say("Done: everything was as told.");
        Ok(())
    }

    fn boot(&self, name: &str) -> Result<Machine> {
        let args = self.bough.qemu_args(&["web"])?;
        let guest = Machine::boot(name, &args, self.scratch.folder())?;
        self.say(&format!("It is up after {} s.", guest.booted_in().as_secs()));
        if self.voice == Voice::Aloud {
            println!("{}", indent(&guest.console_tail(4)));
        }
        Ok(guest)
    }

    fn say(&self, text: &str) {
        tell(self.voice, text);
    }

    /// Runs a `bough` command and shows what it prints.
    fn show(&self, args: &[&str]) -> Result<()> {
        let out = self.bough.run(args)?;
        if self.voice == Voice::Aloud {
            println!("{}", indent(&out));
        }
        Ok(())
    }

    /// Runs a command in the guest and shows it.
    fn type_in(&self, guest: &Machine, command: &str) -> Result<String> {
        if self.voice == Voice::Aloud {
            println!("    root@guest# {command}");
        }
        let out = guest.run(command)?;
        if self.voice == Voice::Aloud && !out.is_empty() {
            println!("{}", indent(&out));
        }
        Ok(out)
    }
}

fn tell(voice: Voice, text: &str) {
    if voice == Voice::Aloud {
        println!("\n* {text}");
    }
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|l| format!("      {l}")).collect::<Vec<_>>().join("\n")
}
