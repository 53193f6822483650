//! Decides what is left of an interrupted run, and whether a later one may go on from it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::WEIGHTS;
use super::report::TensorReport;

/// How often a journal is written: each time the data is forced to the disk first.
const EVERY: Duration = Duration::from_secs(5);

/// Names of what is not finished yet.
#[derive(Debug)]
pub(super) struct Partial {
    /// The file, or the folder that it is in.
    pub(super) root: PathBuf,
    /// The file with the weights.
    pub(super) file: PathBuf,
    pub(super) journal: PathBuf,
}

impl Partial {
    pub(super) fn of(out: &Path, is_folder: bool) -> Partial {
        let with = |suffix: &str| {
            let mut name = out.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let root = with(".partial");
        let file = if is_folder { root.join(WEIGHTS) } else { root.clone() };
        Partial { root, file, journal: with(".partial.json") }
    }

    /// The file is whole: what told how far it was is of no use any more.
    pub(super) fn remove_journal(&self) {
        // One that cannot be removed is ignored by every later run, for its file is gone.
        let _ = fs::remove_file(&self.journal);
    }
}

/// Which tensors are written, and what has become of them.
pub(super) struct Journal {
    path: PathBuf,
    contents: Contents,
    saved: Instant,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    recipe: String,
    done: BTreeMap<usize, TensorReport>,
}

impl Journal {
    /// Goes on from a journal of the same recipe; with any other, with none, or without its file everything is to do.
    pub(super) fn resume_or_new(partial: &Partial, recipe: String) -> Journal {
        let kept = fs::read(&partial.journal)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Contents>(&bytes).ok())
            .filter(|contents| contents.recipe == recipe && partial.file.is_file());
        let contents = kept.unwrap_or(Contents { recipe, done: BTreeMap::new() });
        Journal { path: partial.journal.clone(), contents, saved: Instant::now() }
    }

    pub(super) fn is_done(&self, job: usize) -> bool {
        self.contents.done.contains_key(&job)
    }

    pub(super) fn done(&self) -> usize {
        self.contents.done.len()
    }

    pub(super) fn finished(&mut self, job: usize, report: TensorReport) {
        self.contents.done.insert(job, report);
    }

    pub(super) fn save_now_and_then(&mut self, file: &File) -> io::Result<()> {
        if self.saved.elapsed() < EVERY {
            return Ok(());
        }
        self.save(file)
    }

    /// Says on disk what is done, after it is on disk.
    pub(super) fn save(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()?;
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        fs::write(&new, serde_json::to_vec(&self.contents)?)?;
        fs::rename(&new, &self.path)?;
        self.saved = Instant::now();
        Ok(())
    }

    pub(super) fn into_reports(self) -> Vec<TensorReport> {
        self.contents.done.into_values().collect()
    }
}
