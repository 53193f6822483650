//! Decides in which order a plan is carried out: slabs of rows, taken by threads as they come, written where the plan says.
//!
//! A slab is read, rounded and written by one thread, so that memory does not depend on the size of the tensors. What is written
//! has another name until it is whole; a journal beside it says which tensors are done, so that the same command goes on where it was
//! stopped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use wharf_model::Model;

use super::importance::Importance;
use super::journal::{Journal, Partial};
use super::plan::{Encoding, Job, Plan};
use super::report::TensorReport;
use super::worker::{Errors, Slab, Worker, slabs};

/// How a plan is carried out.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// Threads that compute.
    pub threads: usize,
    /// How much each input of each matrix matters, from calibration.
    pub importance: Option<&'a Importance>,
    /// Set by others to stop; what is done stays for the next run.
    pub stop: &'a AtomicBool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor that was finished last.
    pub tensor: &'a str,
    /// Elements read so far, those of earlier runs included, of `total`.
    pub done: u64,
    /// Elements to read.
    pub total: u64,
}

/// Why a run ended without a file.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is something where the file would go.
    #[error("{} exists; remove it or give another -o", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A weight is not a number.
    #[error(
        "row {row}, column {col} of tensor {tensor:?} is {value}: the checkpoint is damaged, or its training has diverged"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Its row.
        row: usize,
        /// Element of the row.
        col: usize,
        /// What is there.
        value: f32,
    },
    /// The file system refused.
    #[error("failed to {doing} {}{}", path.display(), kept(source))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Somebody asked to stop.
    #[error("stopped; the same command goes on from {}", partial.display())]
    Stopped {
        /// What is kept.
        partial: PathBuf,
    },
}

/// What to do about a disk that is full.
fn kept(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; make room and run the same command again, which goes on from what is written, or remove it"
        }
        _ => "",
    }
}

/// A file that is whole, but has not got its name yet.
#[derive(Debug)]
#[must_use = "it gets its name by `commit`"]
pub struct Written {
    partial: Partial,
    out: PathBuf,
    /// What has become of the tensors, in the order of the file.
    pub tensors: Vec<TensorReport>,
}

impl Written {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.partial.root
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(self) -> Result<(), RunError> {
        std::fs::rename(&self.partial.root, &self.out)
            .map_err(|error| io_error("rename", &self.partial.root, error))?;
        self.partial.remove_journal();
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn discard(self) -> Result<(), RunError> {
        let remove = if self.partial.root.is_dir() { std::fs::remove_dir_all } else { std::fs::remove_file };
        remove(&self.partial.root).map_err(|error| io_error("remove", &self.partial.root, error))?;
        self.partial.remove_journal();
        Ok(())
    }
}

/// Writes the file of `plan` for `out`, where it gets by [`Written::commit`]; `progress` hears of every slab.
///
/// # Errors
/// When `out` exists, a weight is not finite, the disk is full, or somebody stopped it. What is written stays for the next run.
pub fn run(
    model: &Model,
    plan: &Plan,
    out: &Path,
    options: RunOptions<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written, RunError> {
    if out.symlink_metadata().is_ok() {
        return Err(RunError::Exists { path: out.to_owned() });
    }
    let partial = Partial::of(out, plan.beside.is_some());
    let recipe = recipe(model, plan, options.importance);
    let mut journal = Journal::resume_or_new(&partial, recipe);
    let file = open(&partial, plan, &journal)?;
    let todo: Vec<Slab> = slabs(plan, |job| journal.is_done(job));
    let mut left: Vec<usize> = vec![0; plan.jobs.len()];
    todo.iter().for_each(|slab| left[slab.job] += 1);
    let mut sums: Vec<Errors> = vec![Errors::default(); plan.jobs.len()];

    let total = plan.jobs.iter().map(|job| job.tensor.source.elements() as u64).sum();
    let mut done: u64 = total - todo.iter().map(|slab| slab.elements(plan)).sum::<u64>();
    let next = AtomicUsize::new(0);
    let halt = AtomicBool::new(false);
    let (sender, results) = channel();
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let worker = Worker { model, plan, file: &file, path: &partial.file, options, halt: &halt };
            let (next, todo, sender) = (&next, &todo, sender.clone());
            scope.spawn(move || worker.run(next, todo, &sender));
        }
        drop(sender);
        let mut failure = None;
        for (index, outcome) in results {
            let slab = &todo[index];
            match outcome {
                Ok(errors) => {
                    sums[slab.job].add(errors);
                    left[slab.job] -= 1;
                    done += slab.elements(plan);
                    let job = &plan.jobs[slab.job];
                    if left[slab.job] == 0 {
                        journal.finished(slab.job, report(job, sums[slab.job]));
                        // Only memory is at stake: pages that stay are the system's to drop.
                        let _ = model.weights.release_tensor(&job.tensor.source);
                        if let Err(error) = journal.save_now_and_then(&file) {
                            halt.store(true, Ordering::Relaxed);
                            failure.get_or_insert(io_error("write", &partial.journal, error));
                        }
                    }
                    progress(Progress { tensor: &job.tensor.name, done, total });
                }
                Err(error) => {
                    halt.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    })
    .and_then(|()| match journal.done() == plan.jobs.len() {
        true => Ok(()),
        false => Err(RunError::Stopped { partial: partial.root.clone() }),
    })
    .inspect_err(|_| {
        // The first error is what the user must hear; without a journal the next run begins anew.
        let _ = journal.save(&file);
    })?;
    file.sync_all().map_err(|error| io_error("write", &partial.file, error))?;
    journal.save(&file).map_err(|error| io_error("write", &partial.journal, error))?;
    Ok(Written { partial, out: out.to_owned(), tensors: journal.into_reports() })
}

pub(super) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::Io { doing, path: path.to_owned(), source }
}

/// What a file follows from; a journal of another recipe is of no use.
fn recipe(model: &Model, plan: &Plan, importance: Option<&Importance>) -> String {
    use sha2::{Digest as _, Sha256};
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(plan.scheme.to_string());
    digest.update(&plan.header);
    model.weights.identify(&mut |bytes| digest.update(bytes));
    if let Some(importance) = importance {
        importance.identify(&mut |bytes| digest.update(bytes));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open(partial: &Partial, plan: &Plan, journal: &Journal) -> Result<File, RunError> {
    let path = partial.file.as_path();
    let fail = |doing| move |error| io_error(doing, path, error);
    for (name, bytes) in plan.beside.iter().flatten() {
        std::fs::create_dir_all(&partial.root).map_err(|error| io_error("create", &partial.root, error))?;
        let path = partial.root.join(name);
        std::fs::write(&path, bytes).map_err(|error| io_error("write", &path, error))?;
    }
    let fresh = journal.done() == 0;
    let file = File::options().write(true).create(true).truncate(fresh).open(path).map_err(fail("create"))?;
    file.set_len(plan.len).map_err(fail("size"))?;
    file.write_all_at(&plan.header, 0).map_err(fail("write"))?;
    for (at, bytes) in &plan.fixed {
        file.write_all_at(bytes, *at).map_err(fail("write"))?;
    }
    Ok(file)
}

fn report(job: &Job, errors: Errors) -> TensorReport {
    let source = &job.tensor.source;
    let to = match job.encoding {
        Encoding::Copy => source.dtype.to_string(),
        Encoding::Blocks(dtype) => dtype.to_string(),
        Encoding::Codes(codes) => codes.to_string(),
    };
    TensorReport {
        name: job.tensor.name.clone(),
        shape: source.shape.clone(),
        from: source.dtype.to_string(),
        to,
        bytes_before: source.len as u64,
        bytes_after: job.bytes(),
        relative_error: errors.relative(),
    }
}
