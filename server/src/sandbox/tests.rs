//! The sandbox of a process of its own: what it gives up cannot be had back.

use std::fs::File;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;

use super::Sandbox;
use crate::folder::StoreFolder;

const PROBE: &str = "BOUGH_SANDBOX_PROBE";

/// Runs one of the tests below in its own process, where `PROBE` says what to try there.
fn in_a_process(test: &str, probe: &str) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("sandbox::tests::{test}")]);
    command.env(PROBE, probe).output().unwrap()
}

#[test]
fn files_elsewhere_connections_and_programs_are_out_of_reach() {
    let Ok(folder) = std::env::var(PROBE) else {
        let folder = tempfile::tempdir().unwrap();
        let probe = folder.path().to_str().unwrap();
        let test = "files_elsewhere_connections_and_programs_are_out_of_reach";
        let output = in_a_process(test, probe);
        assert!(output.status.success(), "{output:?}");
        return;
    };
    let outside = tempfile::NamedTempFile::new().unwrap();
    let folder = StoreFolder::at(folder.into());
    let sandbox = Sandbox::begin(&folder, &folder.path().join("sockets")).unwrap();
    let level = sandbox.finish(&[]).unwrap();
    assert!(level.seccomp && level.no_new_privileges);
    let refused = std::os::unix::net::UnixListener::bind("/tmp/bough-sandbox-probe");
    if level.landlock_abi == 0 {
        println!("not confined: the kernel has no Landlock");
    } else {
        let denied = |done: std::io::Result<File>| done.unwrap_err().kind();
        assert_eq!(denied(File::open(outside.path())), ErrorKind::PermissionDenied);
        assert_eq!(denied(File::create(outside.path())), ErrorKind::PermissionDenied);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    std::fs::write(folder.path().join("inside"), "x").unwrap();
    std::os::unix::net::UnixListener::bind(folder.path().join("sockets/inside")).unwrap();
    std::thread::spawn(|| ()).join().unwrap();
    let connection = TcpListener::bind("127.0.0.1:0").unwrap_err();
    assert_eq!(connection.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn whoever_starts_a_program_is_ended() {
    if std::env::var_os(PROBE).is_none() {
        let output = in_a_process("whoever_starts_a_program_is_ended", "/nowhere");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(libc::SIGSYS), "{output:?}");
        return;
    }
    super::calls::filter().unwrap();
    // In our place, so that it is this process that tries.
    let error = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"));
    panic!("not ended: {error}");
}
