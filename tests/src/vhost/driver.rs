//! A virtqueue's driver by hand, on a [`FrontEnd`]'s guest memory.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::vhost::frontend::{FrontEnd, request};

/// Descriptor flag: another follows.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITEABLE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Request type IN.
pub const READ: u32 = 0;
/// Request type OUT.
pub const WRITE: u32 = 1;
/// Request type FLUSH.
pub const FLUSH: u32 = 4;
/// Request type GET_ID.
pub const GET_ID: u32 = 8;
/// Request type DISCARD.
pub const DISCARD: u32 = 11;
/// Request type WRITE_ZEROES.
pub const WRITE_ZEROES: u32 = 13;

/// Descriptors in a driver's ring.
const SIZE: u16 = 16;
/// Descriptors of each slot: header, data, status.
const SLOT_DESCRIPTORS: u16 = 3;
/// Memory of a queue: rings, then one slot per request.
const QUEUE_BYTES: u64 = 0x2_0000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const SLOTS: u64 = 0x3000;
const SLOT_BYTES: u64 = 0x4000;
const SLOT_DATA: u64 = 0x100;

/// An encoded descriptor.
pub fn descriptor(address: u64, bytes: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut encoded = address.to_le_bytes().to_vec();
    encoded.extend(bytes.to_le_bytes());
    encoded.extend(flags.to_le_bytes());
    encoded.extend(next.to_le_bytes());
    encoded
}

/// One queue as its driver sees it. Requests lie in slots, each with a header at an odd address,
/// room for data, and a status byte behind them.
pub struct Driver {
    queue: u32,
    base: u64,
    available: u16,
    used: u16,
    /// Rings the server's bell.
    pub kick: OwnedFd,
    /// The server's bell.
    pub call: OwnedFd,
}

impl Driver {
    /// The driver of queue `queue`; its memory lies at a place of its own.
    pub fn new(queue: u32) -> Self {
        let bell = || eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let base = u64::from(queue) * QUEUE_BYTES;
        Self { queue, base, available: 0, used: 0, kick: bell(), call: bell() }
    }

    /// Guest memory that `queues` drivers need.
    pub fn memory_bytes(queues: u32) -> u64 {
        u64::from(queues) * QUEUE_BYTES
    }

    /// Describes the ring to the server; all but starting it.
    pub fn describe(&self, front: &FrontEnd, base: u32) {
        front.set(request::SET_VRING_NUM, self.queue, u32::from(SIZE));
        front.set(request::SET_VRING_BASE, self.queue, base);
        let at = |offset| FrontEnd::user(self.base + offset);
        let body = FrontEnd::ring_body(self.queue, at(0), at(AVAILABLE), at(USED));
        front.must(request::SET_VRING_ADDR, &body, &[]);
    }

    /// Hands over the bells, which starts the ring.
    pub fn start(&self, front: &FrontEnd) {
        front.set_eventfd(request::SET_VRING_KICK, self.queue, &self.kick);
        front.set_eventfd(request::SET_VRING_CALL, self.queue, &self.call);
    }

    /// Describes, starts and enables.
    pub fn set_up(&self, front: &FrontEnd) {
        self.describe(front, 0);
        self.start(front);
        front.set(request::SET_VRING_ENABLE, self.queue, 1);
    }

    fn slot(&self, slot: u16) -> u64 {
        self.base + SLOTS + u64::from(slot) * SLOT_BYTES
    }

    fn header_at(&self, slot: u16) -> u64 {
        self.slot(slot) + 33
    }

    /// Where a slot's data lie, in guest memory.
    pub fn data_at(&self, slot: u16) -> u64 {
        self.slot(slot) + SLOT_DATA
    }

    fn status_at(&self, slot: u16) -> u64 {
        self.slot(slot) + SLOT_BYTES - 3
    }

    /// Puts a request's header and descriptors into a slot. `data_bytes` of data, written by the
    /// device or not.
    pub fn prepare(&self, front: &FrontEnd, slot: u16, kind: u32, sector: u64, data_bytes: u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        front.poke(self.header_at(slot), &header);
        front.poke(self.status_at(slot), &[0xee]);
        let flags = if kind == READ || kind == GET_ID { WRITEABLE } else { 0 };
        let first = slot * SLOT_DESCRIPTORS;
        let guest = FrontEnd::guest;
        let chain = [
            descriptor(guest(self.header_at(slot)), 16, NEXT, first + 1),
            descriptor(guest(self.data_at(slot)), data_bytes, flags | NEXT, first + 2),
            descriptor(guest(self.status_at(slot)), 1, WRITEABLE, 0),
        ];
        self.put_descriptors(front, first, &chain.concat());
    }

    /// Writes descriptors into the table, from `first` on.
    pub fn put_descriptors(&self, front: &FrontEnd, first: u16, encoded: &[u8]) {
        front.poke(self.base + u64::from(first) * 16, encoded);
    }

    /// Makes the chain beginning at this descriptor available, without ringing.
    pub fn offer_head(&mut self, front: &FrontEnd, head: u16) {
        let entry = self.base + AVAILABLE + 4 + u64::from(self.available % SIZE) * 2;
        front.poke(entry, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.set_available_index(front, self.available);
    }

    /// Says how many chains are available, truly or not.
    pub fn set_available_index(&self, front: &FrontEnd, index: u16) {
        front.store_index(self.base + AVAILABLE + 2, index);
    }

    /// Makes a slot's request available, without ringing.
    pub fn offer(&mut self, front: &FrontEnd, slot: u16) {
        self.offer_head(front, slot * SLOT_DESCRIPTORS);
    }

    /// Rings.
    pub fn ring(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).expect("a kick");
    }

    /// Prepares, offers and rings.
    pub fn submit(&mut self, front: &FrontEnd, slot: u16, kind: u32, sector: u64, bytes: u32) {
        self.prepare(front, slot, kind, sector, bytes);
        self.offer(front, slot);
        self.ring();
    }

    fn used_index(&self, front: &FrontEnd) -> u16 {
        front.load_index(self.base + USED + 2)
    }

    /// Takes up where a predecessor left off.
    pub fn resume(&mut self, front: &FrontEnd) {
        self.available = front.load_index(self.base + AVAILABLE + 2);
        self.used = self.used_index(front);
    }

    /// How many answers lie there unread.
    pub fn answers_waiting(&self, front: &FrontEnd) -> u16 {
        self.used_index(front).wrapping_sub(self.used)
    }

    /// The next answer: which slot, and how many bytes the device says it wrote.
    pub fn wait_for_answer(&mut self, front: &FrontEnd) -> (u16, u32) {
        while self.answers_waiting(front) == 0 {
            self.wait_for_bell();
        }
        let entry = self.base + USED + 4 + u64::from(self.used % SIZE) * 8;
        let bytes = front.peek(entry, 8);
        self.used = self.used.wrapping_add(1);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a word"));
        let head = u16::try_from(word(0)).expect("a descriptor index");
        (head / SLOT_DESCRIPTORS, word(4))
    }

    /// Waits for the server to ring, and stills the bell.
    pub fn wait_for_bell(&self) {
        assert!(self.bell_rings(20), "the server did not ring");
        let mut count = [0; 8];
        rustix::io::read(&self.call, &mut count).expect("a count");
    }

    /// Whether the server rings within so many seconds.
    pub fn bell_rings(&self, seconds: i64) -> bool {
        let mut polled = [PollFd::new(&self.call, PollFlags::IN)];
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        loop {
            match poll(&mut polled, Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => return polled.expect("a poll") > 0,
            }
        }
    }

    /// The status byte of a slot's request.
    pub fn status(&self, front: &FrontEnd, slot: u16) -> u8 {
        front.peek(self.status_at(slot), 1)[0]
    }

    /// Carries a request out and returns its status and the data in its slot.
    pub fn carry_out(
        &mut self,
        front: &FrontEnd,
        kind: u32,
        sector: u64,
        data: &[u8],
    ) -> (u8, Vec<u8>) {
        front.poke(self.data_at(0), data);
        let bytes = u32::try_from(data.len()).expect("fits a slot");
        self.submit(front, 0, kind, sector, bytes);
        assert_eq!(self.wait_for_answer(front).0, 0);
        (self.status(front, 0), front.peek(self.data_at(0), data.len()))
    }
}
