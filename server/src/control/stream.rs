//! Answers that take a while: lines of JSON, sent as they come.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bough_radix::Engine;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::context::Control;

/// Where a walk puts its events. It never waits: a walk holds no place in the tree for a slow client.
pub struct EventSender<T> {
    lines: mpsc::UnboundedSender<Bytes>,
    event: PhantomData<T>,
}

impl<T: Serialize> EventSender<T> {
    /// Sends one event; a client that has gone is not missed.
    pub fn push(&mut self, event: T) {
        let mut line = serde_json::to_vec(&event).expect("our own types are plain JSON");
        line.push(b'\n');
        let _ = self.lines.send(Bytes::from(line));
    }
}

/// An answer made of the events that `work` sends while it runs on a reactor.
pub fn events<T, W, F>(control: &Control, work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(Engine, EventSender<T>) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let (lines, receiver) = mpsc::unbounded_channel();
    let engine = control.store().engine().clone();
    control
        .store()
        .reactor()
        .spawn(move || Box::pin(work(engine, EventSender { lines, event: PhantomData })));
    let body = stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}
