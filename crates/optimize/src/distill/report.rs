//! What a run tells: a line of JSON for each step, and at the end what it gained.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::DistillError;

/// A line of metrics.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// After a step.
    Step(StepLine),
    /// After a validation.
    Validation(Validation),
}

/// What one step came to. Losses are those of the step's tokens before the weights moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// From 1.
    pub step: usize,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// alpha * T^2 * kl + (1 - alpha) * ce, and what feature matching adds.
    pub loss: f64,
    /// Divergence from the teacher at temperature T; 0 without a teacher.
    pub kl: f64,
    /// Cross-entropy with the text.
    pub ce: f64,
    /// Mean squared difference of matched layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens trained on per second in this step.
    pub tokens_per_second: f64,
}

/// The student on text that it is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps taken before.
    pub step: usize,
    /// exp of the student's cross-entropy.
    pub perplexity: f64,
    /// Mean KL(teacher || student) at temperature 1.
    pub kl_to_teacher: f64,
    /// Share of positions where both have the same likeliest token.
    pub top1_agreement: f64,
    /// exp of the teacher's cross-entropy.
    pub teacher_perplexity: f64,
    /// Positions.
    pub positions: usize,
}

/// What a finished run was and gained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The teacher's name for itself.
    pub teacher: String,
    /// Numbers in the teacher.
    pub teacher_parameters: usize,
    /// Numbers in the student.
    pub student_parameters: usize,
    /// Layers of teacher and student.
    pub layers: [usize; 2],
    /// Steps taken.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training in this process, validation not counted.
    pub seconds: f64,
    /// Tokens trained on per second.
    pub tokens_per_second: f64,
    /// Floating-point operations of training per second: 6 a token and matrix element.
    pub flops_per_second: f64,
    /// Before the first step.
    pub before: Validation,
    /// After the last.
    pub after: Validation,
    /// Mean KL between what the trainer and the inference engine compute from the written student.
    pub engine_kl: f64,
    /// Files written.
    pub files: Vec<PathBuf>,
    /// What a person should know about them.
    pub notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millions = |n: usize| n as f64 / 1e6;
        writeln!(
            f,
            "student of {}: {} of {} layers, {:.1} of {:.1} million parameters",
            self.teacher,
            self.layers[1],
            self.layers[0],
            millions(self.student_parameters),
            millions(self.teacher_parameters)
        )?;
        writeln!(
            f,
            "trained {} steps on {} tokens in {:.0} s: {:.0} tokens/s, {:.0} GFLOP/s",
            self.steps,
            self.tokens,
            self.seconds,
            self.tokens_per_second,
            self.flops_per_second / 1e9
        )?;
        writeln!(f, "\n{:<22}{:>12}{:>12}{:>12}", "validation", "before", "after", "teacher")?;
        let Report { before, after, .. } = self;
        writeln!(
            f,
            "{:<22}{:>12.3}{:>12.3}{:>12.3}",
            "perplexity", before.perplexity, after.perplexity, after.teacher_perplexity
        )?;
        writeln!(
            f,
            "{:<22}{:>12.4}{:>12.4}",
            "KL to the teacher", before.kl_to_teacher, after.kl_to_teacher
        )?;
        writeln!(
            f,
            "{:<22}{:>11.1}%{:>11.1}%",
            "same likeliest token",
            before.top1_agreement * 100.0,
            after.top1_agreement * 100.0
        )?;
        writeln!(f, "\nthe inference engine agrees with the trainer to a KL of {:.1e}", self.engine_kl)?;
        for file in &self.files {
            writeln!(f, "wrote {}", file.display())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

/// metrics.jsonl, one line after the other.
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file and forgets what it says about steps after `step`, which are computed again.
    pub(super) fn open(path: &Path, step: usize) -> Result<Metrics, DistillError> {
        let kept: Vec<Line> = match path.is_file() {
            true => read(path)?.into_iter().filter(|line| step_of(line) <= step).collect(),
            false => Vec::new(),
        };
        let partial = path.with_extension("partial");
        let text: String = kept.iter().map(text_of).collect();
        std::fs::write(&partial, text).map_err(DistillError::write(&partial))?;
        std::fs::rename(&partial, path).map_err(DistillError::write(path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(DistillError::write(path))?;
        Ok(Metrics { path: path.to_owned(), file })
    }

    pub(super) fn write(&mut self, line: &Line) -> Result<(), DistillError> {
        self.file.write_all(text_of(line).as_bytes()).map_err(DistillError::write(&self.path))
    }
}

fn step_of(line: &Line) -> usize {
    match line {
        Line::Step(line) => line.step,
        Line::Validation(line) => line.step,
    }
}

fn text_of(line: &Line) -> String {
    serde_json::to_string(line).expect("numbers and names have a text") + "\n"
}

/// All lines of a metrics file. A last line that was cut by a crash is left out.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, DistillError> {
    let file = File::open(path).map_err(DistillError::read(path))?;
    let mut lines = Vec::new();
    let mut reader = BufReader::new(file);
    for number in 1.. {
        let mut text = String::new();
        if reader.read_line(&mut text).map_err(DistillError::read(path))? == 0 {
            break;
        }
        match serde_json::from_str(&text) {
            Ok(line) => lines.push(line),
            Err(_) if !text.ends_with('\n') => {}
            Err(error) => {
                return Err(DistillError::Data {
                    path: path.to_owned(),
                    line: number,
                    why: error.to_string(),
                });
            }
        }
    }
    Ok(lines)
}

/// The validation before the first step, if the file tells of it.
pub(super) fn first_validation(path: &Path) -> Result<Option<Validation>, DistillError> {
    Ok(validations(path)?.into_iter().find(|found| found.step == 0))
}

/// The latest validation, if the file tells of one.
pub(super) fn last_validation(path: &Path) -> Result<Option<Validation>, DistillError> {
    Ok(validations(path)?.pop())
}

fn validations(path: &Path) -> Result<Vec<Validation>, DistillError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let validation = |line| match line {
        Line::Validation(found) => Some(found),
        Line::Step(_) => None,
    };
    Ok(read(path)?.into_iter().filter_map(validation).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize) -> Line {
        Line::Step(StepLine {
            step,
            tokens: 1,
            loss: 0.5,
            kl: 0.25,
            ce: 1.0,
            features: None,
            lr: 1e-3,
            grad_norm: 2.0,
            tokens_per_second: 3.0,
        })
    }

    #[test]
    fn resuming_forgets_later_steps_and_a_line_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        (1..=3).for_each(|step| metrics.write(&line(step)).unwrap());
        metrics.file.write_all(b"{\"step\": 4, \"lo").unwrap();
        let mut metrics = Metrics::open(&path, 2).unwrap();
        metrics.write(&line(3)).unwrap();
        assert_eq!(read(&path).unwrap(), [line(1), line(2), line(3)]);
    }
}
