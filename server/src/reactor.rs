//! The reactor as serving a guest uses it: tasks, turns, and eventfds.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::Arc;

pub(crate) use bough_blockstore::either;
use bough_blockstore::{Runtime, Task, UringRuntime, readable};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Runs a task on this thread's reactor.
pub(crate) fn spawn(task: Task) {
    UringRuntime.spawn(task);
}

/// Calls `call` when every task that is ready now has had its turn.
pub(crate) fn defer(call: impl FnOnce() + 'static) {
    UringRuntime.defer(Box::new(call));
}

/// Completes after every task that is ready now has had its turn.
pub(crate) async fn yield_now() {
    UringRuntime.yield_now().await;
}

/// Waits for a kick, and takes all there are.
pub(crate) async fn kicked(eventfd: &Arc<File>) -> io::Result<()> {
    readable(Arc::clone(eventfd)).await?;
    let mut count = [0; 8];
    // Without waiting, though the eventfd may be a blocking one: the front end has it too, and
    // may have taken the kick from under us.
    match preadv2(eventfd, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
