//! Everything that a run's result depends on, and where its files are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compute::Device;
use super::error::DistillError;
use super::export::Format;
use super::loss::Objective;
use super::optimizer::Optimizer;
use super::student::Student;

/// Everything that a run's result depends on. Two runs with equal recipes on one kind of CPU end with equal weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The model to learn from.
    pub teacher: PathBuf,
    /// The model that learns.
    pub student: Student,
    /// Text, JSON lines with `text`, JSON lines with `messages`.
    pub data: Vec<PathBuf>,
    /// The loss.
    pub objective: Objective,
    /// Weight of the mean squared difference between layers of student and teacher.
    pub features: f32,
    /// Share of sequences that the student writes itself.
    pub on_policy: f32,
    /// Of conversations only what the assistant says is learned.
    #[serde(default)]
    pub assistant_only: bool,
    /// The likeliest tokens of the teacher that are kept on disk instead of asking it anew.
    pub teacher_cache: Option<usize>,
    /// How weights move.
    pub optimizer: Optimizer,
    /// Steps to take.
    pub steps: usize,
    /// Sequences per step, over all processes.
    pub batch: usize,
    /// Sequences computed at a time in one process.
    pub micro_batch: usize,
    /// Tokens per sequence.
    pub window: usize,
    /// Share of windows that are kept for validation.
    pub validation: f64,
    /// Most windows that a validation computes.
    pub validation_windows: usize,
    /// Steps between validations.
    pub validate_every: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// What to compute on.
    pub device: Device,
    /// Processes.
    pub processes: usize,
    /// What the student is written as.
    #[serde(default)]
    pub format: Format,
    /// Where the student goes. Not a part of the recipe: the run's folder is named after it.
    #[serde(skip)]
    pub out: PathBuf,
}

impl Recipe {
    /// Refuses values that no run can have.
    pub(super) fn check(&self) -> Result<(), DistillError> {
        let Recipe { objective, optimizer, .. } = self;
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let rules = [
            (share(objective.alpha), "--alpha must be between 0 and 1"),
            (share(self.on_policy), "--on-policy must be between 0 and 1"),
            (
                objective.temperature.is_finite() && objective.temperature > 0.0,
                "--temperature must be a positive number",
            ),
            (self.features.is_finite() && self.features >= 0.0, "--features must be 0 or a positive number"),
            (positive(optimizer.lr), "--lr must be a positive number"),
            (positive(optimizer.clip), "--clip must be a positive number"),
            (
                optimizer.weight_decay.is_finite() && optimizer.weight_decay >= 0.0,
                "--weight-decay must be 0 or a positive number",
            ),
            (self.validation > 0.0 && self.validation < 1.0, "--validation must be between 0 and 1"),
            (self.steps > 0, "--steps must be at least 1"),
            (self.window >= 2, "--window must be at least 2"),
            (self.micro_batch > 0, "--micro-batch must be at least 1"),
            (self.validation_windows > 0, "--validation-windows must be at least 1"),
            (self.validate_every > 0, "--validate-every must be at least 1"),
            (self.checkpoint_every > 0, "--checkpoint-every must be at least 1"),
            (
                self.processes > 0 && self.batch >= self.processes,
                "--batch must be at least 1, and at least the processes of --data-parallel",
            ),
            (!self.data.is_empty(), "--data names no file"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, sentence)) => Err(DistillError::Input((*sentence).to_owned())),
            None => Ok(()),
        }
    }

    /// Names of the settings in which two recipes differ.
    pub(super) fn differences(&self, other: &Recipe) -> Vec<String> {
        let value = |recipe: &Recipe| serde_json::to_value(recipe).expect("a recipe is plain data");
        let (Value::Object(ours), Value::Object(theirs)) = (value(self), value(other)) else {
            unreachable!("a structure becomes an object")
        };
        ours.into_iter().filter(|(key, value)| theirs.get(key) != Some(value)).map(|(key, _)| key).collect()
    }
}

/// The files of a run under way, beside the output.
pub(super) struct WorkFolder {
    pub(super) root: PathBuf,
}

/// Whether a run to `out` was begun, and can be resumed.
pub fn is_begun(out: &Path) -> bool {
    WorkFolder::beside(out).recipe().is_file()
}

impl WorkFolder {
    pub(super) fn beside(out: &Path) -> WorkFolder {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".distilling");
        WorkFolder { root: out.with_file_name(name) }
    }

    pub(super) fn recipe(&self) -> PathBuf {
        self.root.join("recipe.json")
    }

    pub(super) fn tokens(&self) -> PathBuf {
        self.root.join("tokens.u32")
    }

    /// The layers that the student keeps, once they are chosen.
    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers.json")
    }

    pub(super) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// Of the rank `rank`, whose windows are its own.
    pub(super) fn teacher_cache(&self, rank: usize) -> PathBuf {
        self.root.join(format!("teacher-{rank}.topk"))
    }

    /// Where the output is made.
    pub(super) fn result(&self) -> PathBuf {
        self.root.join("result")
    }

    /// Where the student is written for the engine, to write text itself.
    pub(super) fn own_text(&self, rank: usize) -> PathBuf {
        self.root.join(format!("own-text-{rank}"))
    }

    /// Makes the folder of a new run, or finds that of an interrupted one.
    pub(super) fn prepare(&self, out: &Path, recipe: &Recipe, resume: bool) -> Result<(), DistillError> {
        if out.exists() {
            return Err(DistillError::Input(format!(
                "{} exists already; give another path to -o, or remove it",
                out.display()
            )));
        }
        let path = self.recipe();
        if !resume {
            if path.is_file() {
                return Err(DistillError::Input(format!(
                    "{} holds an interrupted run; go on with --resume, or remove it",
                    self.root.display()
                )));
            }
            std::fs::create_dir_all(&self.root).map_err(DistillError::write(&self.root))?;
            let text = serde_json::to_string_pretty(recipe).expect("a recipe is plain data");
            let partial = path.with_extension("partial");
            std::fs::write(&partial, text).map_err(DistillError::write(&partial))?;
            return std::fs::rename(&partial, &path).map_err(DistillError::write(&path));
        }
        if !path.is_file() {
            return Err(DistillError::Input(format!(
                "there is no run to resume: {} does not exist; leave --resume out to start one",
                path.display()
            )));
        }
        let bytes = std::fs::read(&path).map_err(DistillError::read(&path))?;
        let earlier: Recipe = serde_json::from_slice(&bytes)
            .map_err(|error| DistillError::Input(format!("failed to parse {}: {error}", path.display())))?;
        let differences = recipe.differences(&earlier);
        if differences.is_empty() {
            return Ok(());
        }
        Err(DistillError::Input(format!(
            "the run in {} was started with other settings ({}); --resume goes on with the same ones",
            self.root.display(),
            differences.join(", ")
        )))
    }
}
