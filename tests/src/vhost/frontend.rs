//! A vhost-user front end by hand: every message can be sent, well-formed or not.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Request numbers.
pub mod request {
    #![allow(missing_docs)] // the names are the specification's
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// Virtio feature bits.
pub mod features {
    #![allow(missing_docs)] // the names are the specification's
    pub const RO: u64 = 1 << 5;
    pub const FLUSH: u64 = 1 << 9;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const INDIRECT: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    /// What a plain driver takes.
    pub const USUAL: u64 = VERSION_1 | PROTOCOL | FLUSH | DISCARD | WRITE_ZEROES;
}

/// vhost-user protocol feature bits.
pub mod protocol {
    #![allow(missing_docs)] // the names are the specification's
    pub const MQ: u64 = 1;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// All that the server must offer.
    pub const ALL: u64 =
        MQ | REPLY_ACK | BACKEND_REQ | CONFIG | INFLIGHT_SHMFD | CONFIGURE_MEM_SLOTS;
}

const NEED_REPLY: u32 = 8;

/// Where guest memory begins, in the guest and in the front end's own address space.
const GUEST_BASE: u64 = 0x4000_0000;
const USER_BASE: u64 = 0x7f12_3456_7000;

/// Whether a message asks for an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// With NEED_REPLY.
    Reply,
    /// Without.
    Nothing,
}

/// What the server answered.
#[derive(Debug)]
pub struct Reply {
    /// The request it answers.
    pub request: u32,
    /// Version and flags.
    pub flags: u32,
    /// What follows the header.
    pub body: Vec<u8>,
    /// A descriptor, where one came along.
    pub file: Option<File>,
}

impl Reply {
    /// The body as a number.
    pub fn number(&self) -> u64 {
        u64::from_ne_bytes(self.body[..8].try_into().expect("eight bytes"))
    }
}

/// A connection to a server, and a guest's memory.
pub struct FrontEnd {
    /// The connection.
    pub socket: UnixStream,
    memory: File,
    memory_bytes: u64,
    /// The same memory. The server looks at a ring's indices while they are written.
    mapped: MmapRegion,
}

/// A 64-bit message body.
fn body64(value: u64) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// A message body of two 32-bit numbers.
fn pair(index: u32, value: u32) -> Vec<u8> {
    [index.to_ne_bytes(), value.to_ne_bytes()].concat()
}

impl FrontEnd {
    /// Connects, with fresh guest memory.
    pub fn connect(path: &Path, memory_bytes: u64) -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = File::from(rustix::fs::memfd_create("guest", flags).expect("a memfd"));
        memory.set_len(memory_bytes).expect("memory");
        Self::connect_with(path, memory)
    }

    /// Connects with memory that a guest already has.
    pub fn connect_with(path: &Path, memory: File) -> Self {
        let socket = UnixStream::connect(path).expect("the server listens");
        // A server that does not answer fails a test, it does not hang it.
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        Self::over(socket, memory)
    }

    /// No connection, only the memory, to look at.
    pub fn offline(memory: File) -> Self {
        let (socket, _) = UnixStream::pair().expect("a socket");
        Self::over(socket, memory)
    }

    fn over(socket: UnixStream, memory: File) -> Self {
        let memory_bytes = memory.metadata().expect("its size").len();
        let length = usize::try_from(memory_bytes).expect("fits the address space");
        let whole = FileOffset::new(memory.try_clone().expect("a descriptor"), 0);
        let mapped = MmapRegion::from_file(whole, length).expect("memory can be mapped");
        Self { socket, memory, memory_bytes, mapped }
    }

    /// The guest's memory, to reconnect with.
    pub fn memory(&self) -> File {
        self.memory.try_clone().expect("a descriptor")
    }

    /// The guest address of a place in memory.
    pub fn guest(offset: u64) -> u64 {
        GUEST_BASE + offset
    }

    /// The front end's own address of a place in memory.
    pub fn user(offset: u64) -> u64 {
        USER_BASE + offset
    }

    /// Reads guest memory.
    pub fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_exact_at(&mut bytes, offset).expect("inside guest memory");
        bytes
    }

    /// Writes guest memory.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, offset).expect("inside guest memory");
    }

    /// Reads a ring's index at once: the bytes of a [`peek`](Self::peek) may be of two moments.
    pub fn load_index(&self, offset: u64) -> u16 {
        let at = usize::try_from(offset).expect("inside guest memory");
        let index = self.mapped.as_volatile_slice().load(at, Ordering::Acquire);
        u16::from_le(index.expect("inside guest memory"))
    }

    /// Writes a ring's index at once: of a [`poke`](Self::poke) the server may see one byte.
    pub fn store_index(&self, offset: u64, index: u16) {
        let at = usize::try_from(offset).expect("inside guest memory");
        let stored = self.mapped.as_volatile_slice().store(index.to_le(), at, Ordering::Release);
        stored.expect("inside guest memory");
    }

    /// Sends a message.
    pub fn send(&self, request: u32, ask: Ask, body: &[u8], files: &[RawFd]) {
        let flags = if ask == Ask::Reply { 1 | NEED_REPLY } else { 1 };
        let size = u32::try_from(body.len()).expect("a small message");
        let words = [request.to_ne_bytes(), flags.to_ne_bytes(), size.to_ne_bytes()].concat();
        let message = [&words[..], body].concat();
        // A server that has hung up is noticed by whoever waits for an answer.
        let _ = self.socket.send_with_fds(&[&message[..]], files);
    }

    /// Receives a message; `None` where the server hung up.
    pub fn receive(&self) -> Option<Reply> {
        let mut header = [0; 12];
        let received = loop {
            match self.socket.recv_with_fd(&mut header) {
                // A test that was stopped for a while: with a time-out, that ends a wait.
                Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
                received => break received,
            }
        };
        let (count, file) = match received {
            Ok(received) => received,
            Err(error) if error.errno() == rustix::io::Errno::CONNRESET.raw_os_error() => {
                return None;
            }
            Err(error) => panic!("the server did not answer: {error}"),
        };
        if count == 0 {
            return None;
        }
        assert_eq!(count, header.len(), "a torn header");
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("a word"));
        let mut body = vec![0; usize::try_from(word(8)).expect("small")];
        (&self.socket).read_exact(&mut body).expect("a whole reply");
        Some(Reply { request: word(0), flags: word(4), body, file })
    }

    /// Sends a message that has a reply of its own.
    pub fn ask(&self, request: u32, ask: Ask, body: &[u8], files: &[RawFd]) -> Reply {
        self.send(request, ask, body, files);
        let reply = self.receive().expect("the server hung up");
        assert_eq!((reply.request, reply.flags), (request, 1 | 4), "of {request}");
        reply
    }

    /// Sends a message and returns its acknowledgement.
    pub fn acknowledged(&self, request: u32, body: &[u8], files: &[RawFd]) -> u64 {
        let reply = self.ask(request, Ask::Reply, body, files);
        assert_eq!(reply.body.len(), 8, "of {request}");
        reply.number()
    }

    /// Sends a message that must succeed.
    pub fn must(&self, request: u32, body: &[u8], files: &[RawFd]) {
        assert_eq!(self.acknowledged(request, body, files), 0, "request {request} failed");
    }

    /// Whether the server has hung up, or does so now; replies before that are skipped.
    pub fn is_cut_off(&self) -> bool {
        while self.receive().is_some() {}
        true
    }

    /// Agrees on features, in virtio-driver's order.
    pub fn negotiate(&self, features: u64, protocol: u64) {
        self.send(request::SET_OWNER, Ask::Nothing, &[], &[]);
        let offered = self.ask(request::GET_FEATURES, Ask::Nothing, &[], &[]).number();
        assert_eq!(features & !offered, 0, "the test wants features that are not offered");
        self.send(request::SET_FEATURES, Ask::Nothing, &body64(features), &[]);
        let offered = self.ask(request::GET_PROTOCOL_FEATURES, Ask::Nothing, &[], &[]).number();
        assert_eq!(protocol & !offered, 0, "the test wants extensions that are not offered");
        self.send(request::SET_PROTOCOL_FEATURES, Ask::Nothing, &body64(protocol), &[]);
    }

    /// The body of ADD_MEM_REG and REM_MEM_REG.
    pub fn region(offset: u64, bytes: u64) -> Vec<u8> {
        [0, Self::guest(offset), bytes, Self::user(offset), offset]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect()
    }

    /// Shares a part of guest memory.
    pub fn share(&self, offset: u64, bytes: u64) {
        self.must(request::ADD_MEM_REG, &Self::region(offset, bytes), &[self.memory.as_raw_fd()]);
    }

    /// Shares all of guest memory by one table, as QEMU does without memory slots.
    pub fn share_table(&self) {
        let table: Vec<u8> = [1u64, GUEST_BASE, self.memory_bytes, USER_BASE, 0]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect();
        self.must(request::SET_MEM_TABLE, &table, &[self.memory.as_raw_fd()]);
    }

    /// Sets a number of a queue's.
    pub fn set(&self, request: u32, queue: u32, value: u32) {
        self.must(request, &pair(queue, value), &[]);
    }

    /// As [`Self::set`], whatever comes of it.
    pub fn try_set(&self, request: u32, queue: u32, value: u32) {
        self.send(request, Ask::Reply, &pair(queue, value), &[]);
    }

    /// Hands over a queue's eventfd.
    pub fn set_eventfd(&self, request: u32, queue: u32, file: &OwnedFd) {
        self.must(request, &body64(u64::from(queue)), &[file.as_raw_fd()]);
    }

    /// The body of SET_VRING_ADDR.
    pub fn ring_body(queue: u32, descriptors: u64, available: u64, used: u64) -> Vec<u8> {
        let addresses = [descriptors, used, available, 0];
        let mut body = pair(queue, 0);
        body.extend(addresses.into_iter().flat_map(u64::to_ne_bytes));
        body
    }

    /// Stops a queue; the next entry of its available ring.
    pub fn stop(&self, queue: u32) -> u32 {
        let reply = self.ask(request::GET_VRING_BASE, Ask::Reply, &pair(queue, 0), &[]);
        assert_eq!(reply.body[..4], queue.to_ne_bytes());
        u32::from_ne_bytes(reply.body[4..8].try_into().expect("a word"))
    }

    /// The device's configuration space.
    pub fn config(&self, bytes: u32) -> Vec<u8> {
        let mut body: Vec<u8> = [0, bytes, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        body.resize(body.len() + usize::try_from(bytes).expect("small"), 0);
        let reply = self.ask(request::GET_CONFIG, Ask::Nothing, &body, &[]);
        assert_eq!(reply.body.len(), body.len(), "front ends compare the sizes");
        reply.body[12..].to_vec()
    }

    /// Gets a new in-flight region: its description and its memory.
    pub fn new_inflight(&self, queues: u16, size: u16) -> (Vec<u8>, File) {
        let mut body = vec![0; 24];
        body[16..18].copy_from_slice(&queues.to_ne_bytes());
        body[18..20].copy_from_slice(&size.to_ne_bytes());
        let reply = self.ask(request::GET_INFLIGHT_FD, Ask::Nothing, &body, &[]);
        assert_eq!(reply.body.len(), 24);
        (reply.body, reply.file.expect("the region's memory"))
    }

    /// Hands an in-flight region back.
    pub fn set_inflight(&self, description: &[u8], file: &File) {
        self.must(request::SET_INFLIGHT_FD, description, &[file.as_raw_fd()]);
    }
}
