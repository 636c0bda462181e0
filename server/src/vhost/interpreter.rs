//! Carrying out one message: what it does to the session, and the answer.
//!
//! The crate `vhost` knows the messages, but reads them from a socket and answers there. It gets a
//! socket of ours, so that a message is taken from the front end's, and answered there, when we
//! are ready for it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::BackendReqHandler;
use vhost::vhost_user::message::FrontendReq;

use crate::disk::BlockDisk;
use crate::vhost::VhostError;
use crate::vhost::message::Message;
use crate::vhost::record::Record;
use crate::vhost::session::Session;

/// See the module.
pub(crate) struct Interpreter<D: BlockDisk> {
    handler: BackendReqHandler<Mutex<Session<D>>>,
    near: UnixStream,
}

impl<D: BlockDisk> Interpreter<D> {
    pub(crate) fn new(session: Arc<Mutex<Session<D>>>) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        Ok(Self { handler: BackendReqHandler::from_stream(far, session), near })
    }

    /// Carries a message out. There may be an answer even to one that failed.
    pub(crate) fn carry_out(&mut self, message: &Message) -> (Message, Result<(), VhostError>) {
        let socket = |source| VhostError::Socket { source: Arc::new(source) };
        if let Err(error) = message.send(&self.near) {
            return (Message::default(), Err(socket(error)));
        }
        let done = self.handler.handle_request().map_err(VhostError::from);
        match Message::pick_up(&self.near) {
            Ok(answer) => (answer, done),
            Err(error) => (Message::default(), done.and(Err(socket(error)))),
        }
    }

    /// Agrees on what a dead server had agreed on.
    pub(crate) fn agree_again(&mut self, record: &Record) -> Result<(), VhostError> {
        let ask = |request: FrontendReq| Message::new(request.into(), &[]);
        let set =
            |request: FrontendReq, value: u64| Message::new(request.into(), &value.to_ne_bytes());
        let mut messages = vec![ask(FrontendReq::GET_FEATURES)];
        if record.features != 0 {
            messages.push(set(FrontendReq::SET_FEATURES, record.features));
        }
        messages.push(ask(FrontendReq::GET_PROTOCOL_FEATURES));
        if record.protocol != 0 {
            messages.push(set(FrontendReq::SET_PROTOCOL_FEATURES, record.protocol));
        }
        messages.iter().try_for_each(|message| self.carry_out(message).1)
    }
}
