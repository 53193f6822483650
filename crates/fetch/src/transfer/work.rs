//! The ranges of one version of one file: several workers take them from a queue, write what comes where it belongs, and record it.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use wharf_api::Digest;

use super::disk::{blocking, lock, write};
use super::{Stop, Transfer, Version};
use crate::error::FetchError;
use crate::http::HttpError;
use crate::journal::Journal;
use crate::object::Opened;
use crate::remote::RemoteFile;

/// Bytes that are written at a time.
const WRITE: usize = 1 << 20;
/// How much of a slow connection's work may be lost.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// The ranges of one version of one file.
pub(super) struct Work {
    pub(super) transfer: Transfer,
    pub(super) file: RemoteFile,
    pub(super) version: Version,
    pub(super) size: u64,
    pub(super) part: PathBuf,
    pub(super) out: Arc<File>,
    pub(super) journal: Arc<Mutex<Journal>>,
    /// The digest that an answer has named.
    pub(super) stored: Mutex<Option<Digest>>,
}

impl Work {
    /// Brings all of `missing`, several at a time; `opened` is the first of them.
    pub(super) async fn all(self: &Arc<Self>, missing: Vec<Range<u64>>, opened: Opened) -> Result<(), Stop> {
        let workers = self.transfer.connections.clamp(1, missing.len().max(1));
        let mut first = Some(opened);
        let queue: VecDeque<_> = missing.into_iter().map(|range| (range, first.take())).collect();
        let queue = Arc::new(Mutex::new(queue));
        let mut running: JoinSet<Result<(), Stop>> = JoinSet::new();
        for _ in 0..workers {
            let (work, queue) = (Arc::clone(self), Arc::clone(&queue));
            running.spawn(async move {
                loop {
                    let next = lock(&queue).pop_front();
                    let Some((range, opened)) = next else { return Ok(()) };
                    work.range(range, opened).await?;
                }
            });
        }
        while let Some(joined) = running.join_next().await {
            match joined {
                Ok(outcome) => outcome?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Nobody but the drop of the set aborts them.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn range(&self, range: Range<u64>, mut opened: Option<Opened>) -> Result<(), Stop> {
        let (mut at, mut failures) = (range.start, 0);
        while at < range.end {
            let before = at;
            match self.pour(&mut at, range.end, opened.take()).await {
                Ok(()) => {}
                Err(Stop::Http(error)) if error.is_passing() => {
                    // A connection that brings something before it breaks may break often.
                    failures = if at > before { 1 } else { failures + 1 };
                    self.transfer.pause(&self.file, failures, error).await?;
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    /// Writes what comes of `at..end`, and moves `at` with it, however it ends.
    async fn pour(&self, at: &mut u64, end: u64, opened: Option<Opened>) -> Result<(), Stop> {
        let _permit = self.transfer.permits.acquire().await.expect("the semaphore is never closed");
        let mut opened = match opened {
            Some(opened) => opened,
            None => self.file.object.open(&(*at..end), self.version.tag.as_deref()).await?,
        };
        self.same(&opened)?;
        if opened.start != *at {
            return Err(HttpError::Changed { url: self.file.object.shown() }.into());
        }
        self.transfer.progress.at(self.file.name.as_str());
        if opened.sha256.is_some() {
            *lock(&self.stored) = opened.sha256;
        }
        let mut buffer = Vec::with_capacity(WRITE);
        let (mut settled, mut last) = (*at, Instant::now());
        let outcome = loop {
            let bytes = match opened.body.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    let missing = end - *at - buffer.len() as u64;
                    break Err(HttpError::Short { url: self.file.object.shown(), missing });
                }
                Err(error) => break Err(error),
            };
            let left = usize::try_from(end - *at).unwrap_or(usize::MAX) - buffer.len();
            buffer.extend_from_slice(&bytes[..bytes.len().min(left)]);
            if bytes.len() >= left {
                break Ok(());
            }
            if buffer.len() >= WRITE {
                self.write(at, &mut buffer).await?;
            }
            if last.elapsed() > SETTLE_EVERY {
                self.write(at, &mut buffer).await?;
                self.settle(settled..*at).await?;
                (settled, last) = (*at, Instant::now());
            }
        };
        self.write(at, &mut buffer).await?;
        self.settle(settled..*at).await?;
        Ok(outcome?)
    }

    /// Whether an answer is about the version that is being read.
    pub(super) fn same(&self, opened: &Opened) -> Result<(), HttpError> {
        let size = opened.total.is_none_or(|total| total == self.size);
        let tag = match (&opened.tag, &self.version.tag) {
            (Some(found), Some(expected)) => found == expected,
            _ => true,
        };
        match size && tag {
            true => Ok(()),
            false => Err(HttpError::Changed { url: self.file.object.shown() }),
        }
    }

    async fn write(&self, at: &mut u64, buffer: &mut Vec<u8>) -> Result<(), FetchError> {
        let bytes = std::mem::replace(buffer, Vec::with_capacity(WRITE));
        let n = bytes.len() as u64;
        write(&self.out, &self.part, *at, bytes).await?;
        *at += n;
        self.transfer.progress.came(n);
        Ok(())
    }

    /// Bytes before the line that says that they are there.
    async fn settle(&self, range: Range<u64>) -> Result<(), FetchError> {
        if range.is_empty() {
            return Ok(());
        }
        let (out, journal) = (Arc::clone(&self.out), Arc::clone(&self.journal));
        let settled = blocking(move || {
            out.sync_data()?;
            lock(&journal).record(&range)
        });
        settled.await.map_err(FetchError::file("write", &self.part))
    }
}
