//! Operations in the current thread's ring, as futures.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use tokio::sync::oneshot;

use super::executor::{Local, current};
use super::request::Request;

/// Hands a request to the current thread's ring. It is carried out whether or not the future is
/// polled; dropping that abandons the answer only (and ends a wait for readability).
///
/// # Panics
/// Where the thread runs no reactor.
pub(crate) fn submit(request: Request) -> Op {
    let local = current();
    let slot = local.ring.borrow_mut().insert(request);
    Op { local, slot: Some(slot) }
}

/// As [`submit`], for whoever does not wait: `done` is called on this thread when the request is
/// over, outside of any task.
///
/// # Panics
/// Where the thread runs no reactor.
pub(crate) fn submit_then(request: Request, done: impl FnOnce(io::Result<()>) + 'static) {
    current().ring.borrow_mut().insert_then(request, Box::new(done));
}

/// Waits until something can be read from `file`: an eventfd, a pipe, a socket. Reads nothing,
/// so nothing is lost when the future is dropped.
///
/// # Errors
/// What the kernel says of the descriptor.
///
/// # Panics
/// Where the thread runs no reactor.
pub fn readable(
    file: Arc<impl AsFd + Send + Sync + 'static>,
) -> impl Future<Output = io::Result<()>> {
    let op = submit(Request::Readable { file });
    async move { op.await.1 }
}

/// Runs a call that blocks and that io_uring does not have, on a thread of its own, whether or
/// not the future is polled. For rare things only.
pub(crate) fn offload<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    let (sender, receiver) = oneshot::channel();
    let spawned = thread::Builder::new().name("bough-offload".into()).spawn(move || {
        // Nobody waits any more: nobody minds.
        let _ = sender.send(call());
    });
    async move {
        spawned?;
        receiver.await.map_err(|_| io::Error::other("the helper thread died"))?
    }
}

/// See [`submit`].
pub(crate) struct Op {
    local: Rc<Local>,
    slot: Option<usize>,
}

impl Future for Op {
    type Output = (Request, io::Result<()>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = self.slot.expect("polled after it had completed");
        let stale = self.local.ring.borrow_mut().take_waker(slot);
        drop(stale);
        let answer = self.local.ring.borrow_mut().poll(slot, context);
        if answer.is_ready() {
            self.slot = None;
        }
        answer
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let waker = self.local.ring.borrow_mut().abandon(slot);
            drop(waker);
        }
    }
}
