//! The driver both servers are measured with: one queue of `virtio-driver`, asleep while it waits.
//!
//! Knows nothing of who serves. Each slot of the queue has a buffer of its own, so a request never
//! shares memory with another.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use memmap2::MmapMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use virtio_driver::{
    VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags,
};

use crate::dice::Dice;

/// Descriptors of the queue; a request takes three.
const QUEUE_SIZE: u16 = 256;
/// Memory for requests' data.
const BUFFER_BYTES: usize = 32 << 20;
/// Answers to flushes carry this besides their slot.
const FLUSH: usize = 1 << 32;

/// Longer than any pause that is measured.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// What is asked of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub kind: Kind,
    pub order: Order,
    pub block_bytes: usize,
    pub depth: usize,
    /// A flush after so many writes; it takes a write's place among those under way.
    pub flush_every: Option<u64>,
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// Where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Random,
    Sequential,
}

/// How long it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Length<'a> {
    For(Duration),
    Until(&'a AtomicBool),
    WholeDisk,
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub operations: u64,
    pub seconds: f64,
    /// Between two answers, or the beginning and the first.
    pub longest_pause: Duration,
}

/// A connection to a vhost-user-blk server.
pub struct Client {
    queue: VirtioBlkQueue<'static, usize>,
    transport: Box<VirtioBlkTransport>,
    memory: MmapMut,
    _file: File,
    disk_bytes: u64,
    dice: Dice,
}

impl Client {
    /// Connects, and fills the buffers with what no compression makes smaller.
    pub fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_str().context("a socket's path has to be UTF-8")?;
        let transport = VhostUser::new(path, wanted_features())?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let mut queues = VirtioBlkQueue::setup_queues(transport.as_mut(), 1, QUEUE_SIZE)?;
        let mut queue = queues.pop().context("one queue was asked for")?;
        queue.set_used_notif_enabled(true);
        let file = File::from(rustix::fs::memfd_create("bench", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(u64::try_from(BUFFER_BYTES)?)?;
        // SAFETY: nobody truncates the file, which is ours; what the server writes there while we
        // look is data that nobody interprets.
        let mut memory = unsafe { MmapMut::map_mut(&file) }?;
        let mut dice = Dice::new(1);
        memory
            .chunks_exact_mut(8)
            .for_each(|word| word.copy_from_slice(&dice.roll().to_le_bytes()));
        transport.map_mem_region(memory.as_ptr().addr(), memory.len(), file.as_raw_fd(), 0)?;
        let disk_bytes = u64::from(transport.get_config()?.capacity) * 512;
        Ok(Self { queue, transport, memory, _file: file, disk_bytes, dice })
    }

    /// Writes every block once.
    pub fn fill(&mut self) -> Result<()> {
        let workload = Workload {
            kind: Kind::Write,
            order: Order::Sequential,
            block_bytes: 1 << 20,
            depth: 8,
            flush_every: None,
        };
        self.run(workload, Length::WholeDisk)?;
        self.flush()
    }

    /// Flushes and waits for it.
    pub fn flush(&mut self) -> Result<()> {
        self.queue.flush(FLUSH)?;
        self.notify()?;
        let mut slots = Vec::new();
        self.answers(&mut slots)?;
        while slots.is_empty() {
            self.sleep()?;
            self.answers(&mut slots)?;
        }
        Ok(())
    }

    /// Keeps `depth` requests under way until it is over.
    pub fn run(&mut self, workload: Workload, length: Length<'_>) -> Result<Outcome> {
        let blocks = self.disk_bytes / u64::try_from(workload.block_bytes)?;
        let (mut asked, mut done) = (0, 0);
        let mut free: Vec<usize> = (0..workload.depth).collect();
        let mut flush_due = false;
        let (begun, mut longest_pause) = (Instant::now(), Duration::ZERO);
        let mut answered = begun;
        loop {
            let goes_on = |asked| match length {
                Length::For(time) => begun.elapsed() < time,
                Length::Until(over) => !over.load(Ordering::Relaxed),
                Length::WholeDisk => asked < blocks,
            };
            while goes_on(asked)
                && let Some(slot) = free.pop()
            {
                if std::mem::take(&mut flush_due) {
                    self.queue.flush(FLUSH | slot)?;
                    continue;
                }
                let block = match workload.order {
                    Order::Random => self.dice.below(blocks),
                    Order::Sequential => asked % blocks,
                };
                self.ask(workload, block, slot)?;
                asked += 1;
                flush_due = workload.flush_every.is_some_and(|every| asked % every == 0);
            }
            if free.len() == workload.depth {
                break;
            }
            self.notify()?;
            let before = free.len();
            done += self.answers(&mut free)?;
            while free.len() == before {
                self.sleep()?;
                done += self.answers(&mut free)?;
            }
            longest_pause = longest_pause.max(answered.elapsed());
            answered = Instant::now();
        }
        Ok(Outcome { operations: done, seconds: begun.elapsed().as_secs_f64(), longest_pause })
    }

    fn ask(&mut self, workload: Workload, block: u64, slot: usize) -> Result<()> {
        let bytes = workload.block_bytes;
        let offset = block * u64::try_from(bytes)?;
        let data = &mut self.memory[slot * bytes..][..bytes];
        match workload.kind {
            Kind::Read => self.queue.read(offset, data, slot)?,
            Kind::Write => {
                // No two blocks alike, for less than it costs to make them up.
                data[..8].copy_from_slice(&self.dice.roll().to_le_bytes());
                self.queue.write(offset, data, slot)?;
            }
        }
        Ok(())
    }

    /// Takes the answers that have come: slots into `free`; says how many were not flushes.
    fn answers(&mut self, free: &mut Vec<usize>) -> Result<u64> {
        let mut count = 0;
        for answer in self.queue.completions() {
            if answer.ret != 0 {
                bail!("a request failed with error {}", answer.ret);
            }
            count += u64::from(answer.context & FLUSH == 0);
            free.push(answer.context & !FLUSH);
        }
        Ok(count)
    }

    fn notify(&mut self) -> Result<()> {
        // The crate leaves out the fence between showing a request and looking for sleepers.
        fence(Ordering::SeqCst);
        if self.queue.avail_notif_needed() {
            self.transport.get_submission_notifier(0).notify()?;
        }
        Ok(())
    }

    /// The same two calls whoever serves: some servers make the eventfd a non-blocking one. A
    /// server that is gone, or has shut its connection, never answers.
    fn sleep(&self) -> Result<()> {
        let answered = self.transport.get_completion_fd(0);
        if rustix::event::poll(&mut [PollFd::new(&answered, PollFlags::IN)], Some(&PATIENCE))? == 0
        {
            bail!("no answer within {} s: does the server still serve us?", PATIENCE.tv_sec);
        }
        answered.read()?;
        Ok(())
    }
}

fn wanted_features() -> u64 {
    let virtio = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
    virtio.bits() | VirtioBlkFeatureFlags::FLUSH.bits()
}
