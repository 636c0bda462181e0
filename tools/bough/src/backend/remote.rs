//! A server's control socket.

use std::path::Path;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::CommandError;

/// A connection to a server.
pub struct Remote {
    sender: SendRequest<Body>,
}

impl Remote {
    /// Connects; the error says why not.
    pub async fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends one request and waits for the head of its answer.
    pub async fn call(&mut self, request: Request<Body>) -> Result<Response<Body>, CommandError> {
        self.sender.ready().await.map_err(CommandError::Broken)?;
        let response = self.sender.send_request(request).await.map_err(CommandError::Broken)?;
        Ok(response.map(Body::new))
    }
}
