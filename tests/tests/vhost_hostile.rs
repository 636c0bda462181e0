//! Front ends and guests that break every rule. Each is cut off, with an error that says why;
//! another guest, on the same reactor, notices nothing.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use bough_tests::vhost::{
    Ask, Driver, FLUSH, FrontEnd, INDIRECT, NEXT, READ, Rig, WRITE, WRITEABLE, descriptor,
    features, protocol, request,
};
use proptest::prelude::*;

/// A hostile guest's disk beside an innocent one's.
struct Scene {
    rig: Rig,
    innocent: (FrontEnd, Driver),
    _innocent_rig: Rig,
}

impl Scene {
    fn new() -> Self {
        let rig = Rig::new(2, false);
        let innocent_rig = Rig::beside(&rig, 1, false);
        let innocent = innocent_rig.running(features::USUAL);
        Self { rig, innocent, _innocent_rig: innocent_rig }
    }

    fn negotiated(&self) -> FrontEnd {
        let front = self.rig.front_end(1);
        front.negotiate(features::USUAL, protocol::ALL);
        front
    }

    fn running(&self) -> (FrontEnd, Driver) {
        self.rig.running(features::USUAL | features::INDIRECT)
    }

    /// The front end is cut off for this reason; everybody else is served.
    fn ends(&mut self, front: &FrontEnd, reason: &str) {
        assert!(front.is_cut_off());
        // A newcomer is let in only when the hostile one is gone for good, its fault noted.
        let (next, mut driver) = self.rig.running(features::USUAL);
        assert_eq!(driver.carry_out(&next, FLUSH, 0, &[]).0, 0);
        let fault = self.rig.export().last_fault().expect("a fault").to_string();
        assert!(fault.contains(reason), "'{fault}' does not say '{reason}'");
        let (front, driver) = &mut self.innocent;
        assert_eq!(driver.carry_out(front, FLUSH, 0, &[]).0, 0);
    }
}

fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
    [request, flags, size].into_iter().flat_map(u32::to_ne_bytes).collect()
}

#[test]
fn nonsense_messages_end_the_connection() {
    let mut scene = Scene::new();
    for (message, reason) in [
        (header(999, 1, 0), "protocol"),
        (header(1, 0, 0), "protocol"),
        (header(1, 1, u32::MAX), "protocol"),
        (header(request::SET_VRING_NUM, 1, 0), "protocol"),
        (header(1, 1 | 4, 0), "protocol"),
        (vec![0xff; 64], "protocol"),
    ] {
        let front = scene.negotiated();
        (&front.socket).write_all(&message).unwrap();
        scene.ends(&front, reason);
    }
}

#[test]
fn a_front_end_that_leaves_in_the_middle_of_a_message_is_forgotten() {
    let mut scene = Scene::new();
    let (front, _driver) = scene.running();
    (&front.socket).write_all(&header(request::SET_VRING_NUM, 1, 8)[..7]).unwrap();
    drop(front);
    let front = scene.negotiated();
    (&front.socket).write_all(&header(999, 1, 0)).unwrap();
    scene.ends(&front, "protocol");
}

#[test]
fn too_many_descriptors_with_a_message_are_survived() {
    let mut scene = Scene::new();
    let front = scene.negotiated();
    let file = front.memory();
    let files = vec![file.as_raw_fd(); 100];
    front.send(request::ADD_MEM_REG, Ask::Reply, &FrontEnd::region(0, 4096), &files);
    scene.ends(&front, "");
}

#[test]
fn queues_that_do_not_exist_cannot_be_touched() {
    let mut scene = Scene::new();
    for what in [
        request::SET_VRING_NUM,
        request::SET_VRING_BASE,
        request::GET_VRING_BASE,
        request::SET_VRING_ENABLE,
    ] {
        let front = scene.negotiated();
        front.try_set(what, 1000, 1);
        scene.ends(&front, "queue 1000 was named where there are 2");
    }
    let front = scene.negotiated();
    let driver = Driver::new(0);
    let kick = [driver.kick.as_raw_fd()];
    front.send(request::SET_VRING_KICK, Ask::Reply, &255u64.to_ne_bytes(), &kick);
    scene.ends(&front, "queue 255");
}

#[test]
fn impossible_queue_sizes_are_refused() {
    let mut scene = Scene::new();
    for size in [0, 3, 65536, u32::MAX] {
        let front = scene.negotiated();
        front.try_set(request::SET_VRING_NUM, 0, size);
        scene.ends(&front, &format!("impossible size of {size}"));
    }
}

#[test]
fn a_queue_must_be_described_before_it_starts() {
    let mut scene = Scene::new();
    let front = scene.negotiated();
    let driver = Driver::new(0);
    driver.start(&front);
    front.try_set(request::SET_VRING_ENABLE, 0, 1);
    scene.ends(&front, "before its ring was described");
}

#[test]
fn a_kick_that_is_no_eventfd_is_refused() {
    let mut scene = Scene::new();
    for path in ["/dev/zero", "/", "/proc/self/exe"] {
        let front = scene.negotiated();
        let file = OwnedFd::from(File::open(path).unwrap());
        let files = [file.as_raw_fd()];
        front.send(request::SET_VRING_KICK, Ask::Reply, &0u64.to_ne_bytes(), &files);
        scene.ends(&front, "other than an eventfd");
    }
    let front = scene.negotiated();
    front.send(request::SET_VRING_KICK, Ask::Reply, &0x100u64.to_ne_bytes(), &[]);
    scene.ends(&front, "polled rings are not supported");
}

#[test]
fn rings_outside_the_shared_memory_are_refused() {
    let mut scene = Scene::new();
    let end = Driver::memory_bytes(1);
    for (descriptors, available, used, reason) in [
        (end - 128, 0x1000, 0x2000, "outside the shared memory"),
        (0, end - 16, 0x2000, "outside the shared memory"),
        (0, 0x1000, end - 64, "outside the shared memory"),
        (end + 0x1000, 0x1000, 0x2000, "lies in no memory region"),
    ] {
        let front = scene.negotiated();
        front.share(0, end);
        front.set(request::SET_VRING_NUM, 0, 16);
        let at = FrontEnd::user;
        let body = FrontEnd::ring_body(0, at(descriptors), at(available), at(used));
        front.must(request::SET_VRING_ADDR, &body, &[]);
        Driver::new(0).start(&front);
        front.try_set(request::SET_VRING_ENABLE, 0, 1);
        scene.ends(&front, reason);
    }
}

#[test]
fn impossible_memory_regions_are_refused() {
    let mut scene = Scene::new();
    let bytes = Driver::memory_bytes(1);
    for (offset, length, reason) in [
        (0, 0, "impossible memory region"),
        (0, bytes + 1, "backed by a file of"),
        (bytes, 4096, "backed by a file of"),
        (0, u64::MAX, "impossible memory region"),
    ] {
        let front = scene.negotiated();
        let memory = front.memory();
        let region = FrontEnd::region(offset, length);
        front.send(request::ADD_MEM_REG, Ask::Reply, &region, &[memory.as_raw_fd()]);
        scene.ends(&front, reason);
    }
    let front = scene.negotiated();
    front.share(0, bytes);
    let memory = front.memory();
    let region = FrontEnd::region(4096, 4096);
    front.send(request::ADD_MEM_REG, Ask::Reply, &region, &[memory.as_raw_fd()]);
    scene.ends(&front, "overlaps another");
    let front = scene.negotiated();
    front.send(request::REM_MEM_REG, Ask::Reply, &FrontEnd::region(0, 4096), &[]);
    scene.ends(&front, "to remove");
}

#[test]
fn more_regions_than_offered_are_refused() {
    let mut scene = Scene::new();
    let front = FrontEnd::connect(&scene.rig.path, 600 * 4096);
    front.negotiate(features::USUAL, protocol::ALL);
    for index in 0..509 {
        front.share(index * 4096, 4096);
    }
    let memory = front.memory();
    let region = FrontEnd::region(550 * 4096, 4096);
    front.send(request::ADD_MEM_REG, Ask::Reply, &region, &[memory.as_raw_fd()]);
    scene.ends(&front, "more memory regions");
}

#[test]
fn broken_chains_end_the_connection() {
    let mut scene = Scene::new();
    let guest = FrontEnd::guest;
    let beyond = guest(Driver::memory_bytes(1));
    for (chain, reason) in [
        (descriptor(guest(0x3000), 16, NEXT, 0), "does not end"),
        (descriptor(guest(0x3000), 16, NEXT, 16), "descriptor 16 is beyond its table of 16"),
        (descriptor(guest(0x3000), 16, 0, 0), "no status byte"),
        (descriptor(guest(0x3000), 1, WRITEABLE, 0), "header of 0 bytes"),
        (descriptor(beyond, 16, NEXT, 1), "outside the guest's memory"),
        (descriptor(0, 16, NEXT, 1), "outside the guest's memory"),
        (descriptor(u64::MAX, 16, NEXT, 1), "outside the guest's memory"),
        (descriptor(guest(0x3000), u32::MAX, NEXT, 1), "outside the guest's memory"),
        (descriptor(guest(0x3000), 17, INDIRECT, 0), "indirect descriptor table has 17 bytes"),
        (descriptor(beyond, 32, INDIRECT, 0), "outside the guest's memory"),
        (descriptor(guest(0), 16, INDIRECT, 0), "names another one"),
    ] {
        let (front, mut driver) = scene.running();
        driver.put_descriptors(&front, 0, &chain);
        driver.offer(&front, 0);
        driver.ring();
        scene.ends(&front, reason);
    }
}

#[test]
fn rings_that_count_wrong_end_the_connection() {
    let mut scene = Scene::new();
    let (front, driver) = scene.running();
    driver.set_available_index(&front, 17);
    driver.ring();
    scene.ends(&front, "invalid available ring index");

    let (front, mut driver) = scene.running();
    driver.offer_head(&front, 16);
    driver.ring();
    scene.ends(&front, "beyond its table");
}

#[test]
fn a_chain_offered_twice_before_its_answer_ends_the_connection() {
    let mut scene = Scene::new();
    scene.rig.disk.hold(true);
    let (front, mut driver) = scene.running();
    driver.prepare(&front, 0, FLUSH, 0, 0);
    driver.offer(&front, 0);
    driver.offer(&front, 0);
    driver.ring();
    assert!(front.is_cut_off());
    scene.rig.disk.hold(false);
    scene.ends(&front, "descriptor 0 was made available while it is in use");
}

#[test]
fn memory_cut_short_under_use_ends_the_connection_and_not_the_server() {
    let mut scene = Scene::new();
    for kind in [READ, WRITE] {
        let (front, mut driver) = scene.running();
        scene.rig.disk.hold(true);
        let arrived = scene.rig.disk.arrivals();
        driver.submit(&front, 0, kind, 0, 4096);
        scene.rig.disk.wait_for_arrivals(arrived + 1);
        front.memory().set_len(0).unwrap();
        scene.rig.disk.hold(false);
        scene.ends(&front, "cut its shared memory short");
    }
}

#[test]
fn a_ring_cut_short_while_it_rests_ends_the_connection() {
    let mut scene = Scene::new();
    let (front, driver) = scene.running();
    front.memory().set_len(0).unwrap();
    driver.ring();
    scene.ends(&front, "cut its shared memory short");
}

#[test]
fn an_in_flight_region_that_is_not_ours_is_refused() {
    let mut scene = Scene::new();
    let description = |bytes: u64, offset: u64, queues: u16, size: u16| {
        let mut body = [bytes.to_ne_bytes(), offset.to_ne_bytes()].concat();
        body.extend(queues.to_ne_bytes());
        body.extend(size.to_ne_bytes());
        body.extend([0; 4]);
        body
    };
    for (body, reason) in [
        (description(64, 0, 1, 16), "in-flight region has 64 bytes"),
        (description(1 << 40, 0, 1, 16), ""), // long enough, so its file decides
        (description(4096, 1 << 40, 1, 16), "backed by a file of"),
        (description(4096, 0, 3, 16), "no place for"),
        (description(4096, 0, 0, 16), "protocol"),
        (description(4096, 0, 1, 0), "protocol"),
        (description(4096, 1, 1, 16), "cannot be mapped"),
    ] {
        let front = scene.negotiated();
        let memory = front.memory();
        let file = [memory.as_raw_fd()];
        front.send(request::SET_INFLIGHT_FD, Ask::Reply, &body, &file);
        if reason.is_empty() {
            drop(front);
        } else {
            scene.ends(&front, reason);
        }
    }
}

#[test]
fn noise_in_the_in_flight_region_cannot_hurt() {
    let mut scene = Scene::new();
    let front = scene.negotiated();
    front.share(0, Driver::memory_bytes(1));
    let (description, file) = front.new_inflight(1, 16);
    let mut noise = vec![0xa5; 16 + 16 * 16];
    noise[8..12].copy_from_slice(&[1, 0, 0, 4]);
    std::os::unix::fs::FileExt::write_all_at(&file, &noise, 0).unwrap();
    front.set_inflight(&description, &file);
    let driver = Driver::new(0);
    driver.describe(&front, 0);
    driver.start(&front);
    front.try_set(request::SET_VRING_ENABLE, 0, 1);
    // Of its 1024 entries sixteen name chains, all of zeros.
    scene.ends(&front, "header of 0 bytes");
}

#[test]
fn a_bell_that_its_owner_has_filled_stops_nobody_else() {
    let mut scene = Scene::new();
    let (front, mut driver) = scene.running();
    driver.wait_for_bell();
    rustix::io::write(&driver.call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    driver.submit(&front, 0, FLUSH, 0, 0);
    while driver.answers_waiting(&front) == 0 {
        std::thread::yield_now();
    }
    // The reactor, which waits on it, is freed, and serves whoever else it has.
    scene.ends(&front, "call eventfd was full");
}

#[test]
fn a_front_end_that_dies_with_requests_under_way_blocks_its_successor_only_until_they_end() {
    let mut scene = Scene::new();
    let (front, mut driver) = scene.running();
    scene.rig.disk.hold(true);
    let arrived = scene.rig.disk.arrivals();
    front.poke(driver.data_at(0), &[0x55; 512]);
    driver.submit(&front, 0, WRITE, 0, 512);
    scene.rig.disk.wait_for_arrivals(arrived + 1);
    drop(front);
    let waiting = scene.rig.front_end(1);
    scene.rig.disk.hold(false);
    waiting.negotiate(features::USUAL, protocol::ALL);
    assert_eq!(scene.rig.disk.bytes(0, 512), [0x55; 512], "ended before the next was let in");
    let (front, driver) = &mut scene.innocent;
    assert_eq!(driver.carry_out(front, FLUSH, 0, &[]).0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever arrives on the socket, the server lives and serves the next front end.
    #[test]
    fn arbitrary_messages_never_end_the_server(
        messages in proptest::collection::vec(
            (0u32..46, 0u32..16, proptest::collection::vec(any::<u8>(), 0..72)), 1..12),
    ) {
        static RIG: std::sync::LazyLock<Rig> = std::sync::LazyLock::new(|| Rig::new(2, false));
        let front = RIG.front_end(1);
        front.negotiate(features::USUAL, protocol::ALL);
        let memory = front.memory();
        for (request, flags, body) in messages {
            let size = u32::try_from(body.len()).unwrap();
            let message = [header(request, flags | 1, size), body].concat();
            use vmm_sys_util::sock_ctrl_msg::ScmSocket;
            let with_file = flags & 2 != 0;
            let files: Vec<_> = with_file.then(|| memory.as_raw_fd()).into_iter().collect();
            let _ = front.socket.send_with_fds(&[&message[..]], &files);
        }
        front.socket.shutdown(std::net::Shutdown::Write).unwrap();
        prop_assert!(front.is_cut_off());
        let (front, mut driver) = RIG.running(features::USUAL);
        prop_assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
    }
}
