//! A driver that is not ours: the crate `virtio-driver`, which is under libblkio.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use bough_tests::vhost::Rig;
use memmap2::MmapMut;
use proptest::prelude::*;
use virtio_driver::{
    VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags,
};

const DISK_BYTES: usize = 1 << 20;
const QUEUE_SIZE: u16 = 32;

/// Memory shared with the server, of a length that is no multiple of a page.
struct Buffers {
    file: File,
    map: MmapMut,
}

impl Buffers {
    fn new(bytes: usize) -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("buffers", flags).unwrap());
        file.set_len(u64::try_from(bytes).unwrap()).unwrap();
        // SAFETY: nobody truncates the file, which is ours; that the server writes there is what
        // the test is about, and it is read only when the server is done.
        let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
        Self { file, map }
    }
}

struct Client<'a> {
    transport: Box<VirtioBlkTransport>,
    queues: Vec<VirtioBlkQueue<'a, usize>>,
    buffers: Buffers,
}

fn wanted(event_index: bool) -> u64 {
    let mut virtio = VirtioFeatureFlags::VERSION_1;
    virtio.set(VirtioFeatureFlags::RING_EVENT_IDX, event_index);
    let block = VirtioBlkFeatureFlags::FLUSH
        | VirtioBlkFeatureFlags::MQ
        | VirtioBlkFeatureFlags::DISCARD
        | VirtioBlkFeatureFlags::WRITE_ZEROES
        | VirtioBlkFeatureFlags::BLK_SIZE;
    virtio.bits() | block.bits()
}

impl Client<'_> {
    fn connect(rig: &Rig, queues: usize, event_index: bool) -> Self {
        let path = rig.path.to_str().unwrap();
        let transport = VhostUser::new(path, wanted(event_index)).unwrap();
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let mut queues =
            VirtioBlkQueue::setup_queues(transport.as_mut(), queues, QUEUE_SIZE).unwrap();
        // The rings run by now: the buffers are added under them.
        for queue in &mut queues {
            queue.set_used_notif_enabled(true);
        }
        let buffers = Buffers::new(DISK_BYTES + 123);
        let (at, length) = (buffers.map.as_ptr().addr(), buffers.map.len());
        transport.map_mem_region(at, length, buffers.file.as_raw_fd(), 0).unwrap();
        Self { transport, queues, buffers }
    }

    /// Waits, blocked on the completion eventfd, for `count` answers.
    fn wait(&mut self, queue: usize, count: usize) -> Vec<(usize, i32)> {
        let bell = self.transport.get_completion_fd(queue);
        let mut answers = Vec::new();
        while answers.len() < count {
            let found = answers.len();
            answers.extend(self.queues[queue].completions().map(|c| (c.context, c.ret)));
            if answers.len() == found {
                bell.read().unwrap(); // blocks: the server left the eventfd as it was
            }
        }
        answers
    }

    fn notify(&mut self, queue: usize) {
        // The crate leaves out the fence that has to come before looking at the server's wishes.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if self.queues[queue].avail_notif_needed() {
            self.transport.get_submission_notifier(queue).notify().unwrap();
        }
    }

    fn write(&mut self, queue: usize, offset: u64, bytes: &[u8], id: usize) {
        let at = usize::try_from(offset).unwrap();
        self.buffers.map[at..at + bytes.len()].copy_from_slice(bytes);
        let data = &self.buffers.map[at..at + bytes.len()];
        self.queues[queue].write(offset, data, id).unwrap();
    }

    fn read(&mut self, queue: usize, offset: u64, length: usize, id: usize) {
        let at = usize::try_from(offset).unwrap();
        let data = &mut self.buffers.map[at..at + length];
        self.queues[queue].read(offset, data, id).unwrap();
    }
}

#[test]
fn the_driver_sees_the_disk_as_offered() {
    let rig = Rig::new(3, false);
    let path = rig.path.to_str().unwrap();
    let transport: Box<VirtioBlkTransport> = Box::new(VhostUser::new(path, wanted(true)).unwrap());
    let config = transport.get_config().unwrap();
    assert_eq!(u64::from(config.capacity), 2048);
    assert_eq!(u16::from(config.num_queues), 3);
    assert_eq!(u32::from(config.blk_size), 512);
    assert_eq!(transport.max_queues(), Some(3));
    assert!(transport.max_mem_regions() >= 2);
}

#[test]
fn deep_queues_keep_every_sector_apart() {
    for event_index in [false, true] {
        let rig = Rig::new(2, false);
        let mut client = Client::connect(&rig, 2, event_index);
        let depth = 8; // three descriptors each
        for round in 0..16u64 {
            for queue in 0..2 {
                for slot in 0..depth {
                    let number = (round * 2 + u64::try_from(queue).unwrap()) * 8 + slot;
                    let mark = u8::try_from(number).unwrap();
                    let id = usize::try_from(slot).unwrap();
                    client.write(queue, number * 512, &[mark; 512], id);
                }
                client.notify(queue);
            }
            for queue in 0..2 {
                let answers = client.wait(queue, usize::try_from(depth).unwrap());
                assert!(answers.iter().all(|(_, result)| *result == 0));
            }
        }
        for number in 0..=255u8 {
            assert_eq!(rig.disk.bytes(usize::from(number) * 512, 512), [number; 512]);
        }
    }
}

#[test]
fn the_driver_may_vanish_and_come_back() {
    let rig = Rig::new(1, false);
    for round in 0..4 {
        let mut client = Client::connect(&rig, 1, true);
        client.write(0, 4096, &[round; 512], 0);
        client.notify(0);
        // Gone without a word, with or without an answer.
        if round % 2 == 0 {
            client.wait(0, 1);
        }
    }
    let mut client = Client::connect(&rig, 1, true);
    client.read(0, 0, 512, 9);
    client.notify(0);
    assert_eq!(client.wait(0, 1), [(9, 0)]);
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, usize, u8),
    Discard(usize, usize),
    WriteZeroes(usize, usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0usize..2000, 1usize..48);
    prop_oneof![
        range().prop_map(|(at, count)| Step::Read(at, count)),
        (range(), any::<u8>()).prop_map(|((at, count), mark)| Step::Write(at, count, mark)),
        range().prop_map(|(at, count)| Step::Discard(at, count)),
        range().prop_map(|(at, count)| Step::WriteZeroes(at, count)),
        Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// One request after the other, the disk is a plain array of bytes.
    #[test]
    fn the_disk_is_an_array_of_bytes(
        steps in proptest::collection::vec(step(), 1..60),
        event_index in any::<bool>(),
    ) {
        let rig = Rig::new(1, false);
        let mut client = Client::connect(&rig, 1, event_index);
        let mut model = rig.disk.bytes(0, DISK_BYTES);
        for step in steps {
            let bytes = |count: usize| u64::try_from(count * 512).unwrap();
            match step {
                Step::Read(at, count) => client.read(0, bytes(at), count * 512, 0),
                Step::Write(at, count, mark) => {
                    client.write(0, bytes(at), &vec![mark; count * 512], 0);
                    model[at * 512..(at + count) * 512].fill(mark);
                }
                Step::Discard(at, count) => {
                    client.queues[0].discard(bytes(at), bytes(count), 0).unwrap();
                    model[at * 512..(at + count) * 512].fill(0);
                }
                Step::WriteZeroes(at, count) => {
                    client.queues[0].write_zeroes(bytes(at), bytes(count), true, 0).unwrap();
                    model[at * 512..(at + count) * 512].fill(0);
                }
                Step::Flush => client.queues[0].flush(0).unwrap(),
            }
            client.notify(0);
            prop_assert_eq!(client.wait(0, 1), [(0, 0)]);
            if let Step::Read(at, count) = step {
                let range = at * 512..(at + count) * 512;
                prop_assert_eq!(&client.buffers.map[range.clone()], &model[range]);
            }
        }
        prop_assert!(rig.disk.bytes(0, DISK_BYTES) == model);
    }
}
