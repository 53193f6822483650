//! How far a fetch is, for whoever looks: counters that the work raises, and a word about what is at hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the work and the one who shows it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    done: AtomicU64,
    total: AtomicU64,
    downloaded: AtomicU64,
    at: Mutex<String>,
}

/// One look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes that are on the disk.
    pub done: u64,
    /// Bytes that there are, as far as that is known.
    pub total: u64,
    /// Bytes that came over the network in this run.
    pub downloaded: u64,
    /// What is at hand.
    pub at: String,
}

impl Progress {
    /// As of now.
    pub fn snapshot(&self) -> Snapshot {
        let State { done, total, downloaded, at } = &*self.0;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let at = at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Snapshot { done: load(done), total: load(total), downloaded: load(downloaded), at }
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that an earlier run has left.
    pub(crate) fn found(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn came(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
        self.0.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that turned out to be worth nothing.
    pub(crate) fn lost(&self, bytes: u64) {
        let less = |done: u64| Some(done.saturating_sub(bytes));
        let _ = self.0.done.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(crate) fn at(&self, what: impl Into<String>) {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }
}
