//! Surviving a front end that cuts its shared memory short.
//!
//! Memory that a front end shares is a file of its own, and it may truncate that file while we
//! copy from it: the kernel then sends SIGBUS, which would end the server and with it every
//! other guest. The handler here puts zeros in the place of the region that went away, notes it,
//! and lets the copy go on; the region's owner sees the note and cuts the front end off. Any
//! other SIGBUS takes its usual course.
//!
//! The handler uses nothing but atomics and `mmap`, both safe in a signal handler.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Regions that can be guarded at once; further ones go unguarded, and say so. Two for each of
/// 10,000 front ends, and some.
const SLOTS: usize = 32768;

struct Slot {
    /// First address; zero is a free slot, one a slot being filled or emptied.
    start: AtomicUsize,
    bytes: AtomicUsize,
    vanished: AtomicBool,
}

const BUSY: usize = 1;

static REGISTRY: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        vanished: AtomicBool::new(false),
    }
}; SLOTS];

/// What SIGBUS did before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once for the process.
pub(crate) fn guard() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| install().map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL)))
        .map_err(io::Error::from_raw_os_error)
}

fn install() -> io::Result<()> {
    // SAFETY: an all-zero `sigaction` is a valid one (default action, empty mask, no flags).
    let mut old: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: a null new action only asks; `old` is valid for writing.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let _ = PREVIOUS.set(old);
    // SAFETY: as above.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    new.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: `new` is fully initialised and names a handler of the type that SA_SIGINFO asks for,
    // which is async-signal-safe (see there).
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid `siginfo_t` to an SA_SIGINFO handler, and SIGBUS fills in
    // the address.
    let address = unsafe { (*info).si_addr() }.addr();
    if !replace_with_zeros(address) {
        pass_on(signal, info, context);
    }
}

/// Puts zeros under a guarded region that `address` lies in.
fn replace_with_zeros(address: usize) -> bool {
    for slot in &REGISTRY {
        let start = slot.start.load(Ordering::Acquire);
        let bytes = slot.bytes.load(Ordering::Acquire);
        // Read again: the slot may have changed hands in between.
        let same = slot.start.load(Ordering::Acquire) == start;
        if start > BUSY && same && (start..start + bytes).contains(&address) {
            // SAFETY: the range is a mapping of ours, whole (`Guarded` lives no longer than it,
            // and is dropped by the thread that then unmaps it; the faulting thread holds it).
            // Other threads' accesses are volatile copies, which do not mind what they find.
            let mapped = unsafe {
                libc::mmap(
                    std::ptr::with_exposed_provenance_mut(start),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            slot.vanished.store(true, Ordering::Release);
            return mapped != libc::MAP_FAILED;
        }
    }
    false
}

/// Does what SIGBUS did before us: another handler (the standard library's, for stack
/// overflows), or the end of the process.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: restoring the default action is always allowed; the access is then repeated
        // and ends the process as it would have.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else if previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0) {
        // SAFETY: the kernel gave us this address as an SA_SIGINFO handler's.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: the kernel gave us this address as a plain handler's.
        let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
}

/// A mapping of ours whose disappearance is survived. To be dropped before it is unmapped.
#[derive(Debug)]
pub(crate) struct Guarded {
    slot: Option<usize>,
}

impl Guarded {
    /// Guards the mapping of `bytes` from `start` on, in pages of `page_bytes`.
    pub(crate) fn new(start: *mut u8, bytes: usize, page_bytes: usize) -> Self {
        // Each looks from elsewhere on, past those that were taken before.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let from = NEXT.fetch_add(1, Ordering::Relaxed);
        let free = (0..SLOTS).map(|at| from.wrapping_add(at) % SLOTS).find(|slot| {
            let start = &REGISTRY[*slot].start;
            start.compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        match free {
            Some(index) => {
                let slot = &REGISTRY[index];
                slot.vanished.store(false, Ordering::Release);
                slot.bytes.store(bytes.next_multiple_of(page_bytes), Ordering::Release);
                slot.start.store(start.expose_provenance(), Ordering::Release);
            }
            None => tracing::warn!("a memory region goes unguarded: {SLOTS} are guarded already"),
        }
        Self { slot: free }
    }

    /// Whether the front end took it away.
    pub(crate) fn vanished(&self) -> bool {
        self.slot.is_some_and(|slot| REGISTRY[slot].vanished.load(Ordering::Acquire))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            REGISTRY[slot].start.store(BUSY, Ordering::Release);
            REGISTRY[slot].bytes.store(0, Ordering::Release);
            REGISTRY[slot].start.store(0, Ordering::Release);
        }
    }
}
