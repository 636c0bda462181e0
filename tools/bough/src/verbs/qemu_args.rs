//! `bough qemu-args DISK...`

use std::process::ExitCode;

use bough_hypervisor_glue::{QemuDisk, qemu_options};
use bough_radix::{DiskDetail, DiskName};
use bough_server::StatusReport;

use crate::cli::QemuArgs;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: QemuArgs, session: &mut Session) -> Result<ExitCode, Failure> {
    let status: StatusReport = session.backend.get("/v1/status").await?;
    let mut disks = Vec::new();
    for disk in &args.disks {
        disks.push(qemu_disk(session, &status, disk).await?);
    }
    let options = qemu_options(args.memory.0, &disks);
    session.output.print(&options, |options| {
        options.iter().map(|option| shell_word(option)).collect::<Vec<_>>().join(" ")
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn qemu_disk(
    session: &mut Session,
    status: &StatusReport,
    disk: &DiskName,
) -> Result<QemuDisk, Failure> {
    let detail: DiskDetail = session.backend.get(&format!("/v1/versions/{disk}")).await?;
    let socket = status.disks.iter().find(|state| state.name == detail.disk.name);
    let socket = socket.and_then(|state| state.socket.clone());
    match (socket, detail.disk.attachment) {
        (Some(socket), Some(attachment)) => {
            Ok(QemuDisk { name: disk.to_string(), socket, queue_count: attachment.queues })
        }
        _ => Err(Failure::NotAttached { disk: disk.to_string() }),
    }
}

/// As a shell reads it; quoted only where it must be, so that `$(bough qemu-args ...)` works too.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@%".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn only_words_that_need_it_are_quoted() {
        assert_eq!(
            shell_word("socket,id=bough-web,path=/run/a"),
            "socket,id=bough-web,path=/run/a"
        );
        assert_eq!(shell_word("path=/a b/it's"), "'path=/a b/it'\\''s'");
    }
}
