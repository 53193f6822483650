//! Which programs run with which arguments, and which figure of their output counts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

use super::super::engines::parse;
use super::super::peers::Peers;
use super::super::stats::{Probe, Summary};
use crate::python::Python;
use crate::{environment, server, shell};

/// Everything that measures.
pub(super) struct Programs {
    wharf: PathBuf,
    throughput: PathBuf,
    bench: PathBuf,
    peers: Peers,
    python: Python,
    threads: String,
}

/// How fast a student was trained.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(super) struct Trained {
    pub(super) tokens_per_second: f64,
    pub(super) flops_per_second: f64,
}

/// Steps of a training that is measured, two sequences of 256 tokens each.
const STEPS: &str = "6";
/// Steps in which memory is used for the first time: hundreds follow them when somebody trains.
const WARM_UP: usize = 2;

impl Trained {
    /// The rate of the median step after the warm-up; `metrics` is what the run, as a whole `self`, wrote for each.
    fn warm(self, metrics: &str) -> anyhow::Result<Trained> {
        #[derive(Deserialize)]
        struct Line {
            /// Validations have none.
            lr: Option<f64>,
            #[serde(default)]
            tokens_per_second: f64,
        }
        let lines: Vec<Line> = metrics.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let steps = lines.iter().filter(|line| line.lr.is_some()).map(|line| line.tokens_per_second);
        let rates: Vec<f64> = steps.skip(WARM_UP).collect();
        let rate = Summary::of(&rates).context("there is no step after the warm-up")?.median;
        Ok(Trained {
            tokens_per_second: rate,
            flops_per_second: self.flops_per_second / self.tokens_per_second * rate,
        })
    }
}

/// What a command took.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    pub(super) peak_bytes: u64,
}

impl Programs {
    /// Builds ours.
    pub(super) fn build(peers: Peers, python: Python, threads: usize) -> anyhow::Result<Programs> {
        Ok(Programs {
            throughput: shell::example("throughput")?,
            bench: shell::example("bench")?,
            wharf: server::build()?,
            peers,
            python,
            threads: threads.to_string(),
        })
    }

    /// What the machine can do now.
    pub(super) fn probe(&self) -> anyhow::Result<Probe> {
        parse(&shell::output(Command::new(&self.bench).arg("--probe").arg(&self.threads))?)
    }

    pub(super) fn our_quantize(&self, from: &Path, to: &Path, scheme: &str) -> Command {
        let mut command = Command::new(&self.wharf);
        command.arg("quantize").arg(from).arg("-o").arg(to);
        command.args(["--scheme", scheme, "--threads", &self.threads]);
        command
    }

    pub(super) fn llama_quantize(&self, from: &Path, to: &Path, kind: &str) -> Command {
        let mut command = self.peers.llama("llama-quantize");
        command.arg(from).arg(to).args([kind, &self.threads]);
        command
    }

    /// Runs a command to its end.
    pub(super) fn cost(&self, command: &Command) -> anyhow::Result<Cost> {
        let mut measure = self.python.command();
        measure.arg(environment::root().join("scripts/measure.py"));
        measure.arg(command.get_program()).args(command.get_args());
        measure.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        parse(&shell::output(&mut measure)?)
    }

    /// `llama-perplexity` on a text, and everything that it prints.
    pub(super) fn perplexity(&self, arguments: &[&str], file: &Path, text: &Path) -> anyhow::Result<String> {
        let mut command = self.peers.llama("llama-perplexity");
        command.arg("-m").arg(file).arg("-f").arg(text).args(["-t", &self.threads]).args(arguments);
        shell::captured(&mut command).map(|printed| printed.concat())
    }

    /// Tokens a second of our engine, with logits of every position.
    pub(super) fn engine_rate(&self, file: &Path) -> anyhow::Result<f64> {
        #[derive(Deserialize)]
        struct Line {
            rate: f64,
        }
        let mut ours = Command::new(&self.throughput);
        ours.arg(file).args(["--json", "--row", "scored:512", "--threads", &self.threads]);
        Ok(parse::<Line>(&shell::output(&mut ours)?)?.rate)
    }

    /// Tokens a second of `wharf eval`.
    pub(super) fn eval_rate(
        &self,
        file: &Path,
        reference: Option<&Path>,
        text: &Path,
        windows: usize,
    ) -> anyhow::Result<f64> {
        #[derive(Deserialize)]
        struct Report {
            models: Vec<Judged>,
        }
        #[derive(Deserialize)]
        struct Judged {
            tokens_per_second: f64,
        }
        let mut command = Command::new(&self.wharf);
        command.arg("eval").arg(file).arg("--text").arg(text);
        command.args(["--windows", &windows.to_string(), "--threads", &self.threads, "--output", "json"]);
        if let Some(reference) = reference {
            command.arg("--reference").arg(reference);
        }
        let report: Report = parse(&shell::output(&mut command)?)?;
        let judged = report.models.first().context("wharf eval judged no model")?;
        Ok(judged.tokens_per_second)
    }

    /// Trains a student of half the layers of `teacher` for some steps into `out`, which does not stay. The threads are shared out among
    /// the processes; with `alpha` 0 the teacher is not asked.
    pub(super) fn distill(
        &self,
        teacher: &Path,
        text: &Path,
        out: &Path,
        (processes, alpha): (usize, f32),
    ) -> anyhow::Result<Trained> {
        let mut command = Command::new(&self.wharf);
        command.arg("distill").arg("--teacher").arg(teacher).arg("--data").arg(text).arg("-o").arg(out);
        command.args([
            "--layers",
            "15",
            "--steps",
            STEPS,
            "--batch",
            "2",
            "--micro-batch",
            "2",
            "--window",
            "256",
        ]);
        command.args(["--data-parallel", &processes.to_string(), "--alpha", &alpha.to_string()]);
        command.args(["--validation-windows", "1", "--checkpoint-every", STEPS, "--device", "cpu"]);
        command.args(["--threads", &self.threads, "--output", "json"]);
        let whole: Trained = parse(&shell::output(&mut command)?)?;
        let metrics = out.join("metrics.jsonl");
        let text = std::fs::read_to_string(&metrics)
            .with_context(|| format!("failed to read {}", metrics.display()))?;
        let trained = whole.warm(&text).with_context(|| format!("failed to read {}", metrics.display()))?;
        std::fs::remove_dir_all(out).with_context(|| format!("failed to remove {}", out.display()))?;
        Ok(trained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_training_is_that_of_the_median_step_after_two() {
        let step = |rate: f64| format!("{{\"step\":1,\"lr\":0.1,\"tokens_per_second\":{rate}}}\n");
        let validation = "{\"step\":0,\"perplexity\":9.5}\n";
        let metrics = [10.0, 20.0, 60.0, 40.0, 50.0].map(step).concat() + validation;
        let whole = Trained { tokens_per_second: 30.0, flops_per_second: 300.0 };
        let warm = whole.warm(&(validation.to_owned() + &metrics)).unwrap();
        assert_eq!(warm, Trained { tokens_per_second: 50.0, flops_per_second: 500.0 });
        whole.warm(validation).unwrap_err();
    }
}
