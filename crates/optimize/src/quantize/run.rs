//! Decides in which order a plan is carried out: slabs of rows, taken by threads as they come, written where the plan says.
//!
//! A slab is read, rounded and written by one thread, so that memory does not depend on the size of the tensors. The file has
//! another name until it is whole; a journal beside it says which tensors are done, so that the same command goes on where it was
//! stopped.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use wharf_kernels::block;
use wharf_model::Model;
use wharf_model::export::Exported;

use super::blocks::{self, Row};
use super::importance::Importance;
use super::journal::{Journal, Partial};
use super::plan::{Encoding, Job, Plan};
use super::report::TensorReport;

/// Elements that a thread takes at once, as whole rows.
const SLAB_ELEMENTS: usize = 1 << 17;

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
        &self.partial.file
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(self) -> Result<(), RunError> {
        std::fs::rename(&self.partial.file, &self.out)
            .map_err(|error| io_error("rename", &self.partial.file, error))?;
        self.partial.remove_journal();
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn discard(self) -> Result<(), RunError> {
        std::fs::remove_file(&self.partial.file)
            .map_err(|error| io_error("remove", &self.partial.file, error))?;
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
    let partial = Partial::of(out);
    let recipe = recipe(model, plan, options.importance);
    let mut journal = Journal::resume_or_new(&partial, recipe);
    let file = open(&partial.file, plan, &journal)?;
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
            let worker = Worker { model, plan, file: &file, partial: &partial.file, options, halt: &halt };
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
        false => Err(RunError::Stopped { partial: partial.file.clone() }),
    })
    .inspect_err(|_| {
        // The first error is what the user must hear; without a journal the next run begins anew.
        let _ = journal.save(&file);
    })?;
    file.sync_all().map_err(|error| io_error("write", &partial.file, error))?;
    journal.save(&file).map_err(|error| io_error("write", &partial.journal, error))?;
    Ok(Written { partial, out: out.to_owned(), tensors: journal.into_reports() })
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> RunError {
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

fn open(path: &Path, plan: &Plan, journal: &Journal) -> Result<File, RunError> {
    let fail = |doing| move |error| io_error(doing, path, error);
    let fresh = journal.done() == 0;
    let file = File::options().write(true).create(true).truncate(fresh).open(path).map_err(fail("create"))?;
    file.set_len(plan.len).map_err(fail("size"))?;
    file.write_all_at(&plan.header, 0).map_err(fail("write"))?;
    Ok(file)
}

/// Rows of one tensor.
struct Slab {
    job: usize,
    rows: Range<usize>,
}

impl Slab {
    fn elements(&self, plan: &Plan) -> u64 {
        (self.rows.len() * plan.jobs[self.job].tensor.cols()) as u64
    }
}

fn slabs(plan: &Plan, is_done: impl Fn(usize) -> bool) -> Vec<Slab> {
    let mut slabs = Vec::new();
    for (index, job) in plan.jobs.iter().enumerate().filter(|(index, _)| !is_done(*index)) {
        let rows = job.tensor.rows();
        let step = (SLAB_ELEMENTS / job.tensor.cols()).max(1);
        slabs.extend(
            (0..rows).step_by(step).map(|first| Slab { job: index, rows: first..rows.min(first + step) }),
        );
    }
    slabs
}

/// Sums of squares over a tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    of_errors: f64,
    of_weights: f64,
}

impl Errors {
    fn add(&mut self, other: Errors) {
        self.of_errors += other.of_errors;
        self.of_weights += other.of_weights;
    }
}

fn report(job: &Job, errors: Errors) -> TensorReport {
    let source = &job.tensor.source;
    let to = match job.encoding {
        Encoding::Copy => source.dtype,
        Encoding::Blocks(dtype) => dtype,
    };
    TensorReport {
        name: job.tensor.name.clone(),
        shape: source.shape.clone(),
        from: source.dtype.to_string(),
        to: to.to_string(),
        bytes_before: source.len as u64,
        bytes_after: job.len,
        relative_error: if errors.of_weights > 0.0 {
            (errors.of_errors / errors.of_weights).sqrt()
        } else {
            0.0
        },
    }
}

struct Worker<'a> {
    model: &'a Model,
    plan: &'a Plan,
    file: &'a File,
    partial: &'a Path,
    options: RunOptions<'a>,
    /// Set when another worker has failed.
    halt: &'a AtomicBool,
}

/// Memory of a worker, kept from slab to slab.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    back: Vec<f32>,
    out: Vec<u8>,
}

impl Worker<'_> {
    fn run(&self, next: &AtomicUsize, slabs: &[Slab], results: &Sender<(usize, Result<Errors, RunError>)>) {
        let mut scratch = Scratch::default();
        while !self.halt.load(Ordering::Relaxed) && !self.options.stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slab) = slabs.get(index) else { return };
            let outcome = self.slab(slab, &mut scratch);
            // Nobody listens only when the run is over.
            if results.send((index, outcome)).is_err() {
                return;
            }
        }
    }

    fn slab(&self, slab: &Slab, scratch: &mut Scratch) -> Result<Errors, RunError> {
        let job = &self.plan.jobs[slab.job];
        let tensor = &job.tensor;
        let bytes = self.model.weights.bytes(&tensor.source);
        let row_bytes = bytes.len() / tensor.rows();
        let errors = match job.encoding {
            Encoding::Copy => {
                scratch.out.clear();
                for row in slab.rows.clone() {
                    let from = &bytes[tensor.row(row) * row_bytes..][..row_bytes];
                    if tensor.source.dtype.block_len() == 1 {
                        self.read(tensor, row, from, &mut scratch.x)?;
                    }
                    scratch.out.extend_from_slice(from);
                }
                Errors::default()
            }
            Encoding::Blocks(dtype) => {
                let importance = self.options.importance.and_then(|all| all.of(tensor));
                let (cols, new_bytes) =
                    (tensor.cols(), dtype.bytes_for(tensor.cols()).expect("the plan chose a type that fits"));
                scratch.out.resize(slab.rows.len() * new_bytes, 0);
                scratch.back.resize(cols, 0.0);
                let mut errors = Errors::default();
                for (row, out) in slab.rows.clone().zip(scratch.out.chunks_exact_mut(new_bytes)) {
                    let from = &bytes[tensor.row(row) * row_bytes..][..row_bytes];
                    self.read(tensor, row, from, &mut scratch.x)?;
                    blocks::encode(dtype, Row { x: &scratch.x, importance }, out);
                    block::dequantize(dtype, out, &mut scratch.back).expect("a row of the new type");
                    errors.add(compare(&scratch.x, &scratch.back));
                }
                errors
            }
        };
        let at = job.at + (slab.rows.start as u64) * (job.len / tensor.rows() as u64);
        self.file.write_all_at(&scratch.out, at).map_err(|error| io_error("write", self.partial, error))?;
        Ok(errors)
    }

    /// Reads row `row` of what is written.
    fn read(&self, tensor: &Exported, row: usize, from: &[u8], x: &mut Vec<f32>) -> Result<(), RunError> {
        x.resize(tensor.cols(), 0.0);
        block::dequantize(tensor.source.dtype, from, x).expect("a row has the bytes of its elements");
        refuse_infinite(tensor, row, x)
    }
}

fn refuse_infinite(tensor: &Exported, row: usize, x: &[f32]) -> Result<(), RunError> {
    // Zero times a number is zero, and times anything else is not.
    match x.iter().map(|x| x * 0.0).sum::<f32>() == 0.0 {
        true => Ok(()),
        false => {
            let col = x.iter().position(|x| !x.is_finite()).expect("a product with zero was not zero");
            Err(RunError::NotFinite {
                tensor: tensor.source.name.clone(),
                row: tensor.row(row),
                col,
                value: x[col],
            })
        }
    }
}

fn compare(x: &[f32], back: &[f32]) -> Errors {
    let (mut of_errors, mut of_weights) = ([0.0f32; 8], [0.0f32; 8]);
    for (x, back) in x.chunks(8).zip(back.chunks(8)) {
        for (i, (x, back)) in x.iter().zip(back).enumerate() {
            of_errors[i] += (x - back) * (x - back);
            of_weights[i] += x * x;
        }
    }
    let sum = |lanes: [f32; 8]| lanes.iter().map(|x| f64::from(*x)).sum();
    Errors { of_errors: sum(of_errors), of_weights: sum(of_weights) }
}
