//! Why a distillation stopped, and whose fault it was.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use wharf_engine::BackendError;
use wharf_engine::cpu::LoadError;
use wharf_model::export::ExportError;
use wharf_model::{OpenError, Role};

/// Why a distillation stopped.
#[derive(Debug, Error)]
pub enum DistillError {
    /// Something that the user gave cannot work. The sentence says what.
    #[error("{0}")]
    Input(String),
    /// A model could not be opened.
    #[error("failed to open the {what} {}", path.display())]
    Open {
        /// `teacher` or `student`.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// Why it failed.
        source: Box<OpenError>,
    },
    /// A weight that no training can start from.
    #[error("the {role}{} of the {what} has {count} values that are NaN or infinite, the first at index {index}", layer.map(|n| format!(" of layer {n}")).unwrap_or_default())]
    NotFinite {
        /// `teacher` or `student`.
        what: &'static str,
        /// Which weight.
        role: Role,
        /// Of which layer.
        layer: Option<usize>,
        /// How many.
        count: usize,
        /// Where the first one is.
        index: usize,
    },
    /// A line of a data file is malformed.
    #[error("{}:{line}: {why}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {}{}", path.display(), kept(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The teacher could not be loaded into the engine.
    #[error("failed to load the {what} into the engine")]
    Load {
        /// `teacher` or `student`.
        what: &'static str,
        /// Why it failed.
        source: Box<LoadError>,
    },
    /// The engine failed on a window of the data.
    #[error("failed to compute logits of the {what}")]
    Forward {
        /// `teacher` or `student`.
        what: &'static str,
        /// Why it failed.
        source: BackendError,
    },
    /// Training left the numbers that a float can hold.
    #[error("the {what} of step {step} is not a number; lower --lr, or lengthen --warmup")]
    Diverged {
        /// `loss` or `gradient`.
        what: &'static str,
        /// The step.
        step: usize,
    },
    /// Another process of a data-parallel run ended or could not be reached.
    #[error("lost the data-parallel process {rank} while {doing}")]
    Rank {
        /// Its number.
        rank: usize,
        /// What was being exchanged.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The written student is not the trained one.
    #[error(
        "the inference engine computes something else from the written student (KL {kl:.1e}); the last checkpoint is kept"
    )]
    Mismatch {
        /// Mean over one window.
        kl: f64,
    },
    /// No device of the kind asked for.
    #[error("cannot train on {device}: {why}")]
    Device {
        /// As the user calls it.
        device: &'static str,
        /// What was looked for and not found.
        why: String,
    },
    /// The student cannot be written in the format asked for, or the teacher's files could not be read for it.
    #[error("failed to describe the student in its files")]
    Export {
        /// Why.
        source: ExportError,
    },
    /// A result could not be drawn.
    #[error("failed to draw {}: {why}", path.display())]
    Draw {
        /// The picture.
        path: PathBuf,
        /// What the drawing library said.
        why: String,
    },
}

/// What to do about a disk that is full.
fn kept(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; make room and give the same command again, with --resume where a run has begun"
        }
        _ => "",
    }
}

impl DistillError {
    /// Whether the user can mend it by giving something else: exit code 2.
    pub fn is_bad_input(&self) -> bool {
        match self {
            DistillError::Input(_)
            | DistillError::Open { .. }
            | DistillError::NotFinite { .. }
            | DistillError::Data { .. }
            | DistillError::Device { .. } => true,
            DistillError::Export { source } => matches!(source, ExportError::Unsupported { .. }),
            DistillError::Read { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory)
            }
            DistillError::Write { .. }
            | DistillError::Load { .. }
            | DistillError::Forward { .. }
            | DistillError::Diverged { .. }
            | DistillError::Rank { .. }
            | DistillError::Mismatch { .. }
            | DistillError::Draw { .. } => false,
        }
    }

    /// For `map_err` on reads.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> DistillError + '_ {
        |source| DistillError::Read { path: path.to_owned(), source }
    }

    /// For `map_err` on writes.
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> DistillError + '_ {
        |source| DistillError::Write { path: path.to_owned(), source }
    }
}
