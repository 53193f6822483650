//! Asks `llama-perplexity` how far a file is from another, on a text.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::programs::Programs;

/// What `llama-perplexity --kl-divergence` finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) perplexity: f64,
    /// Mean divergence from the kept logits, nats.
    pub(super) kl: f64,
}

/// Judges files beside one whose logits are kept in a file.
pub(super) struct Judge<'a> {
    programs: &'a Programs,
    text: &'a Path,
    windows: String,
    logits: PathBuf,
}

impl<'a> Judge<'a> {
    pub(super) fn new(programs: &'a Programs, text: &'a Path, windows: usize, logits: &Path) -> Judge<'a> {
        Judge { programs, text, windows: windows.to_string(), logits: logits.to_owned() }
    }

    /// Keeps the logits of this file for [`Judge::compare`].
    pub(super) fn keep_logits(&self, file: &Path, micro_batch: Option<usize>) -> anyhow::Result<()> {
        self.run(file, micro_batch, &[]).map(|_| ())
    }

    /// Compares a file with the one whose logits are kept.
    pub(super) fn compare(&self, file: &Path, micro_batch: Option<usize>) -> anyhow::Result<Found> {
        let printed = self.run(file, micro_batch, &["--kl-divergence"])?;
        found(&printed).with_context(|| format!("llama-perplexity printed no figures:\n{printed}"))
    }

    /// Removes the kept logits, which are large.
    pub(super) fn forget_logits(&self) -> anyhow::Result<()> {
        super::remove(&self.logits)
    }

    fn run(&self, file: &Path, micro_batch: Option<usize>, more: &[&str]) -> anyhow::Result<String> {
        let logits = self.logits.to_str().context("the path of the target folder is not UTF-8")?;
        let mut arguments = vec!["-c", "512", "--chunks", &self.windows, "--kl-divergence-base", logits];
        let micro_batch = micro_batch.map(|rows| rows.to_string());
        if let Some(rows) = &micro_batch {
            arguments.extend(["-b", "512", "-ub", rows]);
        }
        arguments.extend(more);
        self.programs.perplexity(&arguments, file, self.text)
    }
}

/// The figures among what it prints.
fn found(printed: &str) -> Option<Found> {
    let figure = |name: &str| {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (_, value) =
            printed.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| words(key) == name)?;
        value.split_whitespace().next()?.parse().ok()
    };
    Some(Found { perplexity: figure("Mean PPL(Q)")?, kl: figure("Mean KLD")? })
}
