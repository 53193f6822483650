//! `cargo xtask verify-formats`: whether others read from our folders the weights that we compute with.
//!
//! The demo model is quantised to every scheme in the format of compressed-tensors; the package of that name decompresses it, and
//! Transformers answers with it. The comparison itself is `scripts/verify_formats.py`; this command provides what the script
//! needs and judges what it found.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::demo_files::Files;
use crate::python::Python;
use crate::{environment, server, shell};

const PACKAGES: [&str; 3] = ["compressed-tensors==0.20.0", "torch==2.15.0", "transformers==5.24.0"];

/// What is quantised to, and how far logits may be from those of Transformers.
struct Case {
    /// The scheme, and what it is given beside its name.
    words: &'static [&'static str],
    /// The largest mean KL divergence, in nats.
    most_kl: f64,
}

/// Where activations stay floats, both compute the same but for the order of sums.
const FLOATS: f64 = 0.01;
/// Where they become bytes, both round by rules of their own: the package divides the largest by 127.5, vLLM's kernels and we by 127, so that
/// nearly every byte may be another. Two such roundings are at most about twice as far from each other as each is from the model
/// without them: 0.030 by rounding, 0.012 calibrated (docs/performance.md).
const BYTES: f64 = 0.06;
const CALIBRATED_BYTES: f64 = 0.025;

/// Every scheme of `wharf quantize` that makes such a folder.
const CASES: &[Case] = &[
    Case { words: &["int8"], most_kl: BYTES },
    Case { words: &["int8", "--calibrate"], most_kl: CALIBRATED_BYTES },
    Case { words: &["int8-static"], most_kl: CALIBRATED_BYTES },
    Case { words: &["int8-weight"], most_kl: FLOATS },
    Case { words: &["int8-weight", "--calibrate"], most_kl: FLOATS },
    Case { words: &["int4"], most_kl: FLOATS },
    Case { words: &["int4-gptq"], most_kl: FLOATS },
    Case { words: &["int4-awq"], most_kl: FLOATS },
    Case { words: &["fp8"], most_kl: FLOATS },
];

/// Windows to calibrate on where a scheme does: weights need not be good ones here.
const WINDOWS: &str = "2";

/// Compare quantised weights with what compressed-tensors and Transformers read
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-formats                        every scheme
  cargo xtask verify-formats --schemes int4 fp8
  cargo xtask verify-formats --output report.json

The first run installs PyTorch with its CUDA libraries, which it cannot be imported without: 6 GB in the cache. Exits with 1 when
anything differs.")]
pub(crate) struct Args {
    /// Schemes to check [default: all that make a folder]
    #[arg(long, value_name = "SCHEME", num_args = 1.., value_parser = names())]
    schemes: Vec<String>,
    /// How many tokens of text to compare logits on
    #[arg(long, value_name = "N", default_value_t = 256)]
    tokens: usize,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What the script found about a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Found {
    weights: Weights,
    logits: Logits,
}

/// The largest differences of two weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Weights {
    tensors: usize,
    /// Of them, matrices of codes.
    compressed: usize,
    /// Weights in these.
    elements: usize,
    /// With products of codes and scales in single precision.
    exact: f64,
    /// With products in the type of the scales, ours rounded to it.
    rounded: f64,
    /// What that rounding changes.
    by_rounding: f64,
    /// The first tensor that differs.
    first: Option<String>,
}

/// Our logits beside those of Transformers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Logits {
    tokens: usize,
    /// `null` where a logit is not a number.
    kl: Option<f64>,
    same_top: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let cache = Cache::open()?;
    let packages = python
        .wheels(&cache, "verify-formats", &PACKAGES)
        .context("failed to install compressed-tensors, PyTorch and Transformers")?;
    let bench = Bench {
        source: Files::open(&cache)?.rewritten(&cache, &python, "F32")?,
        wharf: server::build()?,
        weights: shell::example("weights")?,
        logits: shell::example("logits")?,
        python,
        packages,
        tokens: args.tokens,
    };
    let folder = shell::target()?.join("verify-formats");
    empty(&folder)?;
    let chosen = |name: &str| args.schemes.is_empty() || args.schemes.iter().any(|chosen| chosen == name);
    let mut found = Vec::new();
    for case in CASES.iter().filter(|case| chosen(case.words[0])) {
        found.push((case, bench.check(&folder, case.words)?));
        empty(&folder)?;
    }
    print(&found);
    if let Some(path) = &args.output {
        let figures: serde_json::Map<_, _> =
            found.iter().map(|(case, found)| (case.words.join(" "), serde_json::json!(found))).collect();
        let text = serde_json::to_string_pretty(&figures).context("failed to write the figures as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))?;
    }
    let differs = found.iter().any(|(case, found)| !wrong(case, found).is_empty());
    Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What `--schemes` takes.
fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = CASES.iter().map(|case| case.words[0]).collect();
    names.dedup();
    names
}

fn empty(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("failed to empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))
}

/// What a check needs.
struct Bench {
    source: PathBuf,
    wharf: PathBuf,
    weights: PathBuf,
    logits: PathBuf,
    python: Python,
    packages: PathBuf,
    tokens: usize,
}

impl Bench {
    fn check(&self, folder: &Path, scheme: &[&str]) -> anyhow::Result<Found> {
        let (model, weights) = (folder.join(scheme[0]), folder.join("weights.safetensors"));
        let mut quantize = Command::new(&self.wharf);
        quantize.arg("quantize").arg(&self.source).arg("-o").arg(&model);
        shell::run(quantize.args(["--windows", WINDOWS, "--scheme"]).args(scheme))?;
        shell::run(Command::new(&self.weights).arg(&model).arg(&weights))?;
        let mut compare = self.python.command();
        compare.arg(environment::root().join("scripts/verify_formats.py"));
        compare.arg("--folder").arg(&model).arg("--weights").arg(&weights).arg("--logits").arg(&self.logits);
        compare.args(["--tokens", &self.tokens.to_string()]).env("PYTHONPATH", &self.packages);
        // Nothing is to be looked up elsewhere, and nobody watches bars.
        compare.envs([("HF_HUB_OFFLINE", "1"), ("TQDM_DISABLE", "1"), ("TRANSFORMERS_VERBOSITY", "error")]);
        let printed = shell::read(&mut compare)?;
        let Some(line) = printed.lines().last() else { bail!("the comparison printed nothing") };
        serde_json::from_str(line).with_context(|| format!("unexpected figures {line}"))
    }
}

/// What is wrong with a folder, in words; empty when nothing is.
fn wrong(case: &Case, found: &Found) -> Vec<String> {
    let Found { weights, logits } = found;
    let mut wrong = Vec::new();
    if weights.compressed == 0 {
        wrong.push("no matrix is compressed".to_owned());
    }
    let of = weights.first.as_deref().unwrap_or("no tensor");
    // A difference that is not a number is one, too.
    if weights.exact != 0.0 {
        wrong.push(format!("weights differ by up to {:e}, {of} is the first", weights.exact));
    }
    if weights.rounded != 0.0 {
        wrong.push(format!("rounded weights differ by up to {:e}, {of} is the first", weights.rounded));
    }
    match logits.kl {
        None => wrong.push("logits are not all numbers".to_owned()),
        Some(kl) if kl > case.most_kl => {
            wrong.push(format!("logits have a mean KL of {kl:.2e} > {}", case.most_kl));
        }
        Some(_) => {}
    }
    wrong
}

fn print(found: &[(&Case, Found)]) {
    println!(
        "\n{:<24}{:>10}{:>12}{:>14}{:>14}{:>20}{:>12}{:>12}",
        "scheme",
        "matrices",
        "weights",
        "difference",
        "rounded",
        "moved by rounding",
        "mean KL",
        "same token"
    );
    for (case, found) in found {
        let name = case.words.join(" ");
        let Found { weights, logits } = found;
        println!(
            "{name:<24}{:>10}{:>12}{:>14.1e}{:>14.1e}{:>20.1e}{:>12.1e}{:>11.1}%",
            weights.compressed,
            weights.elements,
            weights.exact,
            weights.rounded,
            weights.by_rounding,
            logits.kl.unwrap_or(f64::NAN),
            100.0 * logits.same_top
        );
        for wrong in wrong(case, found) {
            println!("  DIFFERS: {wrong}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same() -> Found {
        let weights = Weights {
            tensors: 272,
            compressed: 210,
            elements: 106_168_320,
            exact: 0.0,
            rounded: 0.0,
            by_rounding: 1e-3,
            first: None,
        };
        Found { weights, logits: Logits { tokens: 256, kl: Some(1e-3), same_top: 0.98 } }
    }

    #[test]
    fn only_weights_that_are_the_same_to_the_bit_and_logits_nearby_are_right() {
        let case = Case { words: &["int4"], most_kl: 0.01 };
        assert_eq!(wrong(&case, &same()), [""; 0]);
        let check = |change: fn(&mut Found), says: &str| {
            let mut found = same();
            found.weights.first = Some("a.weight".to_owned());
            change(&mut found);
            let wrong = wrong(&Case { words: &["int4"], most_kl: 0.01 }, &found);
            assert!(wrong.len() == 1 && wrong[0].contains(says), "{wrong:?} says {says}");
        };
        check(|found| found.weights.exact = 1e-9, "1e-9, a.weight");
        check(|found| found.weights.rounded = 1e-9, "rounded weights differ by up to 1e-9");
        check(|found| found.weights.exact = f64::NAN, "NaN");
        check(|found| found.weights.compressed = 0, "no matrix is compressed");
        check(|found| found.logits.kl = Some(0.02), "KL");
        check(|found| found.logits.kl = None, "not all numbers");
    }

    #[test]
    fn every_scheme_that_makes_a_folder_is_checked() {
        let source = environment::root().join("crates/optimize/src/quantize/scheme.rs");
        let source = std::fs::read_to_string(source).unwrap();
        // Lines like `("int4", Scheme::Compressed(CompressedScheme::Int4)),`.
        let name = |line: &str| {
            let (name, scheme) = line.trim().strip_prefix("(\"")?.split_once("\", ")?;
            scheme.starts_with("Scheme::Compressed(").then(|| name.to_owned())
        };
        let folders: Vec<String> = source.lines().filter_map(name).collect();
        assert!(folders.len() > 3, "{folders:?}");
        assert_eq!(names(), folders);
    }
}
