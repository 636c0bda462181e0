//! Waiting for two things at once, without an executor of our own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs both to their ends.
pub(crate) async fn join<A, B>(
    mut a: Pin<Box<dyn Future<Output = A>>>,
    mut b: Pin<Box<dyn Future<Output = B>>>,
) -> (A, B) {
    let (mut from_a, mut from_b) = (None, None);
    poll_fn(|context| {
        if from_a.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            from_a = Some(value);
        }
        if from_b.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            from_b = Some(value);
        }
        if from_a.is_some() && from_b.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (from_a.expect("ready"), from_b.expect("ready"))
}
