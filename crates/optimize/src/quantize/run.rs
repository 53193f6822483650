//! Decides in which order a plan is carried out: slabs of rows, taken by threads as they come, written where the plan says.
//!
//! A slab is read, rounded and written by one thread, so that memory does not depend on the size of the tensors. What is written
//! has another name until it is whole; a journal beside it says which tensors are done, so that the same command goes on where it was
//! stopped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use wharf_model::Model;

use super::calibrated::{CalibrationError, Gather, Method, Step, Treatment, each_layer};
use super::disk::Disk;
use super::journal::{Journal, Partial};
use super::plan::{Encoding, Job, Plan};
use super::report::TensorReport;
use super::scheme::{Calibrates, Scheme};
use super::worker::{Errors, Slab, Worker, slabs};
use crate::eval::Windows;

/// Bytes written after which the disk is made to follow, while threads compute: at the end nearly nothing is left to wait for.
const SYNC_BYTES: u64 = 16 << 20;

/// How a plan is carried out.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// Threads that compute.
    pub threads: usize,
    /// The text that shows what matrices read. Without one nothing is calibrated.
    pub calibration: Option<&'a Windows>,
    /// Set by others to stop; what is done stays for the next run.
    pub stop: &'a AtomicBool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What was finished last: a tensor, or the text's way through a layer.
    pub what: &'a str,
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
    /// There is no text, and nothing to do without one.
    #[error("{scheme} needs a text to calibrate on")]
    Uncalibrated {
        /// The scheme.
        scheme: Scheme,
    },
    /// The text does not get through the model.
    #[error("failed to calibrate")]
    Calibration(#[source] CalibrationError),
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
        self.partial.remove().map_err(|error| io_error("remove", &self.partial.root, error))
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
    let calibration = match (plan.scheme.calibrates(), options.calibration) {
        (Calibrates::Always, None) => return Err(RunError::Uncalibrated { scheme: plan.scheme }),
        (_, windows) => windows.zip(Method::of(plan.scheme)),
    };
    let partial = Partial::of(out, plan);
    let recipe = recipe(model, plan, calibration.map(|(windows, _)| windows));
    let journal = Journal::resume_or_new(&partial, plan, recipe);
    let disk = Disk::open(&partial, plan, journal.done() == 0)?;
    journal.make_room().map_err(|error| io_error("write", &partial.journal, error))?;
    let elements = |index: &usize| plan.jobs[*index].tensor.source.elements() as u64;
    let total = (0..plan.jobs.len()).map(|index| elements(&index)).sum();
    let done =
        (0..plan.jobs.len()).filter(|index| journal.is_done(*index)).map(|index| elements(&index)).sum();
    let mut run = Run { model, plan, options, partial, disk, journal, done, total, progress };
    let outcome = run.all(calibration);
    let Run { partial, disk, mut journal, .. } = run;
    outcome.inspect_err(|error| {
        // The first error is what the user must hear; without a journal the next run begins anew.
        let _ = match error {
            // No run can make a file of it.
            RunError::NotFinite { .. } => partial.remove().is_ok(),
            _ => journal.save(&disk).is_ok(),
        };
    })?;
    disk.sync(File::sync_all)?;
    journal.save(&disk)?;
    Ok(Written { partial, out: out.to_owned(), tensors: journal.into_reports() })
}

/// A run on its way.
struct Run<'a> {
    model: &'a Model,
    plan: &'a Plan,
    options: RunOptions<'a>,
    partial: Partial,
    disk: Disk,
    journal: Journal,
    /// Elements.
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Run<'_> {
    /// Layer by layer where a text is to be followed through them, and all that is left at once.
    fn all(&mut self, calibration: Option<(&Windows, Method)>) -> Result<(), RunError> {
        let plan = self.plan;
        if let Some((windows, method)) = calibration {
            let undone = |job: &usize| !self.journal.is_done(*job);
            let mut layers: Vec<usize> =
                (0..plan.jobs.len()).filter(undone).filter_map(|job| plan.jobs[job].tensor.layer).collect();
            layers.sort_unstable();
            layers.dedup();
            let RunOptions { threads, stop, .. } = self.options;
            // A pool that is there already is as good.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
            let gather = Gather { windows, threads, products: method.needs_products(), stop };
            each_layer::<RunError>(self.model, gather, &layers, &mut |step| {
                let (layer, inputs) = match step {
                    Step::Layer { layer, inputs } => (layer, inputs),
                    Step::Window { layer, done } => {
                        let what = format!("layer {layer} reads window {done} of {}", windows.iter().len());
                        (self.progress)(Progress { what: &what, done: self.done, total: self.total });
                        return Ok(());
                    }
                };
                let of_layer: Vec<usize> =
                    (0..plan.jobs.len()).filter(|job| plan.jobs[*job].tensor.layer == Some(layer)).collect();
                let jobs: Vec<&Job> = of_layer.iter().map(|job| &plan.jobs[*job]).collect();
                let treatment = Treatment::decide(self.model, &jobs, method, *inputs)?;
                self.write_input_scales(&jobs, &treatment)?;
                self.jobs(&of_layer, &treatment)
            })
            .map_err(|error| match error {
                RunError::Calibration(CalibrationError::Stopped) => self.stopped(),
                other => other,
            })?;
        }
        self.jobs(&(0..plan.jobs.len()).collect::<Vec<_>>(), &Treatment::default())
    }

    fn stopped(&self) -> RunError {
        RunError::Stopped { partial: self.partial.root.clone() }
    }

    fn write_input_scales(&self, jobs: &[&Job], treatment: &Treatment) -> Result<(), RunError> {
        for job in jobs {
            if let (Some(at), Some(scale)) = (job.input_scale, treatment.fixed_scale(&job.tensor)) {
                self.disk.write(job.file, &scale.to_le_bytes(), at)?;
            }
        }
        Ok(())
    }

    /// Carries out those of some jobs that are not done.
    fn jobs(&mut self, jobs: &[usize], treatment: &Treatment) -> Result<(), RunError> {
        let Run { model, plan, options, partial: _, disk, journal, done, total, progress } = self;
        let disk = &*disk;
        let undone: Vec<usize> = jobs.iter().copied().filter(|job| !journal.is_done(*job)).collect();
        let todo: Vec<Slab> = slabs(plan, &undone);
        let mut left: Vec<usize> = vec![0; plan.jobs.len()];
        todo.iter().for_each(|slab| left[slab.job] += 1);
        let mut sums: Vec<Errors> = vec![Errors::default(); plan.jobs.len()];
        let next = AtomicUsize::new(0);
        let halt = AtomicBool::new(false);
        let (sender, results) = channel();
        std::thread::scope(|scope| {
            for _ in 0..options.threads.max(1) {
                let worker = Worker { model, plan, disk, options: *options, treatment, halt: &halt };
                let (next, todo, sender) = (&next, &todo, sender.clone());
                scope.spawn(move || worker.run(next, todo, &sender));
            }
            drop(sender);
            // Another thread waits for the disk: this one gives memory back and is watched.
            let (due, dues) = channel::<()>();
            let waiting = scope.spawn(move || dues.iter().try_for_each(|()| disk.sync(File::sync_data)));
            let mut failure = None;
            let mut unsynced = 0;
            let halted = || halt.store(true, Ordering::Relaxed);
            for (index, outcome) in results {
                let slab = &todo[index];
                match outcome {
                    Ok(errors) => {
                        sums[slab.job].add(errors);
                        left[slab.job] -= 1;
                        *done += slab.elements(plan);
                        let job = &plan.jobs[slab.job];
                        if left[slab.job] == 0 {
                            journal.finished(slab.job, report(job, sums[slab.job]));
                            // Only memory is at stake: pages that stay are the system's to drop.
                            let _ = model.weights.release_tensor(&job.tensor.source);
                            if let Err(error) = journal.save_now_and_then(disk) {
                                halted();
                                failure.get_or_insert(error);
                            }
                        }
                        unsynced += slab.bytes(plan);
                        if unsynced >= SYNC_BYTES {
                            unsynced = 0;
                            if due.send(()).is_err() {
                                halted();
                            }
                        }
                        progress(Progress { what: &job.tensor.name, done: *done, total: *total });
                    }
                    Err(error) => {
                        halted();
                        failure.get_or_insert(error);
                    }
                }
            }
            drop(due);
            // What the disk said first, before what others heard of it.
            waiting.join().expect("waiting for the disk does not panic")?;
            failure.map_or(Ok(()), Err)
        })?;
        match undone.iter().all(|job| self.journal.is_done(*job)) {
            true => Ok(()),
            false => Err(self.stopped()),
        }
    }
}

impl From<CalibrationError> for RunError {
    fn from(error: CalibrationError) -> RunError {
        RunError::Calibration(error)
    }
}

pub(super) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::Io { doing, path: path.to_owned(), source }
}

/// What a file follows from; a journal of another recipe is of no use.
fn recipe(model: &Model, plan: &Plan, calibration: Option<&Windows>) -> String {
    use sha2::{Digest as _, Sha256};
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(plan.scheme.to_string());
    plan.files.iter().for_each(|file| digest.update(&file.header));
    model.weights.identify(&mut |bytes| digest.update(bytes));
    for window in calibration.iter().flat_map(|windows| windows.iter()) {
        digest.update(format!("window of {}", window.len()));
        window.iter().for_each(|token| digest.update(token.to_le_bytes()));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
