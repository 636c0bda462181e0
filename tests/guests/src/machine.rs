//! A guest in QEMU, under software emulation, on vhost-user-blk disks.
//!
//! Owns the QEMU process, its control socket, the agent's port and the serial console's log.
//! Knows no store: disks and memory are the options that `bough qemu-args` gave. The guest boots by its
//! BIOS from the first disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::agent::{Agent, Job};
use crate::process::{Process, tail, wait_for};
use crate::qmp::Qmp;

/// A boot takes 15 s on an idle machine with two cores, several times that on a busy one.
const BOOT: Duration = Duration::from_secs(300);
const POWER_OFF: Duration = Duration::from_secs(120);

/// A running guest.
pub struct Machine {
    qemu: Process,
    qmp: Qmp,
    agent: Agent,
    console: PathBuf,
    booted_in: Duration,
}

impl Machine {
    /// Boots a guest in the usual QEMU and waits until its agent answers. Its files go to `folder`.
    pub fn boot(name: &str, disk_args: &[String], folder: &Path) -> Result<Self> {
        let named = std::env::var_os("BOUGH_QEMU");
        let qemu = named.map_or_else(|| PathBuf::from("qemu-system-x86_64"), PathBuf::from);
        Self::boot_in(&qemu, name, disk_args, folder)
    }

    /// As [`boot`](Self::boot), in another QEMU.
    pub fn boot_in(qemu: &Path, name: &str, disk_args: &[String], folder: &Path) -> Result<Self> {
        let start = Instant::now();
        let at = |suffix: &str| folder.join(format!("{name}.{suffix}"));
        let (console, log) = (at("console"), at("qemu"));
        let args = arguments(&at("qmp"), &at("agent"), &console, disk_args);
        let mut qemu = Process::start(qemu, &args, &log)?;
        let qmp = wait_for("QEMU's control socket", BOOT, || {
            qemu.still_runs()?;
            Ok(Qmp::connect(&at("qmp")).ok())
        })?;
        let agent = Agent::connect(&at("agent"))?;
        let mut machine = Self { qemu, qmp, agent, console, booted_in: Duration::ZERO };
        machine.await_agent()?;
        machine.booted_in = start.elapsed();
        Ok(machine)
    }

    fn await_agent(&mut self) -> Result<()> {
        let up = wait_for("the guest to come up", BOOT, || {
            self.qemu.still_runs()?;
            self.check_console()?;
            Ok(self.agent.is_up().then_some(()))
        });
        up.map_err(|e| e.context(format!("console:\n{}", tail(&self.console, 30))))
    }

    /// How long the boot took.
    pub fn booted_in(&self) -> Duration {
        self.booted_in
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn run(&self, command: &str) -> Result<String> {
        self.agent.run(command)
    }

    /// Starts a command in the background.
    pub fn start(&self, command: &str) -> Result<Job> {
        self.agent.start(command)
    }

    /// The last lines of the serial console.
    pub fn console_tail(&self, lines: usize) -> String {
        tail(&self.console, lines)
    }

    /// Fails if the guest's kernel complained of its disks, or of itself.
    pub fn check_health(&mut self) -> Result<()> {
        self.qemu.still_runs()?;
        self.check_console()?;
        let bad = "I/O error|Buffer I/O|EXT4-fs error|blocked for more than|critical .* error";
        let found = self.run(&format!("dmesg | grep -E '{bad}' || true"))?;
        if found.trim().is_empty() { Ok(()) } else { bail!("the guest's kernel says:\n{found}") }
    }

    fn check_console(&self) -> Result<()> {
        let text = tail(&self.console, 400);
        for bad in ["Kernel panic", "emergency mode", "You need to load the kernel first"] {
            if text.contains(bad) {
                bail!("the guest's console says \"{bad}\":\n{}", tail(&self.console, 30));
            }
        }
        Ok(())
    }

    /// Shuts the guest down from inside and waits until QEMU has ended.
    pub fn power_off(mut self) -> Result<()> {
        self.agent.start("systemctl poweroff")?;
        let status = self.qemu.wait(POWER_OFF)?;
        if status.success() { Ok(()) } else { bail!("QEMU ended badly: {status}") }
    }

    /// Pulls the plug: what the guest has not flushed is its loss.
    pub fn pull_plug(mut self) -> Result<()> {
        self.qmp.execute("quit")?;
        self.qemu.wait(POWER_OFF)?;
        Ok(())
    }
}

/// `-cpu` has no virtualisation: the guest's KVM modules would load for nothing.
fn arguments(qmp: &Path, agent: &Path, console: &Path, disks: &[String]) -> Vec<String> {
    let mut args: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "pc",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "qemu64,+rdrand,-svm",
        "-smp",
        "2",
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=agent,name=bough.agent",
    ]
    .map(String::from)
    .to_vec();
    args.extend([
        "-chardev".into(),
        format!("socket,id=agent,path={},server=on,wait=off", agent.display()),
    ]);
    args.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", qmp.display())]);
    args.extend(["-serial".into(), format!("file:{}", console.display())]);
    args.extend_from_slice(disks);
    args
}
