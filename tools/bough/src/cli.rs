//! The grammar of the command line.
//!
//! I own words, options and their help. I carry nothing out: each verb has a file in `verbs`.

use std::path::PathBuf;

use bough_radix::{DiskName, SnapshotName, VersionName};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::size::Size;

/// Virtual disks that branch: snapshots, clones and templates for virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "bough",
    version,
    max_term_width = 100,
    after_help = "\
A first tour:
  bough init --size 100G                  make a store
  bough import debian.qcow2 debian --template
  bough clone debian web-1                costs nothing until it is written
  bough attach web-1                      prints the socket for the hypervisor
  bough serve                             in another terminal: serves it
  bough snapshot web-1@before-upgrade     while the guest runs
  bough tree

Every command works with a server running and without one. Sizes take K, M, G, T and P.
Exit status: 0 done, 1 failed, 2 not understood; `check`, `scrub`,
`repair` and `status` tell more by theirs."
)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The store's folder [default: /var/lib/bough for root, else $XDG_DATA_HOME/bough]
    #[arg(long, global = true, env = "BOUGH_STORE", value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Print JSON; its fields are stable and described in docs/json.md
    #[arg(long, global = true)]
    pub json: bool,
    /// Print sizes as exact bytes
    #[arg(short = 'p', long = "bytes", global = true)]
    pub exact: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a store
    Init(Init),
    /// Serve the store's attached disks to virtual machines, in the foreground
    Serve(Serve),
    /// Make an empty disk
    Create(Create),
    /// Make a disk from an image file (raw, qcow2, vmdk)
    Import(Import),
    /// Write a disk or snapshot to an image file (raw, qcow2)
    Export(Export),
    /// Take snapshots: all at one instant, all or none
    Snapshot(Snapshot),
    /// Make disks that begin as a snapshot is
    Clone(Clone),
    /// Take a disk back to one of its snapshots
    Rollback(Rollback),
    /// Delete disks and snapshots
    Delete(Delete),
    /// Protect a snapshot from deletion and make it a template
    Seal(Seal),
    /// Allow a sealed snapshot to be deleted again
    Unseal(Seal),
    /// Let a virtual machine reach a disk; prints the socket
    Attach(Attach),
    /// End what `attach` began
    Detach(Detach),
    /// Print the options that QEMU needs for disks
    QemuArgs(QemuArgs),
    /// List the disks
    List,
    /// Draw all versions of all disks
    Tree,
    /// Tell everything about one disk or snapshot
    Show(Show),
    /// Tell how the store and its server are
    #[command(after_help = "Exit status: 0 a server serves the store, 1 none does.")]
    Status,
    /// Watch what guests ask of the disks, and how long it takes
    Top(crate::verbs::top::Top),
    /// List where two versions differ
    Diff(Diff),
    /// Check the store's structure
    #[command(after_help = "\
Exit status, as of qemu-img check: 0 clean, 1 it could not be found out, 2 something is lost, used
twice or counted too low, 3 only space is lost or something counted too high.")]
    Check,
    /// Read and verify every block
    Scrub(Scrub),
    /// Put right what `check` and `scrub` find, as far as it can be known
    Repair(Repair),
    /// Make the store larger
    Grow(Grow),
    /// Change a disk's size
    Resize(Resize),
    /// Limit how much guests may ask of a disk
    Set(Set),
    /// Give a disk or snapshot another name
    Rename(Rename),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual
    Man(Man),
}

/// `bough init`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough init                               a file that may grow to 100G, in the default folder
  bough --store /srv/bough init --size 2T
  bough init --device /dev/nvme1n1

The file takes space only as it is written. `bough grow` makes the store larger later.")]
pub struct Init {
    /// How large the store may become
    #[arg(long, default_value = "100G", conflicts_with = "device")]
    pub size: Size,
    /// Use a whole block device instead of a file
    #[arg(long, value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// Overwrite a device that is not empty
    #[arg(long, requires = "device")]
    pub force: bool,
}

/// `bough serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough serve
  bough serve --socket-group libvirt-qemu --socket-mode 660 --memory 2G
  bough serve --log-json 2>>/var/log/bough.json

SIGTERM stops it cleanly. Killed in any other way it loses nothing that was acknowledged; started
again, it goes on with the requests that were under way. BOUGH_LOG chooses what is logged, for
instance BOUGH_LOG=debug.")]
pub struct Serve {
    /// Bound on the memory for caches, buffers and unmerged writes
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub memory: Size,
    /// The folder of all sockets [default: /run/bough for root, else $XDG_RUNTIME_DIR/bough]
    #[arg(long, value_name = "DIR", env = "BOUGH_SOCKET_DIR")]
    pub socket_dir: Option<PathBuf>,
    /// The group that may connect to disks, by name or number
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// The rights on the disks' sockets, in octal
    #[arg(long, value_name = "MODE", default_value = "660", value_parser = octal_mode)]
    pub socket_mode: u32,
    /// The group that may control the server [default: nobody but its user]
    #[arg(long, value_name = "GROUP")]
    pub control_group: Option<String>,
    /// Threads that serve disks [default: one a processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub reactors: Option<u16>,
    /// Wait for the server there is, holding its connections, and take over when it dies
    #[arg(long)]
    pub spare: bool,
    /// What becomes of guests' writes that find the store, or its file system, full
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub on_full: OnFull,
    /// Whether to give up, while serving, all rights that serving does not need
    #[arg(long, value_enum, default_value_t = SandboxMode::Auto, value_name = "MODE")]
    pub sandbox: SandboxMode,
    /// Tell Prometheus metrics on this address and port, too
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Log JSON
    #[arg(long)]
    pub log_json: bool,
}

/// What becomes of writes to a full store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnFull {
    /// They wait, and go on by themselves when there is room
    #[default]
    Pause,
    /// They fail
    Error,
}

/// What a server gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// As much as the kernel can take: `bough status` tells
    Auto,
    /// Nothing
    Off,
}

/// `bough create`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bough create data 200G")]
pub struct Create {
    /// What it shall be called
    pub name: DiskName,
    /// Its size: a multiple of 512 bytes, at most 1P
    pub size: Size,
}

/// A format of image files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceFormat {
    /// Bytes as they are
    Raw,
    /// QEMU's
    Qcow2,
    /// VMware's
    Vmdk,
}

/// `bough import`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough import debian-12.qcow2 debian --template     sealed as debian@base, ready to clone
  bough import disk.raw data

Holes stay holes and zeros take no space. An image that refers to other files by path (a backing
file) is refused: flatten it first with `qemu-img convert`. An import that fails leaves no disk.")]
pub struct Import {
    /// The image file or block device
    pub file: PathBuf,
    /// What the disk shall be called
    pub name: DiskName,
    /// Take the sealed snapshot NAME@base, ready to be cloned
    #[arg(long)]
    pub template: bool,
    /// The image's format [default: found out]
    #[arg(long, value_enum)]
    pub format: Option<SourceFormat>,
}

/// A format to export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TargetFormat {
    /// Bytes as they are, with holes
    #[default]
    Raw,
    /// QEMU's
    Qcow2,
}

/// `bough export`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough export web-1@monday monday.raw
  bough export web-1 web-1.qcow2 --format qcow2

A running disk is exported as it is at this moment. The file appears once it is complete.")]
pub struct Export {
    /// The disk or snapshot
    #[arg(value_name = "DISK[@SNAP]")]
    pub version: VersionName,
    /// The file to write
    pub file: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    pub format: TargetFormat,
    /// Replace the file, or overwrite the device
    #[arg(long)]
    pub force: bool,
}

/// `bough snapshot`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough snapshot web-1@monday
  bough snapshot db@nightly db-log@nightly      both at one instant, or neither

It holds every write that was acknowledged before the command; guests go on meanwhile.")]
pub struct Snapshot {
    /// The snapshots to take
    #[arg(required = true, value_name = "DISK@NAME")]
    pub names: Vec<SnapshotName>,
}

/// `bough clone`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough clone debian web-1 web-2      from debian's newest sealed snapshot
  bough clone web-1@monday trial      from any snapshot")]
pub struct Clone {
    /// A snapshot, or a disk: its newest sealed snapshot
    #[arg(value_name = "SRC[@SNAP]")]
    pub source: VersionName,
    /// The disks to make
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<DiskName>,
}

/// `bough rollback`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough rollback -n web-1@monday      how much would be lost?
  bough rollback web-1@monday

What the disk's head has gained since the snapshot is dropped, and its size is the snapshot's again.
Newer snapshots stay, as branches. Refused while a client is connected.")]
pub struct Rollback {
    /// Where to
    #[arg(value_name = "DISK@SNAP")]
    pub snapshot: SnapshotName,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `bough delete`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough delete web-1@monday
  bough delete -n -r web-1            what would go?
  bough delete -r web-1               the disk, its snapshots, and all disks cloned from them")]
pub struct Delete {
    /// What to delete
    #[arg(required = true, value_name = "DISK[@SNAP]")]
    pub names: Vec<VersionName>,
    /// Take snapshots and dependent disks along
    #[arg(short = 'r', long)]
    pub recursive: bool,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `bough seal` and `bough unseal`
#[derive(Debug, Args)]
pub struct Seal {
    /// Which snapshot
    #[arg(value_name = "DISK@SNAP")]
    pub snapshot: SnapshotName,
}

/// `bough attach`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough attach web-1
  bough attach --queues 4 db
  bough attach --read-only reference

The attachment is remembered: a server started again listens on the same socket.")]
pub struct Attach {
    /// The disk
    pub disk: DiskName,
    /// Virtqueues to offer
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
}

/// `bough detach`
#[derive(Debug, Args)]
pub struct Detach {
    /// The disk
    pub disk: DiskName,
    /// Cut a connected virtual machine off
    #[arg(long)]
    pub force: bool,
}

/// `bough qemu-args`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough qemu-args web-1
  qemu-system-x86_64 -machine q35,accel=kvm -nographic $(bough qemu-args --memory 2G web-1)")]
pub struct QemuArgs {
    /// The disks, attached
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<DiskName>,
    /// The guest's memory, which QEMU must share with the server
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub memory: Size,
}

/// `bough show`
#[derive(Debug, Args)]
pub struct Show {
    /// The disk or snapshot
    #[arg(value_name = "DISK[@SNAP]")]
    pub version: VersionName,
}

/// `bough diff`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough diff web-1@monday web-1@tuesday
  bough diff --json web-1@monday web-1

Prints, in steps of 4096 bytes, where the two differ and what B has there: data or zeros.")]
pub struct Diff {
    /// The one
    #[arg(value_name = "A")]
    pub from: VersionName,
    /// The other
    #[arg(value_name = "B")]
    pub to: VersionName,
}

/// `bough scrub`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough scrub
  bough scrub --rate 50M              at most 50 MiB each second

Exit status: 0 all is well, 1 it could not be found out, 2 something is damaged.")]
pub struct Scrub {
    /// Read at most so much each second
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<Size>,
}

/// `bough repair`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough repair -n                       what is wrong, and what can be put right?
  bough repair
  bough repair --salvage web-1 web-1-rest

Put right are a damaged superblock and whatever of the catalogue has one good copy left, from that;
space and all numbers kept, from a walk of all disks. Nothing may serve the store meanwhile. What a
damaged node of a disk led to cannot be known: `--salvage` makes a clone in which the rest can be
read, tells which ranges are lost, and these are an error until they are written. Once no version
has the damaged node any more (what is written over it replaces it), another repair frees what it
led to.

Exit status: 0 all is well now, 1 it could not be done, 2 something is lost or used twice, 3 only space
is lost; of --salvage: 0 all could be read, 1 it could not be done, 2 something is lost.")]
pub struct Repair {
    /// Only say what would be put right
    #[arg(short = 'n', long, conflicts_with = "salvage")]
    pub dry_run: bool,
    /// Make a disk of what can be read of this one
    #[arg(long, value_name = "DISK[@SNAP]", requires = "name")]
    pub salvage: Option<VersionName>,
    /// What that disk shall be called
    #[arg(requires = "salvage")]
    pub name: Option<DiskName>,
}

/// `bough grow`
#[derive(Debug, Args)]
pub struct Grow {
    /// The store's new size
    pub size: Size,
}

/// `bough resize`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough resize data 400G
  bough resize --shrink data 100G     what lies beyond is lost, for ever

A running guest sees a larger size at once; a disk is made smaller only while nobody is connected
to it. Snapshots keep their size.")]
pub struct Resize {
    /// The disk
    pub disk: DiskName,
    /// Its new size
    pub size: Size,
    /// Allow it to become smaller
    #[arg(long)]
    pub shrink: bool,
}

/// `bough set`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough set web-1 --iops 500 --bandwidth 50M
  bough set web-1 --burst 30            save up for 30 seconds what is not used
  bough set web-1 --iops none           no limit any more

Limits are remembered, and count at once for a running guest. Reads, writes, discards and zeroings
are counted, flushes are free. What the limits hold back waits in the guest's own queue.")]
pub struct Set {
    /// The disk
    pub disk: DiskName,
    /// Operations in a second; 0 or none for no limit
    #[arg(long, value_name = "N", value_parser = rate)]
    pub iops: Option<u64>,
    /// Bytes in a second, read and written together; 0 or none for no limit
    #[arg(long, value_name = "SIZE", value_parser = byte_rate)]
    pub bandwidth: Option<u64>,
    /// For how many seconds what is not used is saved up [at first: 1]
    #[arg(long, value_name = "SECONDS")]
    pub burst: Option<u32>,
}

fn rate(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        number => number.parse().map_err(|_| "write a number, or none".to_owned()),
    }
}

fn byte_rate(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        size => size.parse::<Size>().map(|size| size.0).map_err(|error| error.to_string()),
    }
}

/// `bough rename`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough rename web-1 web-old
  bough rename web-1@monday web-1@before-upgrade")]
pub struct Rename {
    /// The present name
    #[arg(value_name = "A")]
    pub from: VersionName,
    /// The new name
    #[arg(value_name = "B")]
    pub to: VersionName,
}

/// `bough completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bough completions bash > /etc/bash_completion.d/bough")]
pub struct Completions {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// `bough man`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bough man | man -l -
  bough man --dir /usr/local/share/man/man1")]
pub struct Man {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("write three octal digits, such as 660".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_grammar_holds_together() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_explains_itself() {
        for verb in super::Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
        }
    }
}
