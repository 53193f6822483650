//! Brings one file onto the disk: in parallel ranges where the server has them, going on where an earlier run ended, checked against the digest
//! that was promised. Decides when bytes belong together and when everything starts over; what the file is called is decided elsewhere.

mod disk;
mod work;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use wharf_api::Digest;

use self::disk::{blocking, discard, lock, write};
use self::work::Work;
use crate::error::FetchError;
use crate::http::HttpError;
use crate::journal::{self, Identity, Journal};
use crate::object::{ALL, Opened};
use crate::progress::Progress;
use crate::remote::RemoteFile;

pub(crate) use self::disk::hash;

/// How often a file may change while it is read.
const MAX_CHANGES: u32 = 3;

/// How many bytes may still come.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Option<u64>,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: Option<u64>) -> Budget {
        Budget { limit, used: AtomicU64::new(0) }
    }

    /// Takes `bytes` for `what`.
    pub(crate) fn take(&self, bytes: u64, what: &dyn Fn() -> String) -> Result<(), FetchError> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        match self.limit {
            Some(limit) if used > limit => Err(FetchError::TooLarge { what: what(), limit }),
            _ => Ok(()),
        }
    }

    /// Bytes that turned out to be worth nothing.
    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What all files of a source share.
#[derive(Clone)]
pub(crate) struct Transfer {
    pub(crate) source: String,
    pub(crate) chunk: u64,
    pub(crate) connections: usize,
    /// Requests at a time, over all files.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) progress: Progress,
}

/// A file that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) size: u64,
    pub(crate) sha256: Digest,
}

/// Why an attempt ended.
enum Stop {
    Http(HttpError),
    /// A step of ours failed; another attempt would fail too.
    Failed(FetchError),
}

impl From<HttpError> for Stop {
    fn from(error: HttpError) -> Stop {
        Stop::Http(error)
    }
}

impl From<FetchError> for Stop {
    fn from(error: FetchError) -> Stop {
        Stop::Failed(error)
    }
}

/// Which version of a file is being read.
#[derive(Clone)]
struct Version {
    size: Option<u64>,
    tag: Option<String>,
}

impl Transfer {
    /// Brings `file` to `part`, with a journal beside it. `pinned` is the digest that the user gave.
    pub(crate) async fn bring(
        &self,
        file: &RemoteFile,
        part: &Path,
        pinned: Option<Digest>,
    ) -> Result<Whole, FetchError> {
        let mut version = Version { size: file.size, tag: file.tag.clone() };
        let (mut changes, mut clean) = (0, false);
        let doing = || format!("download {}", file.name);
        loop {
            let (there, outcome) = self.attempt(file, part, &version).await;
            match outcome {
                Ok((whole, stored)) => {
                    let Err(error) = verify(file, &whole, pinned, stored) else {
                        return Ok(whole);
                    };
                    discard(part)?;
                    self.progress.lost(whole.size);
                    // What an earlier run has left may be what is wrong; it gets one chance from the beginning.
                    if there == 0 || std::mem::replace(&mut clean, true) {
                        return Err(error);
                    }
                    tracing::warn!(file = %file.name, "what was there of it was wrong; it starts over");
                }
                Err(Stop::Http(HttpError::Changed { .. })) => {
                    changes += 1;
                    if changes > MAX_CHANGES {
                        return Err(FetchError::Unstable(file.object.shown()));
                    }
                    tracing::warn!(file = %file.name, "it has changed on the server; it starts over");
                    let opened =
                        self.open(file, &(0..1), None).await.map_err(|error| error.during(doing()))?;
                    let more =
                        opened.total.unwrap_or_default().saturating_sub(version.size.unwrap_or_default());
                    self.budget.take(more, &|| file.name.to_string())?;
                    self.progress.expect(more);
                    version = Version { size: opened.total, tag: opened.tag };
                }
                Err(Stop::Http(error)) => return Err(error.during(doing())),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }

    /// The bytes that were there before, and what came of it.
    async fn attempt(
        &self,
        file: &RemoteFile,
        part: &Path,
        version: &Version,
    ) -> (u64, Result<(Whole, Option<Digest>), Stop>) {
        let Some(size) = version.size else {
            return (0, self.stream(file, part, version, None).await);
        };
        let identity = Identity {
            source: self.source.clone(),
            name: file.name.to_string(),
            size,
            sha256: file.sha256,
            tag: version.tag.clone(),
        };
        let opened =
            Journal::open(part, &identity).map_err(FetchError::file("write", journal::path_of(part)));
        let (journal, there) = match opened {
            Ok(opened) => opened,
            Err(error) => return (0, Err(error.into())),
        };
        let before = there.ranges.bytes();
        self.progress.found(before);
        if let Some(sha256) = there.sha256 {
            return (before, Ok((Whole { size, sha256 }, None)));
        }
        (before, self.complete(file, part, version, size, journal, &there.ranges).await)
    }

    async fn complete(
        &self,
        file: &RemoteFile,
        part: &Path,
        version: &Version,
        size: u64,
        journal: Journal,
        there: &journal::Ranges,
    ) -> Result<(Whole, Option<Digest>), Stop> {
        let out = File::options().write(true).open(part).map_err(FetchError::file("open", part))?;
        let work = Arc::new(Work {
            transfer: self.clone(),
            file: file.clone(),
            version: version.clone(),
            size,
            part: part.to_owned(),
            out: Arc::new(out),
            journal: Arc::new(Mutex::new(journal)),
            stored: Mutex::new(None),
        });
        let missing = there.missing(size, self.chunk.max(1));
        if let Some(first) = missing.first().cloned() {
            let opened = self.open(file, &first, version.tag.as_deref()).await?;
            if opened.whole && first != (0..size) {
                work.same(&opened)?;
                self.progress.lost(there.bytes());
                return self.stream(file, part, version, Some(opened)).await;
            }
            work.all(missing, opened).await?;
        }
        self.progress.at(format!("verifying {}", file.name));
        let sha256 = hash(part, size).await?;
        lock(&work.journal).seal(sha256).map_err(FetchError::file("write", journal::path_of(part)))?;
        let stored = *lock(&work.stored);
        Ok((Whole { size, sha256 }, stored))
    }

    /// One stream from the beginning, for servers without ranges and files of unknown size. Nothing of it can be gone on with.
    async fn stream(
        &self,
        file: &RemoteFile,
        part: &Path,
        version: &Version,
        mut opened: Option<Opened>,
    ) -> Result<(Whole, Option<Digest>), Stop> {
        let _ = std::fs::remove_file(journal::path_of(part));
        let mut failures = 0;
        loop {
            let out = Arc::new(File::create(part).map_err(FetchError::file("create", part))?);
            let mut at = 0;
            match self.pour_all(file, part, &out, version, opened.take(), &mut at).await {
                Ok(stored) => {
                    self.progress.at(format!("verifying {}", file.name));
                    return Ok((Whole { size: at, sha256: hash(part, at).await? }, stored));
                }
                Err(Stop::Http(error)) if error.is_passing() => {
                    failures += 1;
                    self.progress.lost(at);
                    if version.size.is_none() {
                        self.budget.give_back(at);
                    }
                    self.pause(file, failures, error).await?;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    async fn pour_all(
        &self,
        file: &RemoteFile,
        part: &Path,
        out: &Arc<File>,
        version: &Version,
        opened: Option<Opened>,
        at: &mut u64,
    ) -> Result<Option<Digest>, Stop> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let mut opened = match opened {
            Some(opened) => opened,
            // Without a range: some servers have no other answer than the whole to any.
            None => file.object.open(&ALL, None).await?,
        };
        if opened.start != 0 {
            return Err(HttpError::Changed { url: file.object.shown() }.into());
        }
        let total = opened.total.or(version.size);
        while let Some(bytes) = opened.body.next().await? {
            if version.size.is_none() {
                self.budget.take(bytes.len() as u64, &|| file.name.to_string())?;
                self.progress.expect(bytes.len() as u64);
            }
            let n = bytes.len() as u64;
            write(out, part, *at, bytes.into()).await?;
            *at += n;
            self.progress.at(file.name.as_str());
            self.progress.came(n);
        }
        match total {
            Some(total) if *at != total => {
                let missing = total.saturating_sub(*at);
                Err(HttpError::Short { url: file.object.shown(), missing }.into())
            }
            _ => {
                let file = Arc::clone(out);
                blocking(move || file.sync_data()).await.map_err(FetchError::file("write", part))?;
                Ok(opened.sha256)
            }
        }
    }

    /// Opens a range, as often as the settings allow.
    async fn open(
        &self,
        file: &RemoteFile,
        range: &Range<u64>,
        tag: Option<&str>,
    ) -> Result<Opened, HttpError> {
        let mut failures = 0;
        loop {
            match file.object.open(range, tag).await {
                Err(error) if error.is_passing() => {
                    failures += 1;
                    self.pause(file, failures, error).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits before another try, or gives the error back.
    async fn pause(&self, file: &RemoteFile, failures: u32, error: HttpError) -> Result<(), HttpError> {
        let retry = file.object.retry();
        let Some(pause) = retry.pause(failures, error.asked_pause(), fastrand::f64()) else {
            return Err(error);
        };
        tracing::debug!(%error, ?pause, "trying again");
        self.progress.at(format!("{}: waiting to try again ({error})", file.name));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Compares what came with everything that was promised.
fn verify(
    file: &RemoteFile,
    whole: &Whole,
    pinned: Option<Digest>,
    stored: Option<Digest>,
) -> Result<(), FetchError> {
    for expected in [pinned, file.sha256, stored].into_iter().flatten() {
        if expected != whole.sha256 {
            return Err(FetchError::Corrupt { what: file.object.shown(), expected, found: whole.sha256 });
        }
    }
    Ok(())
}
