//! What is asked of every execution: it ends, in bounded memory, and nobody panics.

use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// However slow the machine is: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// The most that a process of fuzz targets may ever have in memory.
const MEMORY_MAX_KIB: u64 = 1 << 20;
/// Executions between two looks at the memory.
const LOOK_EVERY: u64 = 64;

/// Panics in threads other than tests': of a reactor, of a server.
static PANICS_ELSEWHERE: AtomicU64 = AtomicU64::new(0);

/// What is being tried.
#[derive(Clone)]
struct Execution {
    since: Instant,
    input: Vec<u8>,
}

/// Watches over a target's executions.
pub struct Trial {
    current: Arc<Mutex<Option<Execution>>>,
    executions: AtomicU64,
}

impl Trial {
    /// For the target of this name.
    pub fn new(target: &'static str) -> Self {
        let current: Arc<Mutex<Option<Execution>>> = Arc::default();
        let watched = Arc::downgrade(&current);
        thread::spawn(move || {
            while let Some(current) = watched.upgrade() {
                let current = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let hung = current.filter(|execution| execution.since.elapsed() > PATIENCE);
                if let Some(Execution { input, .. }) = hung {
                    eprintln!("{target} hangs with this input: {input:02x?}");
                    // A thread cannot be ended, and what it holds would let others hang.
                    std::process::abort();
                }
                thread::sleep(Duration::from_secs(1));
            }
        });
        Self { current, executions: AtomicU64::new(0) }
    }

    /// Carries out one execution.
    ///
    /// # Panics
    /// Where it broke a promise.
    pub fn run(&self, input: &[u8], execution: impl FnOnce(&[u8])) {
        static HOOK: Once = Once::new();
        HOOK.call_once(watch_other_threads);
        self.set(Some(Execution { since: Instant::now(), input: input.to_vec() }));
        execution(input);
        self.set(None);
        assert_eq!(PANICS_ELSEWHERE.load(Ordering::SeqCst), 0, "another thread panicked");
        if self.executions.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
            let peak = peak_kib();
            assert!(peak < MEMORY_MAX_KIB, "{peak} KiB of memory were in use");
        }
    }

    fn set(&self, current: Option<Execution>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// The engine that draws inputs catches panics of its own thread only.
fn watch_other_threads() {
    let watcher = thread::current().id();
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let name = thread::current().name().map(str::to_owned).unwrap_or_default();
        let is_ours = name.starts_with("reactor") || name.starts_with("server") || name == "test";
        if is_ours && thread::current().id() != watcher {
            eprintln!("in thread '{name}': {info}");
            PANICS_ELSEWHERE.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
}

/// The most that this process ever had in memory.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
