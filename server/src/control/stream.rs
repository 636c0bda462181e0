//! Answers that take a while: lines of JSON, sent as they come.
//!
//! I own how far an answer may be ahead of its client: [`LINES_AHEAD`]. Whoever makes the lines waits
//! for a slow client, and learns that a client has gone.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bough_blockstore::ReactorHandle;
use bough_radix::Engine;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::context::Control;

/// Lines that wait for a client.
const LINES_AHEAD: usize = 2;

/// Where a walk puts its events.
pub struct EventSender<T> {
    lines: mpsc::Sender<Bytes>,
    event: PhantomData<T>,
}

/// The client has gone: nobody wants the rest.
pub struct Gone;

impl<T: Serialize> EventSender<T> {
    /// Sends one event, once the client has taken enough of those before it.
    pub async fn send(&self, event: T) -> Result<(), Gone> {
        self.lines.send(line(&event)).await.map_err(|_| Gone)
    }

    /// Sends one event, unless the client is behind: for what the next one tells as well.
    pub fn offer(&self, event: T) {
        if let Ok(place) = self.lines.try_reserve() {
            place.send(line(&event));
        }
    }
}

fn line(event: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("our own types are plain JSON");
    line.push(b'\n');
    Bytes::from(line)
}

/// An answer made of the events that `work` sends while it runs on a reactor.
pub fn events<T, W, F>(control: &Control, work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(Engine, EventSender<T>) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let engine = control.store().engine().clone();
    let body = body(control.store().reactor(), move |sender| work(engine, sender));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn body<T, W, F>(reactor: &ReactorHandle, work: W) -> Body
where
    T: Send + 'static,
    W: FnOnce(EventSender<T>) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let (lines, receiver) = mpsc::channel(LINES_AHEAD);
    reactor.spawn(move || Box::pin(work(EventSender { lines, event: PhantomData })));
    Body::from_stream(stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bough_blockstore::{Reactor, ReactorConfig};
    use http_body_util::BodyExt;
    use tokio::sync::oneshot;

    use super::*;

    const LINES: usize = 1000;

    /// Counts up, a number a line, and how many numbers it has made; tells when it has ended.
    fn numbers(reactor: &ReactorHandle) -> (Body, Arc<AtomicUsize>, oneshot::Receiver<()>) {
        let made = Arc::new(AtomicUsize::new(0));
        let (ended, end) = oneshot::channel();
        let counter = Arc::clone(&made);
        let body = body(reactor, move |sender: EventSender<usize>| async move {
            for number in 0..LINES {
                counter.fetch_add(1, Ordering::SeqCst);
                if sender.send(number).await.is_err() {
                    break;
                }
            }
            let _ = ended.send(());
        });
        (body, made, end)
    }

    /// Waits until the maker has come as far as it may, and no further.
    async fn reaches(made: &AtomicUsize, count: usize) {
        while made.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
        assert_eq!(made.load(Ordering::SeqCst), count);
    }

    async fn next_line(body: &mut Body) -> Option<Bytes> {
        Some(body.frame().await?.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn a_slow_client_holds_the_walk_back_and_a_gone_one_ends_it() {
        let reactor = Reactor::start("lines", ReactorConfig::default()).unwrap();
        let (mut slow, made, _) = numbers(&reactor);
        for number in 0..100 {
            // Those that wait, and one that waits for a place among them.
            reaches(&made, number + LINES_AHEAD + 1).await;
            assert_eq!(next_line(&mut slow).await.unwrap(), format!("{number}\n"));
        }
        let (mut leaving, made, ended) = numbers(&reactor);
        assert_eq!(next_line(&mut leaving).await.unwrap(), "0\n");
        drop(leaving);
        ended.await.unwrap();
        assert!(made.load(Ordering::SeqCst) <= LINES_AHEAD + 2);
        reactor.stop();
        reactor.join().unwrap();
    }

    #[tokio::test]
    async fn what_is_offered_is_dropped_where_the_client_is_behind_and_the_end_is_not() {
        let reactor = Reactor::start("lines", ReactorConfig::default()).unwrap();
        let (offered, all_offered) = oneshot::channel();
        let mut body = body(&reactor, move |sender: EventSender<usize>| async move {
            (0..LINES).for_each(|number| sender.offer(number));
            let _ = offered.send(());
            let _ = sender.send(LINES).await;
        });
        all_offered.await.unwrap();
        let mut seen = Vec::new();
        while let Some(line) = next_line(&mut body).await {
            seen.push(String::from_utf8(line.to_vec()).unwrap().trim().parse::<usize>().unwrap());
        }
        assert_eq!(seen, [0, 1, LINES]);
        reactor.stop();
        reactor.join().unwrap();
    }
}
