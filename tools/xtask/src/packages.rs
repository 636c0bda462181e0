//! Debian packages that tests and demo need: found missing by their programs, installed by apt.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A package, known by a file or program that it brings.
#[derive(Debug)]
pub struct Package {
    name: &'static str,
    sign: &'static str,
}

const fn package(name: &'static str, sign: &'static str) -> Package {
    Package { name, sign }
}

/// What the guests need.
pub const GUESTS: &[Package] = &[
    package("qemu-system-x86", "qemu-system-x86_64"),
    package("mmdebstrap", "mmdebstrap"),
    package("e2fsprogs", "mke2fs"),
    package("fdisk", "sfdisk"),
    package("grub-common", "grub-mkimage"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc/boot.img"),
    package("python3", "python3"),
    package("util-linux", "setpriv"),
];

/// What the other tests need: a second opinion on image formats, a way to end servers, and what the
/// machine is made of that power is cut from.
pub const TESTS: &[Package] = &[
    package("qemu-utils", "qemu-img"),
    package("procps", "kill"),
    package("busybox-static", "/bin/busybox"),
    package("lz4", "lz4"),
    package("dmsetup", "dmsetup"),
    package("mount", "losetup"),
];

/// What the benchmark's peer needs.
pub const BENCH: &[Package] =
    &[package("qemu-utils", "qemu-img"), package("qemu-system-common", "qemu-storage-daemon")];

/// Installs what is missing.
pub fn install(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().filter(|p| !p.is_there()).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Debian packages: {}", missing.join(" "));
    apt_get(&["-qq", "update"])?;
    let mut arguments = vec!["-qq", "-y", "--no-install-recommends", "install"];
    arguments.extend(&missing);
    if apt_get(&arguments).is_ok() {
        return Ok(());
    }
    install_matching_qemu(&arguments, &missing)
}

/// A machine with a newer qemu-utils (from backports, say) cannot take Debian's own
/// qemu-system-x86 beside it: then both have to be of the release.
fn install_matching_qemu(arguments: &[&str], missing: &[&str]) -> Result<()> {
    if !missing.contains(&"qemu-system-x86") {
        bail!("apt-get could not install: {}", missing.join(" "));
    }
    let wanted = format!("qemu-utils={}", candidate("qemu-system-x86")?);
    println!("installing the release's {wanted} too, to match qemu-system-x86");
    apt_get(&[arguments, &["--allow-downgrades", &wanted]].concat())
}

fn candidate(package: &str) -> Result<String> {
    let out = Command::new("apt-cache").args(["policy", package]).output()?;
    let text = String::from_utf8(out.stdout)?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .map(String::from)
        .with_context(|| format!("apt knows no {package}"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // A line for every package unpacked; what goes wrong comes the other way.
        .stdout(Stdio::null())
        .status()
        .context("cannot run apt-get: this needs Debian 12, as root")?;
    if status.success() {
        return Ok(());
    }
    bail!("apt-get {} failed (as root?)", arguments.join(" "))
}

impl Package {
    fn is_there(&self) -> bool {
        if self.sign.starts_with('/') {
            return Path::new(self.sign).exists();
        }
        // The administrator's folders are not on every PATH.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin";
        path.split(':').any(|folder| Path::new(folder).join(self.sign).exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_known_by_what_it_brings() {
        assert!(package("dash", "sh").is_there());
        assert!(package("base-files", "/etc/os-release").is_there());
        assert!(!package("unicorn", "unicorn-from-nowhere").is_there());
    }
}
