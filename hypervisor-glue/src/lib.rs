//! What a hypervisor needs to reach a disk: the command lines of other people's monitors.
//!
//! Knows no storage, only the vhost-user socket that a server listens on.
