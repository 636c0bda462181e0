//! What several tests need.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The result of a future that has nothing to wait for.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future in memory had to wait"),
    }
}
