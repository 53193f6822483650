//! `cargo xtask distill-demo`: whether a half-depth student learns more with its teacher than without, on a real model.
//!
//! Three students are compared on validation text: the pruned one before training, one trained on the text alone, and one trained
//! with the teacher, both on the same windows in the same order. The second run is killed in the middle and resumed.

mod judge;
mod plot;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;

use self::judge::{Figures, Report};
use crate::cache::Cache;
use crate::{demo_model, server, shell};

/// Distil SmolLM2 to half its depth on English text, with and without the teacher
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask distill-demo                            about an hour on two cores
  cargo xtask distill-demo --tokens 200000 --output figures.json

The text is that of Debian's package `fortunes` (2.4 MB), obtained with apt-get. Results (students, plots, reports) are
in target/distill-demo. Exits with 1 when the teacher does not help.")]
pub(crate) struct Args {
    /// Tokens to train on in each run
    #[arg(long, value_name = "N", default_value_t = 60_000)]
    tokens: usize,
    /// Layers of the student; the teacher has 30
    #[arg(long, value_name = "N", default_value_t = 15)]
    layers: usize,
    /// Tokens per window
    #[arg(long, value_name = "N", default_value_t = 256)]
    window: usize,
    /// Learning rate
    #[arg(long, value_name = "R", default_value_t = 3e-4)]
    lr: f64,
    /// Share of the divergence in the run with the teacher
    #[arg(long, value_name = "A", default_value_t = 0.5)]
    alpha: f64,
    /// Divides the logits before they are compared; 1 helps most in a run as short as this
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const PACKAGE: &str = "fortunes";
/// Small, because a pruned student gains more from a further step than from a smoother one.
const BATCH: usize = 1;
/// Validations of a run, of so many windows each.
const VALIDATIONS: usize = 4;
const VALIDATION_WINDOWS: usize = 16;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = demo_model::obtain()?;
    let text = obtain_text()?;
    let wharf = server::build()?;
    let probe = shell::example("bench")?;
    let folder = shell::target()?.join("distill-demo");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("failed to empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let steps = (args.tokens / (BATCH * args.window)).max(2);
    let plan = Plan { wharf, teacher: model.path, text, folder, steps, args };
    // Others only ever take from a shared machine: the best of several times is nearest to what it can do.
    let mut peak_gflops = peak(&probe)?;
    let without = plan.train("without-teacher", 0.0, &[])?;
    peak_gflops = peak_gflops.max(peak(&probe)?);
    let with = plan.train_killed_once("with-teacher", args.alpha)?;
    let uninterrupted = plan.train("with-teacher-uninterrupted", args.alpha, &[])?;
    peak_gflops = peak_gflops.max(peak(&probe)?);
    let figures = Figures { without, with, uninterrupted, peak_gflops };
    println!("{}", figures.text());
    let validations = |name: &str| plot::validations(&plan.folder.join(name).join("metrics.jsonl"));
    let picture = plan.folder.join("comparison.svg");
    let svg =
        plot::draw(&validations("without-teacher")?, &validations("with-teacher")?, BATCH * args.window);
    std::fs::write(&picture, svg).with_context(|| format!("failed to write {}", picture.display()))?;
    println!("{}", picture.display());
    if let Some(path) = &args.output {
        let text = serde_json::to_string_pretty(&json!({"layers": args.layers, "figures": figures}))
            .context("failed to write the figures as JSON")?;
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    let met = figures.bars().iter().all(|(_, met)| *met);
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Single-precision operations a second that this machine can do now, 10⁹, asked of the program that knows; a multiply-add is two.
fn peak(probe: &Path) -> anyhow::Result<f64> {
    #[derive(Deserialize)]
    struct Line {
        f32_gmacs: f64,
    }
    let threads = std::thread::available_parallelism().map_or(1, Into::into).to_string();
    let line = shell::read(Command::new(probe).args(["--probe", &threads]))?;
    let line: Line = serde_json::from_str(&line).context("failed to read what the probe says")?;
    Ok(2.0 * line.f32_gmacs)
}

struct Plan<'a> {
    wharf: PathBuf,
    teacher: PathBuf,
    text: PathBuf,
    folder: PathBuf,
    steps: usize,
    args: &'a Args,
}

impl Plan<'_> {
    fn command(&self, name: &str, alpha: f64, more: &[&str]) -> Command {
        let every = self.steps.div_ceil(VALIDATIONS).to_string();
        let mut command = Command::new(&self.wharf);
        command.arg("distill").arg("--teacher").arg(&self.teacher).arg("--data").arg(&self.text);
        command.arg("-o").arg(self.folder.join(name));
        for (flag, value) in [
            ("--layers", self.args.layers.to_string()),
            ("--steps", self.steps.to_string()),
            ("--batch", BATCH.to_string()),
            ("--window", self.args.window.to_string()),
            ("--lr", self.args.lr.to_string()),
            ("--warmup", (self.steps / 10).max(1).to_string()),
            ("--alpha", alpha.to_string()),
            ("--temperature", self.args.temperature.to_string()),
            ("--validation-windows", VALIDATION_WINDOWS.to_string()),
            ("--validate-every", every.clone()),
            ("--checkpoint-every", every),
        ] {
            command.args([flag, &value]);
        }
        command.args(["--device", "cpu", "--output", "json"]).args(more);
        command
    }

    /// A run to its end, and its report.
    fn train(&self, name: &str, alpha: f64, more: &[&str]) -> anyhow::Result<Report> {
        let mut command = self.command(name, alpha, more);
        let report = shell::read(command.stderr(Stdio::inherit()))?;
        serde_json::from_str(&report).context("failed to read the report of wharf distill")
    }

    /// A run that is killed once it has a checkpoint and some steps more, then resumed.
    fn train_killed_once(&self, name: &str, alpha: f64) -> anyhow::Result<Report> {
        let mut child = self
            .command(name, alpha, &[])
            .stdout(Stdio::null())
            .spawn()
            .context("failed to start wharf distill")?;
        let metrics = self.folder.join(format!("{name}.distilling/metrics.jsonl"));
        let enough = self.steps / 2;
        loop {
            if let Some(status) = child.try_wait().context("failed to wait for wharf distill")? {
                bail!("wharf distill ended before it could be killed: {status}");
            }
            let text = match std::fs::read_to_string(&metrics) {
                Ok(text) => text,
                // The run has not come so far yet.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(error) => {
                    return Err(error).with_context(|| format!("failed to read {}", metrics.display()));
                }
            };
            if text.lines().filter(|line| line.contains("\"loss\"")).count() >= enough {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        child.kill().context("failed to kill wharf distill")?;
        child.wait().context("failed to wait for wharf distill")?;
        eprintln!("killed {name} after half of its steps; resuming");
        self.train(name, alpha, &["--resume"])
    }
}

/// The text of the package in one file, from the cache.
fn obtain_text() -> anyhow::Result<PathBuf> {
    let folder = Cache::open()?.filled(Path::new("distill-demo-text"), |folder| {
        shell::run(Command::new("apt-get").args(["download", PACKAGE]).current_dir(folder))
            .with_context(|| format!("failed to obtain Debian's package {PACKAGE}"))?;
        let entries = std::fs::read_dir(folder).context("failed to list the downloaded package")?;
        let package = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .context("apt-get left no package")?;
        shell::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder.join("files")))?;
        let sources = folder.join("files/usr/share/games/fortunes");
        let mut files: Vec<PathBuf> = std::fs::read_dir(&sources)
            .with_context(|| format!("failed to list {}", sources.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file() && path.extension().is_none())
            .collect();
        files.sort();
        let mut text = String::new();
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        std::fs::write(folder.join("text.txt"), text).context("failed to write the text")
    })?;
    Ok(folder.join("text.txt"))
}
