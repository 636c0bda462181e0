//! Disks over vhost-user-blk, and the control API.
