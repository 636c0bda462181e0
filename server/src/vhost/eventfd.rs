//! Eventfds that a front end gave us.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether it is one. A front end may send anything; a file that is always readable would have
/// us spin for ever.
pub(crate) fn is_eventfd(file: &File) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .is_ok_and(|target| target.to_str() == Some("anon_inode:[eventfd]"))
}

/// Adds one to it. Never waits: a full counter, which only a hostile front end makes, counts as
/// told. It is left blocking, since the front end shares that flag and may rely on it.
pub(crate) fn signal(file: &File) {
    let mut polled = [PollFd::new(file, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if matches!(poll(&mut polled, Some(&now)), Ok(1)) {
        // Nobody to report a failure to: the front end's own descriptor.
        let _ = rustix::io::write(file, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn only_eventfds_pass_for_eventfds() {
        assert!(is_eventfd(&File::from(eventfd(0, EventfdFlags::empty()).unwrap())));
        assert!(!is_eventfd(&File::open("/dev/zero").unwrap()));
        assert!(!is_eventfd(&File::open("/").unwrap()));
    }

    #[test]
    fn a_full_counter_does_not_block() {
        let full = File::from(eventfd(0, EventfdFlags::empty()).unwrap());
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        signal(&full);
    }
}
