//! What the stories share: one store, one server, one booted guest.
//!
//! A boot takes longer than most stories, so they play one after the other in the same guest.

use std::path::Path;

use anyhow::{Context, Result};

use crate::bough::Bough;
use crate::image::debian_image;
use crate::machine::Machine;
use crate::scratch::Scratch;

/// The disks in the order in which the guest finds them: vda, vdb, vdc, vdd.
pub const DISKS: [&str; 4] = ["guest", "data", "log-a", "log-b"];

/// The stage and who is on it. Fields drop in this order: guest, server, folder.
pub struct Scene {
    machine: Option<Machine>,
    /// The store and its server.
    pub bough: Bough,
    /// The folder of this run.
    pub scratch: Scratch,
}

impl Scene {
    /// A store with the Debian template, and a server; no guest yet.
    pub fn set(binary: &Path) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut bough = Bough::init(binary, scratch.folder(), "16G", false)?;
        let image = debian_image()?;
        bough.run(&["import", image.to_str().context("a UTF-8 path")?, "debian", "--template"])?;
        bough.run(&["clone", "debian", "guest"])?;
        bough.run(&["create", "data", "1G"])?;
        bough.run(&["create", "log-a", "256M"])?;
        bough.run(&["create", "log-b", "256M"])?;
        bough.serve()?;
        for disk in DISKS {
            bough.run(&["attach", disk, "--queues", "2"])?;
        }
        Ok(Self { machine: None, bough, scratch })
    }

    /// Boots the guest.
    pub fn boot(&mut self) -> Result<()> {
        let args = self.bough.qemu_args(&DISKS)?;
        self.machine = Some(Machine::boot("guest", &args, self.scratch.folder())?);
        Ok(())
    }

    /// The guest, if it has booted.
    pub fn guest(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the guest has not booted")
    }

    /// Takes the guest off the stage.
    pub fn take_guest(&mut self) -> Result<Machine> {
        self.machine.take().context("the guest has not booted")
    }

    /// What may explain a failure.
    pub fn report(&self) -> String {
        let console = self.machine.as_ref().map(|m| m.console_tail(20)).unwrap_or_default();
        format!("--- server\n{}\n--- console\n{console}", self.bough.server_log())
    }
}
