//! What Linux knows of CPUs, and how it is told where a thread may run.
#![expect(unsafe_code, reason = "affinity is asked for and set by calls of the C library")]

use std::io;
use std::mem::size_of;
use std::os::unix::thread::JoinHandleExt as _;
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::{Cpu, MOST_CPUS, PinError, parse_list};

/// A bit for each CPU, as many as any kernel has: the kernel refuses to fill a mask that is shorter than its own.
type Mask = [u64; MOST_CPUS / 64];

/// CPUs on which the calling thread may run, in rising order. A thread has its process's mask, and with it the container's
/// cpuset, until it is pinned.
pub fn allowed() -> Result<Vec<usize>, PinError> {
    let mut mask: Mask = [0; MOST_CPUS / 64];
    // SAFETY: the mask is as large as is said and aligned as a set of CPUs; every content is valid. 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of::<Mask>(), mask.as_mut_ptr().cast()) };
    if status != 0 {
        return Err(PinError::ReadMask(io::Error::last_os_error()));
    }
    Ok((0..MOST_CPUS).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1).collect())
}

/// Keeps the calling thread, the first of its team, on one CPU.
pub fn pin_caller(cpu: usize) -> Result<(), PinError> {
    let mask = only(cpu);
    // SAFETY: the mask is as large as is said and aligned as a set of CPUs. 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), mask.as_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(PinError::Pin { thread: 0, cpu, source: io::Error::last_os_error() }),
    }
}

/// Keeps the thread of that number on one CPU.
pub(crate) fn pin_thread(handle: &JoinHandle<()>, thread: usize, cpu: usize) -> Result<(), PinError> {
    let mask = only(cpu);
    // SAFETY: a thread that has not been joined has a valid identity; the mask is as large as is said.
    let error = unsafe {
        libc::pthread_setaffinity_np(handle.as_pthread_t(), size_of::<Mask>(), mask.as_ptr().cast())
    };
    match error {
        0 => Ok(()),
        code => Err(PinError::Pin { thread, cpu, source: io::Error::from_raw_os_error(code) }),
    }
}

/// The CPUs with those that share their cores.
pub(crate) fn with_siblings(cpus: &[usize]) -> Result<Vec<Cpu>, PinError> {
    let read = |number: usize| {
        let path =
            PathBuf::from(format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(PinError::ReadSiblings { path, source }),
        };
        match parse_list(&text) {
            Some(siblings) => Ok(Cpu { number, siblings }),
            None => Err(PinError::NotAList { path, text }),
        }
    };
    cpus.iter().copied().map(read).collect()
}

/// CPU numbers come from [`allowed`], so they are below [`MOST_CPUS`]; the kernel refuses an empty mask.
fn only(cpu: usize) -> Mask {
    let mut mask: Mask = [0; MOST_CPUS / 64];
    if let Some(word) = mask.get_mut(cpu / 64) {
        *word = 1 << (cpu % 64);
    }
    mask
}
