//! Disks as versions of copy-on-write trees, and the catalogue.
