//! Decides which CPU each thread of a team keeps to: CPUs that the process may use, one of every core before a second of any.
//!
//! Nothing here is needed for computing: where a thread cannot be pinned, the system places it as it places all others.

use std::io;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{allowed, pin_caller};
#[cfg(target_os = "linux")]
pub(crate) use linux::{pin_thread, with_siblings};

/// Where the threads of a team run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// A CPU for every thread; the first is that of the caller of loops, which pins itself with [`pin_caller`].
    pub cpus: Vec<usize>,
    /// CPUs that the process may use.
    pub allowed: usize,
}

/// Why threads are not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Only Linux is known.
    #[error("threads can be pinned to CPUs on Linux only")]
    Unsupported,
    /// The system did not tell the mask.
    #[error("failed to ask which CPUs this process may use")]
    ReadMask(#[source] io::Error),
    /// The system did not tell the cores.
    #[error("failed to read which CPUs share a core from {path}")]
    ReadSiblings {
        /// What was read.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The system told the cores in a way that we do not know.
    #[error("failed to read which CPUs share a core from {path}: {text:?} is not a list of CPUs")]
    NotAList {
        /// What was read.
        path: PathBuf,
        /// What is there.
        text: String,
    },
    /// Two threads would share a CPU all the time.
    #[error("each of {threads} threads needs a CPU of its own, but this process may use {allowed}")]
    TooFew {
        /// Threads of the team.
        threads: usize,
        /// CPUs that the process may use.
        allowed: usize,
    },
    /// The system refused.
    #[error("failed to pin thread {thread} to CPU {cpu}")]
    Pin {
        /// Number in the team; 0 is the caller.
        thread: usize,
        /// Where to.
        cpu: usize,
        /// The system's own error.
        source: io::Error,
    },
}

/// There is no way.
#[cfg(not(target_os = "linux"))]
pub fn pin_caller(_cpu: usize) -> Result<(), PinError> {
    Err(PinError::Unsupported)
}

/// A CPU that the process may use, and all that share its core, itself included.
#[cfg(any(target_os = "linux", test))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) number: usize,
    pub(crate) siblings: Vec<usize>,
}

/// A CPU for each of `threads` threads, out of `cpus` in rising order.
#[cfg(any(target_os = "linux", test))]
pub(crate) fn place(threads: usize, mut cpus: Vec<Cpu>) -> Result<Placement, PinError> {
    let numbers: Vec<usize> = cpus.iter().map(|cpu| cpu.number).collect();
    let allowed = numbers.len();
    if allowed < threads {
        return Err(PinError::TooFew { threads, allowed });
    }
    // How many threads of its core come before a CPU. Siblings that are not ours compute for somebody else, if for anybody.
    let before = |cpu: &Cpu| {
        cpu.siblings.iter().filter(|other| **other < cpu.number && numbers.contains(other)).count()
    };
    cpus.sort_by_key(|cpu| (before(cpu), cpu.number));
    Ok(Placement { cpus: cpus.iter().take(threads).map(|cpu| cpu.number).collect(), allowed })
}

/// The numbers of a list such as `0-3,8`, as the kernel writes it; `None` for anything else.
#[cfg(any(target_os = "linux", test))]
pub(crate) fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // A broken range must not become an allocation.
        if first > last || last >= MOST_CPUS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Larger numbers are not CPUs: as many as Linux can be built for.
#[cfg(any(target_os = "linux", test))]
pub(crate) const MOST_CPUS: usize = 8192;

#[cfg(test)]
mod tests;
