//! The options with which QEMU reaches a disk.

use std::path::PathBuf;

/// A disk as QEMU needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuDisk {
    /// What its devices are called inside QEMU.
    pub name: String,
    /// Where the storage server listens.
    pub socket: PathBuf,
    /// Virtqueues.
    pub queue_count: u16,
}

/// The options for a machine with `memory_bytes` and these disks.
///
/// The storage server reads and writes guest memory, so that has to be a shared memfd; and QEMU
/// has to come back when the server was started again.
pub fn qemu_options(memory_bytes: u64, disks: &[QemuDisk]) -> Vec<String> {
    let memory = size(memory_bytes);
    let mut options = vec![
        "-m".to_owned(),
        memory.clone(),
        "-object".to_owned(),
        format!("memory-backend-memfd,id=bough-memory,size={memory},share=on"),
        "-machine".to_owned(),
        "memory-backend=bough-memory".to_owned(),
    ];
    for disk in disks {
        let id = format!("bough-{}", disk.name);
        let path = disk.socket.to_string_lossy().replace(',', ",,");
        let queues = disk.queue_count;
        options.extend([
            "-chardev".to_owned(),
            format!("socket,id={id},path={path},reconnect=1"),
            "-device".to_owned(),
            format!("vhost-user-blk-pci,chardev={id},num-queues={queues}"),
        ]);
    }
    options
}

/// A size as QEMU reads it: both options must mean the very same.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}M", bytes >> 20) } else { format!("{bytes}B") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_does_not_end_it() {
        let disk =
            QemuDisk { name: "web".into(), socket: "/run/a,b/web.sock".into(), queue_count: 2 };
        let options = qemu_options(1 << 30, &[disk]);
        let chardev = "socket,id=bough-web,path=/run/a,,b/web.sock,reconnect=1";
        assert!(options.contains(&chardev.to_owned()), "{options:?}");
        assert!(options.contains(&"vhost-user-blk-pci,chardev=bough-web,num-queues=2".to_owned()));
    }
}
