//! Which system calls are kept: by two seccomp filters, for all threads.
//!
//! What is not on the list fails with EPERM, as in a container, and the server goes on: a library
//! that tries something new is no reason to leave guests alone. What only somebody who has taken
//! the server over would try, ends it at once; a successor takes over its guests.
//!
//! Calls that are kept whatever their arguments cost next to nothing: the kernel remembers that
//! in a bitmap and does not run the filter. All calls of the data path are among them.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Why calls are not filtered.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    /// A filter could not be made.
    #[error("the filter: {0}")]
    Filter(#[from] BackendError),
    /// The kernel did not take it.
    #[error("the kernel does not take the filter: {0}")]
    Kernel(#[from] seccompiler::Error),
}

/// Kept with any arguments.
#[rustfmt::skip]
const KEPT: &[i64] = &[
    // Data and waiting.
    libc::SYS_io_uring_enter, libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev,
    libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev,
    libc::SYS_preadv2, libc::SYS_pwritev2,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_ppoll,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_futex, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_clock_gettime, libc::SYS_gettimeofday,
    // Files, wherever Landlock lets us.
    libc::SYS_openat, libc::SYS_close, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_fstatfs, libc::SYS_lseek, libc::SYS_getdents64, libc::SYS_readlinkat,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_unlinkat, libc::SYS_renameat,
    libc::SYS_renameat2, libc::SYS_mkdirat, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_umask, libc::SYS_getcwd, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_fallocate, libc::SYS_ftruncate, libc::SYS_flock,
    libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3, libc::SYS_memfd_create,
    // Connections: of what family, `socket` decides.
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendto, libc::SYS_recvfrom,
    // Memory, threads, ourselves.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk, libc::SYS_clone,
    libc::SYS_clone3, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_membarrier, libc::SYS_getcpu,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getrandom, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_prlimit64,
    // The same by their older names.
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_stat,
    #[cfg(target_arch = "x86_64")] libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")] libc::SYS_access,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")] libc::SYS_chown,
    #[cfg(target_arch = "x86_64")] libc::SYS_lchown,
];

/// The end of whoever tries.
#[rustfmt::skip]
const DEADLY: &[i64] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root,
    libc::SYS_chroot, libc::SYS_setns, libc::SYS_unshare, libc::SYS_bpf,
    libc::SYS_perf_event_open, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_setuid,
    libc::SYS_setgid, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups,
    libc::SYS_capset, libc::SYS_io_uring_setup, libc::SYS_io_uring_register,
    libc::SYS_userfaultfd, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
];

/// Filters the system calls of all threads, for good.
pub fn filter() -> Result<(), CallsError> {
    let deadly = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
    let deadly = program(deadly, SeccompAction::Allow, SeccompAction::KillProcess)?;
    let kept = program(kept()?, SeccompAction::Errno(EPERM), SeccompAction::Allow)?;
    apply_filter_all_threads(&deadly)?;
    Ok(apply_filter_all_threads(&kept)?)
}

const EPERM: u32 = libc::EPERM.cast_unsigned();

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matched, here)?.try_into()
}

fn kept() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> = KEPT.iter().map(|call| (*call, Vec::new())).collect();
    let unix = || argument(0, SeccompCmpOp::Eq, bits(libc::AF_UNIX));
    rules.insert(libc::SYS_socket, vec![unix()?]);
    rules.insert(libc::SYS_socketpair, vec![unix()?]);
    // Memory is never made to be run.
    let program_text = bits(libc::PROT_EXEC);
    let data = || argument(2, SeccompCmpOp::MaskedEq(program_text), 0);
    rules.insert(libc::SYS_mmap, vec![data()?]);
    rules.insert(libc::SYS_mprotect, vec![data()?]);
    let asked: Result<Vec<_>, _> =
        PRCTLS.iter().map(|option| argument(0, SeccompCmpOp::Eq, bits(*option))).collect();
    rules.insert(libc::SYS_prctl, asked?);
    // A process that gives up signals itself.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, own)?]);
    let asked: Result<Vec<_>, _> =
        IOCTLS.iter().map(|request| argument(1, SeccompCmpOp::Eq, *request)).collect();
    rules.insert(libc::SYS_ioctl, asked?);
    Ok(rules)
}

/// Threads get names; what processor this is; whether rights are given up.
const PRCTLS: &[i32] = &[libc::PR_SET_NAME, PR_GET_AUXV, libc::PR_GET_NO_NEW_PRIVS];
const PR_GET_AUXV: i32 = 0x4155_5856;
/// Sockets that do not block; a device's blocks given back; whether a log is read at a terminal.
const IOCTLS: &[u64] = &[libc::FIONBIO, BLKDISCARD, libc::TCGETS];
const BLKDISCARD: u64 = 0x1277;

fn argument(index: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value)?;
    SeccompRule::new(vec![condition])
}

fn bits(constant: i32) -> u64 {
    u64::from(constant.cast_unsigned())
}
