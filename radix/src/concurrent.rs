//! Waiting for several futures at once, on the task that asks: no executor needed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Completes when all `futures` have; their results in the same order.
pub(crate) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut seats: Vec<_> =
        futures.into_iter().map(|future| Seat::Waiting(Box::pin(future))).collect();
    poll_fn(|context| {
        let mut pending = false;
        for seat in &mut seats {
            if let Seat::Waiting(future) = seat {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *seat = Seat::Done(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    seats.into_iter().filter_map(Seat::output).collect()
}

enum Seat<F: Future> {
    Waiting(Pin<Box<F>>),
    Done(F::Output),
}

impl<F: Future> Seat<F> {
    fn output(self) -> Option<F::Output> {
        match self {
            Self::Waiting(_) => None,
            Self::Done(output) => Some(output),
        }
    }
}
