//! Decides what is left of an interrupted run, and whether a later one may go on from it.
//!
//! A journal is most wanted when the disk is full, so the next one has its room on the disk before it is needed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::plan::Plan;
use super::report::TensorReport;
use super::run::{RunError, io_error};

/// How often a journal is written: each time the data is forced to the disk first.
const EVERY: Duration = Duration::from_secs(5);

/// Names of what is not finished yet.
#[derive(Debug)]
pub(super) struct Partial {
    /// The file, or the folder that the files are in.
    pub(super) root: PathBuf,
    /// Those with weights.
    pub(super) files: Vec<PathBuf>,
    pub(super) journal: PathBuf,
}

impl Partial {
    pub(super) fn of(out: &Path, plan: &Plan) -> Partial {
        let with = |suffix: &str| {
            let mut name = out.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let root = with(".partial");
        let path = |name: &Option<String>| name.as_ref().map_or_else(|| root.clone(), |name| root.join(name));
        let files = plan.files.iter().map(|file| path(&file.name)).collect();
        Partial { root, files, journal: with(".partial.json") }
    }

    /// Removes all of it.
    pub(super) fn remove(&self) -> io::Result<()> {
        let remove = if self.root.is_dir() { fs::remove_dir_all } else { fs::remove_file };
        remove(&self.root)?;
        self.remove_journal();
        Ok(())
    }

    /// The file is whole: what told how far it was is of no use any more.
    pub(super) fn remove_journal(&self) {
        // One that cannot be removed is ignored by every later run, for its file is gone.
        let _ = fs::remove_file(&self.journal);
        let _ = fs::remove_file(next(&self.journal));
    }
}

/// Which tensors are written, and what has become of them.
pub(super) struct Journal {
    path: PathBuf,
    contents: Contents,
    /// Bytes that suffice for a journal with every tensor in it.
    most: usize,
    saved: Instant,
}

/// Where the journal is written that will take the place of `journal`.
fn next(journal: &Path) -> PathBuf {
    let mut new = journal.to_owned().into_os_string();
    new.push(".new");
    new.into()
}

/// Bytes of what is written of a tensor beside its name, at most: numbers and names of fields.
const OF_A_TENSOR: usize = 400;

#[derive(Serialize, Deserialize)]
struct Contents {
    recipe: String,
    done: BTreeMap<usize, TensorReport>,
}

impl Journal {
    /// Goes on from a journal of the same recipe; with any other, with none, or without its file everything is to do.
    pub(super) fn resume_or_new(partial: &Partial, plan: &Plan, recipe: String) -> Journal {
        let kept = fs::read(&partial.journal)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Contents>(&bytes).ok())
            .filter(|contents| contents.recipe == recipe && partial.files.iter().all(|file| file.is_file()));
        let contents = kept.unwrap_or(Contents { recipe, done: BTreeMap::new() });
        // A name may be written with more bytes than it has, but hardly one is.
        let names = plan.jobs.iter().map(|job| job.tensor.name.len());
        let most = OF_A_TENSOR + names.map(|name| name + OF_A_TENSOR).sum::<usize>();
        Journal { path: partial.journal.clone(), contents, most, saved: Instant::now() }
    }

    /// Takes the room that the next journal will need, with bytes and not with a hole.
    pub(super) fn make_room(&self) -> io::Result<()> {
        fs::write(next(&self.path), vec![b' '; self.most])
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

    pub(super) fn save_now_and_then(&mut self, disk: &Disk) -> Result<(), RunError> {
        if self.saved.elapsed() < EVERY {
            return Ok(());
        }
        self.save(disk)
    }

    /// Says what is done, after it is on disk.
    pub(super) fn save(&mut self, disk: &Disk) -> Result<(), RunError> {
        disk.sync(File::sync_data)?;
        self.write().map_err(|error| io_error("write", &self.path, error))
    }

    fn write(&mut self) -> io::Result<()> {
        let (new, text) = (next(&self.path), serde_json::to_vec(&self.contents)?);
        let journal = File::options().write(true).create(true).truncate(false).open(&new)?;
        journal.write_all_at(&text, 0)?;
        journal.set_len(text.len() as u64)?;
        fs::rename(&new, &self.path)?;
        self.saved = Instant::now();
        // The one before has just left its own; if others were faster, the next journal may still find some.
        let _ = self.make_room();
        Ok(())
    }

    pub(super) fn into_reports(self) -> Vec<TensorReport> {
        self.contents.done.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::disk::tests::{full, opened};
    use super::*;

    fn report(name: &str) -> TensorReport {
        TensorReport {
            name: name.to_owned(),
            shape: vec![usize::MAX; 4],
            from: "IQ4_XS".to_owned(),
            to: "int4 in groups of 128".to_owned(),
            bytes_before: u64::MAX,
            bytes_after: u64::MAX,
            relative_error: f64::MIN_POSITIVE,
        }
    }

    #[test]
    fn a_journal_is_written_where_room_was_made_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, partial, disk) = opened(folder.path());
        let open = || Journal::resume_or_new(&partial, &plan, "r".repeat(64));
        let mut journal = open();
        journal.make_room().unwrap();
        let room = fs::metadata(next(&partial.journal)).unwrap();
        plan.jobs.iter().enumerate().for_each(|(job, of)| journal.finished(job, report(&of.tensor.name)));
        journal.save(&disk).unwrap();
        let written = fs::metadata(&partial.journal).unwrap();
        assert_eq!(written.ino(), room.ino(), "another file would need other room");
        assert!(written.len() <= room.len(), "{} bytes in room for {}", written.len(), room.len());
        assert!(next(&partial.journal).exists(), "and there is room for the next");
        assert_eq!(open().done(), plan.jobs.len());
        disk.sync(full).unwrap_err();
        journal.finished(plan.jobs.len(), report("more"));
        journal.save(&disk).unwrap_err();
        assert_eq!(open().done(), plan.jobs.len(), "what the disk refused is not said to be done");
        partial.remove_journal();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "source and file are left");
    }
}
