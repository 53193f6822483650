//! Work that waits: streams, what is recorded of them, and events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use crate::emulator::Launch;

/// Something to do.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Launch(Arc<Launch>),
    /// From any memory of the host, as it is by then: there are GPUs that read the host's page tables.
    Read {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// Between memory of GPUs and of the host that does not move.
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// The pattern again and again.
    Fill {
        to: u64,
        bytes: usize,
        pattern: Pattern,
    },
    /// An event, and which of its records this is; of a graph each time.
    Record(usize, Option<u64>),
    /// The last of a graph is done: until then it must be there.
    Last(usize),
}

/// What memory is filled with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pattern {
    Byte(u8),
    Word(u32),
}

/// Work in its order.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) gpu: usize,
    pub(crate) waiting: VecDeque<Work>,
    pub(crate) recording: Option<Recording>,
}

/// What becomes a graph.
#[derive(Debug)]
pub(crate) struct Recording {
    /// What it does there that cannot be recorded fails.
    pub(crate) thread: ThreadId,
    pub(crate) work: Vec<Work>,
    pub(crate) invalid: bool,
}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) gpu: usize,
    /// How often it was recorded: only the last time counts.
    pub(crate) records: u64,
    /// The stream whose work it waits for, if it does.
    pub(crate) waits_for: Option<usize>,
    /// When it came.
    pub(crate) happened: Option<Instant>,
}
