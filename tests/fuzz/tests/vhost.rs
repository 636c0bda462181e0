//! Front ends and guests that say whatever they like, to the real back end on a real socket.
//!
//! A hostile one is served or cut off; its connection comes to an end, and a guest beside it on the
//! same reactor is answered throughout.

use std::cell::RefCell;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use bough_fuzz::{Script, Trial, bolero};
use bough_tests::vhost::{
    DISCARD, Driver, FLUSH, FrontEnd, GET_ID, INDIRECT, NEXT, READ, Rig, WRITE, WRITE_ZEROES,
    WRITEABLE, descriptor, features, protocol, request,
};
use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// An input's decisions.
const INPUT_MAX_BYTES: usize = 1024;
/// What QEMU 7.2 said while SeaBIOS found its disk. Each message is its size in 2 bytes,
/// little-endian, and its bytes; descriptors are added here.
const SESSION: &[u8] = include_bytes!("../seeds/qemu-7.2.session");
/// The guest memory that QEMU had.
const SESSION_MEMORY_BYTES: u64 = 64 << 20;
/// Executions that one stage serves: what its disk remembers of them is bounded thereby.
const STAGE_EXECUTIONS: u32 = 2000;

/// A hostile guest's disk beside an innocent one's.
struct Stage {
    rig: Rig,
    innocent: (FrontEnd, Driver),
    _innocent_rig: Rig,
    executions: u32,
}

impl Stage {
    fn new() -> Self {
        let rig = Rig::new(2, false);
        let innocent_rig = Rig::beside(&rig, 1, false);
        let innocent = innocent_rig.running(features::USUAL);
        Self { rig, innocent, _innocent_rig: innocent_rig, executions: 0 }
    }

    /// The hostile one has said everything: the server notices, and serves the others.
    fn end(&mut self, front: FrontEnd) {
        let _ = front.socket.shutdown(Shutdown::Write);
        assert!(front.is_cut_off());
        let (front, driver) = &mut self.innocent;
        assert_eq!(driver.carry_out(front, FLUSH, 0, &[]).0, 0);
        self.executions += 1;
    }
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

fn on_stage(play: impl FnOnce(&Stage) -> FrontEnd) {
    STAGE.with_borrow_mut(|stage| {
        if stage.as_ref().is_some_and(|stage| stage.executions >= STAGE_EXECUTIONS) {
            *stage = None;
        }
        // One that an execution failed on is not used again.
        let mut on = stage.take().unwrap_or_else(Stage::new);
        let front = play(&on);
        on.end(front);
        *stage = Some(on);
    });
}

fn messages(session: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut rest) = (Vec::new(), session);
    while let Some((size, tail)) = rest.split_first_chunk() {
        let (message, tail) = tail.split_at(usize::from(u16::from_le_bytes(*size)));
        all.push(message.to_vec());
        rest = tail;
    }
    all
}

#[test]
fn session() {
    let trial = Trial::new("session");
    bolero::check!().with_max_len(INPUT_MAX_BYTES).for_each(|input| {
        trial.run(input, |input| on_stage(|stage| hold_session(stage, &mut Script::new(input))));
    });
}

/// Says what a real front end said, with changes, and plays the guest in between.
fn hold_session(stage: &Stage, script: &mut Script<'_>) -> FrontEnd {
    let front = FrontEnd::connect(&stage.rig.path, SESSION_MEMORY_BYTES);
    let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for original in &messages(SESSION) {
        let mut message = original.clone();
        let mut times = 1;
        if script.chance(6) {
            match script.below(4) {
                0 => times = script.below(4),
                1 => script.edit_any(&mut message),
                // The header stays: it is the body that is looked into.
                _ if message.len() > 12 => script.edit(&mut message[12..]),
                _ => script.edit(&mut message),
            }
        }
        for _ in 0..times {
            send(&front, &message, &bell, script);
        }
        if script.chance(16) {
            scribble(&front, script);
            let _ = rustix::io::write(&bell, &1_u64.to_ne_bytes());
        }
    }
    front
}

/// Sends bytes with the descriptors that such a message has, or with others.
fn send(front: &FrontEnd, message: &[u8], bell: &OwnedFd, script: &mut Script<'_>) {
    let memory = front.memory();
    let named = message.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
    let mut files: Vec<RawFd> = match named {
        request::SET_MEM_TABLE | request::ADD_MEM_REG | request::SET_INFLIGHT_FD => {
            vec![memory.as_raw_fd()]
        }
        request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
            vec![bell.as_raw_fd()]
        }
        request::SET_BACKEND_REQ_FD => vec![front.socket.as_raw_fd()],
        _ => Vec::new(),
    };
    if script.chance(24) {
        files = vec![memory.as_raw_fd(); script.below(10)];
    }
    // One that was cut off says the rest to nobody.
    let _ = front.socket.send_with_fds(&[message], &files);
}

/// Changes guest memory anywhere where rings are.
fn scribble(front: &FrontEnd, script: &mut Script<'_>) {
    let at = *script.pick(&[0, 0x1000, 0x2000, 0x3000]);
    let mut bytes = front.peek(at, 256);
    script.edit(&mut bytes);
    front.poke(at, &bytes);
}

#[test]
fn rings() {
    let trial = Trial::new("rings");
    bolero::check!().with_max_len(INPUT_MAX_BYTES).for_each(|input| {
        trial.run(input, |input| on_stage(|stage| offer_chains(stage, &mut Script::new(input))));
    });
}

/// Offers chains of requests as a driver does, changed in any part of them.
fn offer_chains(stage: &Stage, script: &mut Script<'_>) -> FrontEnd {
    let front = stage.rig.front_end(1);
    front.negotiate(
        features::USUAL
            | features::INDIRECT
            | if script.chance(2) { features::EVENT_IDX } else { 0 },
        protocol::ALL,
    );
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    for _ in 0..=script.below(12) {
        let slot = u16::from(script.byte() % 5);
        let kind = *script.pick(&[READ, WRITE, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 2]);
        let sector = if script.chance(6) { script.number() } else { u64::from(script.byte()) };
        let bytes = *script.pick(&[512, 4096, 8192, 16, 20, 0, 513, 1 << 20, u32::MAX]);
        driver.prepare(&front, slot, kind, sector, bytes);
        match script.below(6) {
            0 => {
                let mut words = front.peek(u64::from(slot) * 48, 48);
                script.edit(&mut words);
                front.poke(u64::from(slot) * 48, &words);
            }
            1 => put_table(&front, &driver, slot, script),
            2 => {
                let at = driver.data_at(slot);
                let mut segment = front.peek(at - 0x100, 0x140);
                script.edit(&mut segment);
                front.poke(at - 0x100, &segment);
            }
            _ => {}
        }
        if script.chance(6) {
            driver.offer_head(&front, u16::from(script.byte()));
        } else {
            driver.offer(&front, slot);
        }
        match script.below(8) {
            0 => scribble(&front, script),
            1 => driver.set_available_index(&front, u16::from(script.byte()) * 257),
            2 => drop(front.peek(0, 16)),
            _ => driver.ring(),
        }
    }
    driver.ring();
    front
}

/// A table of descriptors instead of a chain, as right or wrong as the script wants.
fn put_table(front: &FrontEnd, driver: &Driver, slot: u16, script: &mut Script<'_>) {
    let at = driver.data_at(slot) + 0x200;
    let first = usize::from(slot) * 48;
    let chain = front.peek(u64::try_from(first).unwrap(), 48);
    let mut table: Vec<u8> = Vec::new();
    for (next, words) in (1_u16..).zip(chain.chunks_exact(16)) {
        let flags = u16::from_le_bytes([words[12], words[13]]) & (NEXT | WRITEABLE);
        let address = u64::from_le_bytes(words[..8].try_into().unwrap());
        let bytes = u32::from_le_bytes(words[8..12].try_into().unwrap());
        table.extend(descriptor(address, bytes, flags, next));
    }
    if script.chance(2) {
        script.edit(&mut table);
    }
    front.poke(at, &table);
    let bytes = if script.chance(6) { script.number() } else { 48 };
    let bytes = u32::try_from(bytes & 0xffff_ffff).unwrap();
    let head = descriptor(FrontEnd::guest(at), bytes, INDIRECT, 0);
    driver.put_descriptors(front, slot * 3, &head);
}
