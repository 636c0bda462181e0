//! One front end, from its connecting to its going, on a thread of its own.
//!
//! A message is looked at, carried out, written down, answered, and only then taken from the socket:
//! killed at any point, we leave a successor what it needs to go on, and the front end notices
//! nothing. The one moment of which a successor cannot know whether the answer went out is marked as
//! such; it hangs up then, and the front end connects again.
//!
//! When I return, nothing of the front end's is under way any more: its requests have ended and
//! its memory is unmapped, so the next one may come.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use rustix::net::sockopt::socket_peercred;
use tokio::sync::Notify;
use vhost::vhost_user::{Error as ProtocolError, VhostUserProtocolFeatures};

use bough_blockstore::ReactorHandle;

use crate::disk::BlockDisk;
use crate::keep::{Kept, Vault};
use crate::reactor;
use crate::vhost::VhostError;
use crate::vhost::channel::BackChannel;
use crate::vhost::fault::Fault;
use crate::vhost::interpreter::Interpreter;
use crate::vhost::ledger::{Ledger, Phase};
use crate::vhost::message::{Message, Next};
use crate::vhost::record::{Files, Record, Snapshot};
use crate::vhost::session::{Session, Subject};

/// What a dead server left of a session.
pub(crate) struct Past {
    pub(crate) record: Record,
    pub(crate) phase: Phase,
    pub(crate) files: Files,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The front end went, or was cut off.
    Gone,
    /// We go, and a successor serves it.
    HandedOver,
}

/// Serves messages until the front end goes, or is cut off, or `stop` is readable.
pub(crate) fn serve<D: BlockDisk>(
    socket: Kept,
    subject: Subject<D>,
    past: Option<Past>,
    stop: impl AsFd,
) -> Result<End, VhostError> {
    let fault = Arc::clone(&subject.fault);
    let resized = subject.disk.on_resize();
    let reactor = subject.reactor.clone();
    let channel = BackChannel::default();
    let watching = ResizeWatch::start(resized, channel.clone(), &reactor);
    let disk = String::from_utf8_lossy(&subject.serial).into_owned();
    let (ledger, vault) = (Arc::clone(&subject.ledger), Arc::clone(&subject.vault));
    let session = Arc::new(Mutex::new(Session::new(subject)));
    let conversation =
        Conversation { socket, disk, session: Arc::clone(&session), channel, ledger, vault };
    let ended = conversation.hold(past, stop);
    lock(&session).stop_answering();
    drop(watching);
    lock(&session).abandon();
    hang_up_unless_handed_over(&fault, &ended);
    // A ring that broke closed the socket, so the conversation's own end says less.
    fault.take().map_or(ended, Err)
}

fn hang_up_unless_handed_over(fault: &Fault, ended: &Result<End, VhostError>) {
    if !matches!(ended, Ok(End::HandedOver)) {
        fault.hang_up();
    }
}

struct Conversation<D: BlockDisk> {
    socket: Kept,
    disk: String,
    session: Arc<Mutex<Session<D>>>,
    channel: BackChannel,
    ledger: Arc<Ledger>,
    vault: Arc<Vault>,
}

impl<D: BlockDisk> Conversation<D> {
    fn hold(&self, past: Option<Past>, stop: impl AsFd) -> Result<End, VhostError> {
        let mut interpreter = Interpreter::new(Arc::clone(&self.session)).map_err(socket_failed)?;
        let mut written = match past {
            Some(past) => self.take_up(&mut interpreter, &past)?,
            None => self.write(Vec::new(), Phase::Open)?,
        };
        loop {
            match Message::look(&self.socket, &stop) {
                Ok(Next::Whole(message)) => self.go_on(&mut interpreter, &message, &mut written)?,
                Ok(Next::Part) => {
                    // It cannot be left on the socket, so from here on nobody else can go on.
                    self.mark(Phase::Answering)?;
                    let taken = Message::take(&self.socket, &stop).map_err(socket_failed)?;
                    let Some(message) = taken else { return Ok(End::Gone) };
                    let (answer, done) = self.carry_out(&mut interpreter, &message);
                    let now = self.write(Vec::new(), Phase::Answering)?;
                    lock(&self.session).begin();
                    answer.send(&self.socket).map_err(socket_failed)?;
                    self.mark(Phase::Open)?;
                    written = now;
                    done?;
                }
                Ok(Next::End) => return Ok(End::Gone),
                Ok(Next::Stopped) if self.socket.outlives_us() => return Ok(End::HandedOver),
                Ok(Next::Stopped) => return Ok(End::Gone),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(End::Gone);
                }
                Err(error) => return Err(socket_failed(error)),
            }
        }
    }

    /// Carries out a message that is still on the socket, answers it, takes it. `written` is what a
    /// successor would read; what it names stays open until something else is written.
    fn go_on(
        &self,
        interpreter: &mut Interpreter<D>,
        message: &Message,
        written: &mut Snapshot,
    ) -> Result<(), VhostError> {
        let (answer, done) = self.carry_out(interpreter, message);
        // An answer with a descriptor belongs to a question that may be asked twice.
        if answer.files.is_empty() {
            *written = self.write(answer.bytes.clone(), Phase::Applied)?;
        }
        lock(&self.session).begin();
        self.answer(&answer, message)?;
        done
    }

    fn answer(&self, answer: &Message, message: &Message) -> Result<(), VhostError> {
        self.mark(Phase::Answering)?;
        let sent = answer.send(&self.socket).and_then(|()| message.consume(&self.socket));
        sent.map_err(socket_failed)?;
        self.mark(Phase::Open)
    }

    fn carry_out(
        &self,
        interpreter: &mut Interpreter<D>,
        message: &Message,
    ) -> (Message, Result<(), VhostError>) {
        if !BackChannel::is_in(message) {
            return interpreter.carry_out(message);
        }
        let agreed = lock(&self.session).protocol_features();
        if !agreed.contains(VhostUserProtocolFeatures::BACKEND_REQ) {
            return (Message::default(), Err(ProtocolError::InvalidMessage.into()));
        }
        let done = self.channel.accept(message, &self.vault).map_err(socket_failed);
        let answered = agreed.contains(VhostUserProtocolFeatures::REPLY_ACK)
            && message.header().wants_acknowledgement()
            && done.is_ok();
        let bytes = if answered { message.header().acknowledgement() } else { Vec::new() };
        (Message { bytes, files: Vec::new() }, done)
    }

    /// Goes on where a dead server was.
    fn take_up(
        &self,
        interpreter: &mut Interpreter<D>,
        past: &Past,
    ) -> Result<Snapshot, VhostError> {
        if past.phase == Phase::Answering {
            return Err(VhostError::AnswerUnknown);
        }
        interpreter.agree_again(&past.record)?;
        if let Some(name) = &past.record.back_channel {
            let socket = past.files.get(name).ok_or(VhostError::NotInherited)?;
            self.channel.put(Some(socket.clone()));
        }
        lock(&self.session).take_up(&past.record, &past.files)?;
        let written = self.write(past.record.reply.clone(), past.phase)?;
        lock(&self.session).begin();
        if past.phase == Phase::Applied {
            self.give_old_answer(&past.record.reply)?;
        }
        // The disk may have been resized while nobody was there to say so.
        self.channel.config_changed();
        Ok(written)
    }

    /// The message is on the socket still, and was carried out; it only has to be answered.
    fn give_old_answer(&self, reply: &[u8]) -> Result<(), VhostError> {
        let never = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
        let never = never.map_err(|error| socket_failed(error.into()))?;
        match Message::look(&self.socket, never).map_err(socket_failed)? {
            Next::Whole(message) => {
                self.answer(&Message { bytes: reply.to_vec(), files: Vec::new() }, &message)
            }
            _ => Err(VhostError::AnswerUnknown),
        }
    }

    /// Writes down where we are.
    fn write(&self, reply: Vec<u8>, phase: Phase) -> Result<Snapshot, VhostError> {
        let mut snapshot = lock(&self.session).snapshot();
        let channel = self.channel.get();
        snapshot.record.back_channel = channel.map(|channel| snapshot.name(&channel));
        snapshot.record.socket = Some(snapshot.name(&self.socket));
        snapshot.record.disk.clone_from(&self.disk);
        snapshot.record.reply = reply;
        self.ledger.write(&snapshot.record, phase).map_err(VhostError::keeping)?;
        Ok(snapshot)
    }

    fn mark(&self, phase: Phase) -> Result<(), VhostError> {
        self.ledger.mark(phase).map_err(VhostError::keeping)
    }
}

fn socket_failed(source: io::Error) -> VhostError {
    if source.kind() == io::ErrorKind::InvalidData {
        return ProtocolError::InvalidMessage.into();
    }
    VhostError::Socket { source: Arc::new(source) }
}

fn lock<D: BlockDisk>(session: &Mutex<Session<D>>) -> std::sync::MutexGuard<'_, Session<D>> {
    session.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells the front end of resizes, until dropped.
struct ResizeWatch {
    over: Arc<Notify>,
}

impl ResizeWatch {
    fn start(
        mut resized: tokio::sync::watch::Receiver<u64>,
        channel: BackChannel,
        reactor: &ReactorHandle,
    ) -> Self {
        let over = Arc::new(Notify::new());
        let until = Arc::clone(&over);
        reactor.spawn(move || {
            Box::pin(async move {
                let follow = async {
                    while resized.changed().await.is_ok() {
                        channel.config_changed();
                    }
                };
                reactor::either(follow, until.notified()).await;
            })
        });
        Self { over }
    }
}

impl Drop for ResizeWatch {
    fn drop(&mut self) {
        self.over.notify_one();
    }
}

/// Who is at the other end, for people to read.
pub(crate) fn describe(socket: impl AsFd) -> String {
    let Ok(credentials) = socket_peercred(socket) else {
        return "an unknown client".to_owned();
    };
    let pid = credentials.pid.as_raw_nonzero();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("process {pid}"),
        name => format!("{name} (process {pid})"),
    }
}
