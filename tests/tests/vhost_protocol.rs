//! vhost-user, message by message: what front ends compare byte by byte, and what they may not
//! do.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use bough_tests::vhost::{Ask, Driver, FLUSH, FrontEnd, Rig, features, protocol, request};

fn u64_body(value: u64) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

#[test]
fn every_extension_that_known_front_ends_need_is_offered() {
    let rig = Rig::new(4, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL | features::EVENT_IDX | features::INDIRECT, protocol::ALL);
    assert_eq!(front.ask(request::GET_QUEUE_NUM, Ask::Reply, &[], &[]).number(), 4);
    assert!(front.ask(request::GET_MAX_MEM_SLOTS, Ask::Reply, &[], &[]).number() >= 32);
}

#[test]
fn a_request_with_need_reply_gets_exactly_one_answer() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    // GET_ requests get their reply and no acknowledgement besides; the others the acknowledgement.
    front.ask(request::GET_FEATURES, Ask::Reply, &[], &[]);
    front.must(request::SET_OWNER, &[], &[]);
    front.ask(request::GET_PROTOCOL_FEATURES, Ask::Reply, &[], &[]);
    front.must(request::SET_FEATURES, &u64_body(features::USUAL), &[]);
}

#[test]
fn the_configuration_space_may_be_read_whole_and_in_part() {
    let rig = Rig::new(2, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    let config = front.config(60); // what virtio-driver asks
    assert_eq!(config[0..8], (1u64 << 11).to_le_bytes(), "1 MiB in sectors");
    assert_eq!(config[20..24], 512u32.to_le_bytes());
    assert_eq!(config[24], 3, "4 KiB physical blocks");
    assert_eq!(config[34..36], [2, 0], "queues");
    assert_eq!(front.config(256)[..60], config, "a newer front end asks for more");
}

#[test]
fn a_read_only_export_says_so() {
    let rig = Rig::new(1, true);
    let front = rig.front_end(1);
    let offered = front.ask(request::GET_FEATURES, Ask::Nothing, &[], &[]).number();
    assert_ne!(offered & features::RO, 0);
    assert_eq!(offered & (features::DISCARD | features::WRITE_ZEROES), 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    let packed = features::USUAL | 1 << 34;
    assert_ne!(front.acknowledged(request::SET_FEATURES, &u64_body(packed), &[]), 0);
    assert!(front.is_cut_off());
}

#[test]
fn a_resize_is_told_over_the_back_channel() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    front.must(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]);
    rig.disk.resize(2 << 20);
    let mut message = [0; 12];
    ours.read_exact(&mut message).unwrap();
    let words: Vec<u32> =
        message.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [2, 1, 0], "CONFIG_CHANGE_MSG, version 1, no body, no reply wanted");
    assert_eq!(front.config(8), (1u64 << 12).to_le_bytes(), "and the new size is there");
}

#[test]
fn a_resize_without_a_back_channel_is_seen_when_asked_for() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    rig.disk.resize(3 << 20);
    assert_eq!(front.config(8), (3u64 << 11).to_le_bytes());
}

#[test]
fn memory_by_table_serves_as_well_as_by_slots() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    front.share_table();
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
    // The same table again, as QEMU sends when memory is plugged in: the ring goes on.
    front.share_table();
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
}

#[test]
fn a_stopped_queue_starts_again_where_it_was() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    for _ in 0..3 {
        assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
    }
    assert_eq!(front.stop(0), 3);
    driver.submit(&front, 1, FLUSH, 0, 0);
    driver.describe(&front, 3);
    driver.start(&front);
    assert_eq!(driver.wait_for_answer(&front).0, 1);
}

#[test]
fn a_queue_cannot_be_moved_while_it_runs() {
    let rig = Rig::new(1, false);
    for (what, name) in [(request::SET_VRING_NUM, "size"), (request::SET_VRING_BASE, "base")] {
        let (front, _driver) = rig.running(features::USUAL);
        front.try_set(what, 0, 8);
        assert!(front.is_cut_off(), "{name} was changed under a running queue");
    }
}

#[test]
fn a_second_writer_is_refused_while_the_first_goes_on() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    let second = rig.front_end(1);
    assert!(second.is_cut_off());
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
    assert_eq!(rig.export().clients().len(), 1);
}

#[test]
fn readers_do_not_disturb_each_other() {
    let rig = Rig::new(1, true);
    let wanted = features::VERSION_1 | features::PROTOCOL;
    let (one, mut first) = rig.running(wanted);
    let (two, mut second) = rig.running(wanted);
    assert_eq!(first.carry_out(&one, FLUSH, 0, &[]).0, 0);
    assert_eq!(second.carry_out(&two, FLUSH, 0, &[]).0, 0);
    assert_eq!(rig.export().clients().len(), 2);
}

#[test]
fn front_ends_come_and_go() {
    let rig = Rig::new(1, false);
    for _ in 0..5 {
        let (front, mut driver) = rig.running(features::USUAL);
        assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
    }
}

#[test]
fn a_withdrawn_export_cuts_its_front_ends_off_and_removes_its_socket() {
    let mut rig = Rig::new(1, false);
    let (front, _driver) = rig.running(features::USUAL);
    rig.withdraw();
    assert!(front.is_cut_off());
    assert!(!rig.path.exists());
}

#[test]
fn an_old_front_end_without_protocol_features_is_served() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    let wanted = features::VERSION_1 | features::FLUSH;
    front.send(request::SET_OWNER, Ask::Nothing, &[], &[]);
    front.ask(request::GET_FEATURES, Ask::Nothing, &[], &[]);
    front.send(request::SET_FEATURES, Ask::Nothing, &u64_body(wanted), &[]);
    let memory = front.memory();
    let table: Vec<u8> = [1u64, FrontEnd::guest(0), Driver::memory_bytes(1), FrontEnd::user(0), 0]
        .into_iter()
        .flat_map(u64::to_ne_bytes)
        .collect();
    let pair = |value: u32| [0u32.to_ne_bytes(), value.to_ne_bytes()].concat();
    let at = FrontEnd::user;
    front.send(request::SET_MEM_TABLE, Ask::Nothing, &table, &[memory.as_raw_fd()]);
    front.send(request::SET_VRING_NUM, Ask::Nothing, &pair(16), &[]);
    front.send(request::SET_VRING_BASE, Ask::Nothing, &pair(0), &[]);
    let body = FrontEnd::ring_body(0, at(0), at(0x1000), at(0x2000));
    front.send(request::SET_VRING_ADDR, Ask::Nothing, &body, &[]);
    let mut driver = Driver::new(0);
    // No SET_VRING_ENABLE: such a queue runs as soon as it can be kicked.
    let kick = [driver.kick.as_raw_fd()];
    front.send(request::SET_VRING_KICK, Ask::Nothing, &u64_body(0), &kick);
    let call = [driver.call.as_raw_fd()];
    front.send(request::SET_VRING_CALL, Ask::Nothing, &u64_body(0), &call);
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
}
