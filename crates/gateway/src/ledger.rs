//! Who used how much: sums for each key as metrics, and one JSON line for each request in a file.
//!
//! The file is written by a thread of its own. If the disk is slower than requests end, requests go on and lines are lost; how many is a metric,
//! since an operator who bills by them must know.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use wharf_access::usage::{Counters, Totals, UsageRecord};
use wharf_telemetry::metrics::Metrics;
use wharf_telemetry::metrics::gateway as table;

/// Keys with sums of their own; the others are summed together.
const KEYS: usize = 10_000;
/// Lines that wait for the disk.
const LINES: usize = 65_536;

/// What was used.
pub(crate) struct Ledger {
    counters: Mutex<Counters>,
    lines: Option<SyncSender<String>>,
    lost: Mutex<u64>,
    /// The latest records, the oldest first.
    recent: Mutex<VecDeque<Arc<UsageRecord>>>,
    kept: usize,
}

impl Ledger {
    /// Appends to the file, if there is one, and keeps so many of the latest records.
    pub(crate) fn open(path: Option<&Path>, kept: usize) -> io::Result<Ledger> {
        let lines = match path {
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                let (sender, receiver) = sync_channel(LINES);
                let write = move || {
                    if let Err(error) = write(&receiver, file) {
                        tracing::error!(%error, "failed to write the usage log; lines are lost from now on");
                    }
                };
                std::thread::Builder::new().name("usage".to_owned()).spawn(write)?;
                Some(sender)
            }
            None => None,
        };
        let counters = Mutex::new(Counters::new(KEYS));
        Ok(Ledger { counters, lines, lost: Mutex::new(0), recent: Mutex::default(), kept })
    }

    /// A request has ended.
    pub(crate) fn add(&self, record: UsageRecord) {
        if let Some(lines) = &self.lines
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = lines.try_send(record.line())
        {
            *self.lost.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).add(&record);
        if self.kept > 0 {
            self.keep(Arc::new(record));
        }
    }

    fn keep(&self, record: Arc<UsageRecord>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if recent.len() < self.kept { None } else { recent.pop_front() };
        recent.push_back(record);
        drop(recent);
        // Only now, so that nobody waits while its strings are freed.
        drop(oldest);
    }

    /// The latest records, the oldest first.
    pub(crate) fn recent(&self) -> Vec<Arc<UsageRecord>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Key, service and sums.
    pub(crate) fn totals(&self) -> Vec<(String, String, Totals)> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(key, service, totals)| (key.to_owned(), service.to_owned(), *totals)).collect()
    }

    /// Brings the metrics up to date.
    pub(crate) fn show(&self, metrics: &Metrics) {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.raise_to(&table::USAGE_LINES_LOST, &[], lost as f64);
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = std::iter::once(("other", "", counters.rest()));
        for (key, service, totals) in counters.iter().chain(rest) {
            let sums = [
                ("prompt", totals.tokens.prompt_tokens),
                ("cached", totals.tokens.cached_tokens),
                ("completion", totals.tokens.completion_tokens),
            ];
            for (kind, tokens) in sums.into_iter().filter(|(_, tokens)| *tokens > 0) {
                metrics.raise_to(&table::KEY_TOKENS, &[service, key, kind], tokens as f64);
            }
        }
    }
}

fn write(lines: &Receiver<String>, file: File) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    loop {
        // Flushed whenever nothing waits, so that a reader is never behind for long.
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Empty) => {
                file.flush()?;
                match lines.recv() {
                    Ok(line) => line,
                    Err(_) => return Ok(()),
                }
            }
            Err(TryRecvError::Disconnected) => return file.flush(),
        };
        file.write_all(line.as_bytes())?;
    }
}
