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
    pub(super) fn keep_logits(&self, file: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        self.run(file, arguments).map(|_| ())
    }

    /// Compares a file with the one whose logits are kept.
    pub(super) fn compare(&self, file: &Path, arguments: &[&str]) -> anyhow::Result<Found> {
        let printed = self.run(file, &[arguments, &["--kl-divergence"]].concat())?;
        found(&printed).with_context(|| format!("llama-perplexity printed no figures:\n{printed}"))
    }

    /// Removes the kept logits, which are large.
    pub(super) fn forget_logits(&self) -> anyhow::Result<()> {
        super::remove(&self.logits)
    }

    fn run(&self, file: &Path, more: &[&str]) -> anyhow::Result<String> {
        let logits = self.logits.to_str().context("the path of the target folder is not UTF-8")?;
        let mut arguments = vec!["-c", "512", "--chunks", &self.windows, "--kl-divergence-base", logits];
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of what it prints, in the format of version 11434.
    const PRINTED: &str = "\
chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              \u{394}p RMS            Same top p
   1      22.9074 \u{b1}    4.2519       0.00771 \u{b1}    0.00629       0.00429 \u{b1}    0.00020     1.454 \u{b1}  0.107 %    96.078 \u{b1}  1.218 %

====== Perplexity statistics ======
Mean PPL(Q)                   :  16.700536 \u{b1}   1.996902
Mean PPL(base)                :  16.678063 \u{b1}   1.992615
Cor(ln(PPL(Q)), ln(PPL(base))):  99.94%
Mean PPL(Q)/PPL(base)         :   1.001347 \u{b1}   0.004061

====== KL divergence statistics ======
Mean    KLD:   0.003917 \u{b1}   0.000131
Maximum KLD:   0.020141
";

    #[test]
    fn perplexity_and_mean_divergence_are_found_among_its_figures() {
        assert_eq!(found(PRINTED), Some(Found { perplexity: 16.700536, kl: 0.003917 }));
    }

    #[test]
    fn figures_that_are_missing_or_no_numbers_are_not_made_up() {
        let without =
            |line: &str| PRINTED.lines().filter(|l| !l.starts_with(line)).collect::<Vec<_>>().join("\n");
        assert_eq!(found(&without("Mean    KLD")), None);
        assert_eq!(found(&without("Mean PPL(Q)  ")), None);
        assert_eq!(found(&PRINTED.replace("0.003917", "-nan?")), None);
    }
}
