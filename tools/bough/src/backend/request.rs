//! Requests and answers: JSON both ways, lines of JSON, and errors as the server words them.

use std::path::PathBuf;

use axum::body::Body;
use axum::http::{Method, Request, Response, header};
use bough_blockstore::OpenError;
use bough_server::{ErrorBody, ErrorDetail, FolderError, SocketError, StoreError};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Backend;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The server, or the engine here, refused or failed.
    #[error("{}", .0.message)]
    Refused(ErrorDetail),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its folder is not one.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folder of sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The server is somebody else's.
    #[error(
        "the store in '{folder}' is served by process {pid}, whose control socket '{socket}' is not \
         open to you; become its user, or start it with --control-group"
    )]
    NotYours {
        /// The folder.
        folder: PathBuf,
        /// The server.
        pid: u32,
        /// Its socket.
        socket: PathBuf,
    },
    /// The connection to the server broke.
    #[error("the server went away in the middle ({0}); see its log, then look with `bough list`")]
    Broken(#[source] hyper::Error),
    /// A body broke off.
    #[error("the server's answer broke off ({0}); see its log, then try again")]
    Body(#[source] axum::Error),
    /// The server speaks otherwise.
    #[error("the server's answer is not understood ({0}); is it of another version?")]
    Answer(#[source] serde_json::Error),
    /// An answer that ended too early.
    #[error("the server's answer ended too early; see its log, then try again")]
    CutOff,
}

impl CommandError {
    /// The failure in the API's words.
    pub fn detail(&self) -> ErrorDetail {
        match self {
            Self::Refused(detail) => detail.clone(),
            Self::NotYours { .. } | Self::Store(StoreError::Device(OpenError::InUse { .. })) => {
                ErrorDetail { kind: "in_use".into(), message: self.to_string() }
            }
            other => ErrorDetail { kind: "io".into(), message: other.to_string() },
        }
    }
}

/// The error that an answer carries.
pub async fn error_from(response: Response<Body>) -> CommandError {
    let status = response.status();
    match collect(response).await {
        Err(error) => error,
        Ok(bytes) => match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => CommandError::Refused(body.error),
            Err(_) => CommandError::Refused(ErrorDetail {
                kind: "io".into(),
                message: format!("the server answered {status} and does not say why"),
            }),
        },
    }
}

async fn collect(response: Response<Body>) -> Result<Bytes, CommandError> {
    Ok(response.into_body().collect().await.map_err(CommandError::Body)?.to_bytes())
}

impl Backend {
    /// Asks, and reads the answer.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CommandError> {
        let response = self.request(Method::GET, path, Body::empty()).await?;
        serde_json::from_slice(&collect(response).await?).map_err(CommandError::Answer)
    }

    /// Sends a body, and reads the answer.
    pub async fn send<B: Serialize, T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, CommandError> {
        let body = serde_json::to_vec(body).expect("our own types are plain JSON");
        let response = self.request(method, path, Body::from(body)).await?;
        let mut bytes = collect(response).await?;
        if bytes.is_empty() {
            bytes = Bytes::from_static(b"null");
        }
        serde_json::from_slice(&bytes).map_err(CommandError::Answer)
    }

    /// Sends a body, and reads the answer.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<T, CommandError> {
        self.send(Method::POST, path, body).await
    }

    /// Sends any body; an answer that is no success becomes its error.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Body>, CommandError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "bough")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .expect("names are safe in paths");
        let response = self.call(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(error_from(response).await) }
    }
}

/// An answer made of lines of JSON.
pub struct Ndjson {
    body: axum::body::BodyDataStream,
    pending: BytesMut,
}

impl Ndjson {
    /// Reads an answer's lines.
    pub fn new(response: Response<Body>) -> Self {
        Self { body: response.into_body().into_data_stream(), pending: BytesMut::new() }
    }

    /// The next line. The last line of a walk says so itself: an answer that just ends was cut off.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, CommandError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                return serde_json::from_slice(&line).map_err(CommandError::Answer);
            }
            match self.body.next().await {
                None => return Err(CommandError::CutOff),
                Some(piece) => self.pending.extend_from_slice(&piece.map_err(CommandError::Body)?),
            }
        }
    }
}
