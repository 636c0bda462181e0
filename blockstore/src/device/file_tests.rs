//! Opening, locking and sizing real files.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Device, OpenError, OpenMode, UringDevice};
use crate::addr::{BlockAddr, BlockCount, BlockRun};
use crate::buffer::BlockBuf;
use crate::lock::Holder;
use crate::reactor::{Reactor, ReactorConfig};

const SIZE: BlockCount = BlockCount(256);

struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn blocks(&self) -> PathBuf {
        self.folder.path().join("blocks")
    }

    fn holder(&self) -> PathBuf {
        self.folder.path().join("lock")
    }

    fn create(&self) -> UringDevice {
        UringDevice::create(&self.blocks(), SIZE, &self.holder()).unwrap()
    }

    fn open(&self, mode: OpenMode) -> Result<UringDevice, OpenError> {
        UringDevice::open(&self.blocks(), mode, &self.holder())
    }
}

#[test]
fn a_second_opener_is_refused_and_told_who_holds_it() {
    let folder = Folder::new();
    let held = folder.create();
    let refused = folder.open(OpenMode::ReadWrite).err().unwrap();
    assert!(matches!(refused, OpenError::InUse { holder: None, .. }), "{refused}");

    let mut holder = Holder::this_process();
    holder.control_socket = Some("/run/bough/control.sock".into());
    holder.write(&folder.holder()).unwrap();
    for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
        let refused = folder.open(mode).err().unwrap().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert!(refused.contains("/run/bough/control.sock"), "{refused}");
    }

    drop(held);
    folder.open(OpenMode::ReadWrite).unwrap();
}

#[test]
fn readers_share_and_keep_writers_out() {
    let folder = Folder::new();
    drop(folder.create());
    let (first, second) = (folder.open(OpenMode::ReadOnly), folder.open(OpenMode::ReadOnly));
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(folder.open(OpenMode::ReadWrite), Err(OpenError::InUse { .. })));
}

#[test]
fn a_new_file_must_be_new() {
    let folder = Folder::new();
    drop(folder.create());
    let again = UringDevice::create(&folder.blocks(), SIZE, &folder.holder());
    assert!(matches!(again, Err(OpenError::Exists { .. })));
}

#[test]
fn folders_and_terminals_are_no_media() {
    let folder = Folder::new();
    for path in [folder.folder.path(), "/dev/null".as_ref()] {
        let opened = UringDevice::open(path, OpenMode::ReadWrite, &folder.holder());
        assert!(matches!(opened, Err(OpenError::NotAMedium { .. })));
    }
    assert!(matches!(folder.open(OpenMode::ReadOnly), Err(OpenError::Io { .. })));
}

#[test]
fn a_broken_block_at_the_end_does_not_count() {
    let folder = Folder::new();
    File::create(folder.blocks()).unwrap().set_len(10 * 4096 + 512).unwrap();
    assert_eq!(folder.open(OpenMode::ReadOnly).unwrap().block_count(), BlockCount(10));
}

#[test]
fn discarding_gives_room_back_to_the_host() {
    let folder = Folder::new();
    let device = Arc::new(folder.create());
    let reactor = Reactor::start("discard", ReactorConfig::default()).unwrap();
    let own = Arc::clone(&device);
    let fill = reactor.block_on(move || async move {
        let mut full = BlockBuf::zeroed(256);
        full.fill(1);
        own.write(BlockAddr::ZERO, full.share()).await?;
        own.sync().await
    });
    fill.unwrap().unwrap();
    let before = device.allocated_bytes().unwrap().unwrap();
    let own = Arc::clone(&device);
    let all = BlockRun { start: BlockAddr::ZERO, count: 256 };
    reactor.block_on(move || own.discard(all)).unwrap().unwrap();
    let after = device.allocated_bytes().unwrap().unwrap();
    assert!(before >= SIZE.bytes() && after < before, "{before} then {after}");
}

#[test]
fn what_a_holder_left_is_read_back_and_nonsense_is_nobody() {
    let folder = Folder::new();
    let holder = Holder { pid: 42, control_socket: Some("/a b/c.sock".into()) };
    holder.write(&folder.holder()).unwrap();
    assert_eq!(Holder::read(&folder.holder()), Some(holder));
    for nonsense in ["", "42", "{\"pid\": -1}", "[[[[", "{\"pid\": 1"] {
        fs::write(folder.holder(), nonsense).unwrap();
        assert_eq!(Holder::read(&folder.holder()), None);
    }
    Holder::clear(&folder.holder()).unwrap();
    Holder::clear(&folder.holder()).unwrap();
    assert_eq!(Holder::read(&folder.holder()), None);
}
