//! `cargo xtask ci`: everything that must hold before a change is merged, in the order of how soon it tells.
//!
//! Clippy, tests and documentation use the dev profile; the one release build serves the steps that need a
//! model to answer at speed.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::clients::{Client, Stand, test_counts, watch};
use crate::python::Python;
use crate::verify_monitoring::Promtool;
use crate::{
    chart, cuda_kernels, demo, demo_model, environment, image, quickstart, server, shell, tidy,
    verify_monitoring,
};

/// Run all checks: format, lints, tests, documentation, tidiness, a real model and a real client
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask ci                  what is missing on this machine is skipped, and said so
  cargo xtask ci --require-all    what is missing is a failure (also when CI=true is set)")]
pub(crate) struct Args {
    /// Fail instead of skipping when a tool is missing
    #[arg(long)]
    require_all: bool,
}

/// What became of a step.
enum Outcome {
    /// Checks that passed and failed within it.
    Ran {
        passed: usize,
        failed: usize,
    },
    Skipped(String),
    /// As skipped, and no failure in CI either.
    Absent(String),
}

struct Finished {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

struct Ci {
    require_all: bool,
    finished: Vec<Finished>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Nobody changes a line and builds again: what rustc keeps for that would double what all this takes of the disk.
    shell::build_once();
    let mut ci = Ci { require_all: args.require_all || environment::in_ci(), finished: Vec::new() };
    ci.step("tidy", |_| passed_if(tidy::check()?));
    ci.step("format", |_| component("fmt", "rustfmt", &["fmt", "--all", "--check"]));
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    ci.step("lints", |_| component("clippy", "clippy", &lints));
    let mut model = None;
    ci.step("demo model", |_| {
        if !demo_model::at_hand()? && Python::find().is_none() {
            return Ok(Outcome::Skipped(Python::MISSING.into()));
        }
        model = Some(demo_model::obtain()?);
        passed()
    });
    let mut pinned = None;
    ci.step("tests", |ci| {
        // Also beside a model of the user's own: what is known about the pinned one holds for no other.
        pinned = match environment::test_model() {
            Some(path) => Some(path),
            None => demo_model::pinned()?,
        };
        tests(pinned.as_deref(), ci.require_all)
    });
    if pinned.is_none() {
        let why = "the pinned model is not in the cache (`cargo xtask ci` without WHARF_DEMO_MODEL gets it)";
        ci.step("real tokenizer", |_| Ok(Outcome::Skipped(why.into())));
    }
    ci.step("documentation", |_| {
        shell::run(shell::cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
        passed()
    });
    ci.step("CUDA kernels", |_| match Python::find() {
        Some(python) => passed_if(cuda_kernels::stale(&python, false)?.is_empty()),
        None => Ok(Outcome::Skipped(Python::MISSING.into())),
    });
    ci.step("chart", |_| match Python::find() {
        Some(python) => {
            let (checked, faults) = chart::examine(&python, false)?;
            faults.iter().for_each(|fault| println!("{fault}"));
            Ok(Outcome::Ran { passed: checked, failed: faults.len() })
        }
        None => Ok(Outcome::Skipped(Python::MISSING.into())),
    });
    ci.step("monitoring", |_| match Promtool::find()? {
        Some(promtool) => {
            let (passed, faults) = verify_monitoring::examine(&promtool)?;
            faults.iter().for_each(|fault| println!("{fault}"));
            Ok(Outcome::Ran { passed, failed: faults.len() })
        }
        // A system's package, where everything else comes from the project's own files: without apt-get nobody can help it.
        None if !args.require_all => Ok(Outcome::Absent(Promtool::MISSING.into())),
        None => Ok(Outcome::Skipped(Promtool::MISSING.into())),
    });
    let mut wharf = None;
    ci.step("release build", |_| {
        wharf = Some(server::build()?);
        passed()
    });
    let no_model = || Ok(Outcome::Skipped("needs the demo model and the release build".into()));
    ci.step("demo", |_| match (&wharf, &model) {
        (Some(wharf), Some(model)) => passed_if(demo::show(wharf, model, true)? == ExitCode::SUCCESS),
        _ => no_model(),
    });
    ci.step("quickstart", |_| match (&wharf, &model) {
        (Some(wharf), Some(model)) => Ok(Outcome::Ran { passed: quickstart::run(wharf, model)?, failed: 0 }),
        _ => no_model(),
    });
    ci.step("image", |_| match (&wharf, &model) {
        (Some(wharf), Some(_)) => match image::prove(wharf)? {
            None => passed(),
            Some(missing) => Ok(Outcome::Skipped(missing.into())),
        },
        _ => no_model(),
    });
    let mut stand = None;
    ci.step("client servers", |_| match (&wharf, &model) {
        (Some(wharf), Some(model)) => {
            stand = Some(Stand::start(wharf, model)?);
            passed()
        }
        _ => no_model(),
    });
    let clients: [(_, fn() -> _); 2] = [("OpenAI Python", Client::python), ("OpenAI npm", Client::node)];
    for (name, client) in clients {
        ci.step(name, |_| match &stand {
            Some(stand) => client_test(stand, client()?),
            None => Ok(Outcome::Skipped("needs the client servers".into())),
        });
    }
    if let Some(stand) = stand {
        ci.step("servers' end", |_| stand.stop().and_then(|()| passed()));
    }
    Ok(ci.summary())
}

impl Ci {
    fn step(&mut self, name: &'static str, work: impl FnOnce(&Ci) -> anyhow::Result<Outcome>) {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = match work(self) {
            Ok(Outcome::Skipped(why)) if self.require_all => {
                println!("missing: {why}");
                Outcome::Ran { passed: 0, failed: 1 }
            }
            Ok(outcome) => outcome,
            Err(error) => {
                println!("error: {error:#}");
                Outcome::Ran { passed: 0, failed: 1 }
            }
        };
        let took = start.elapsed();
        let finished = Finished { name, outcome, took };
        println!("{}", line(&finished));
        self.finished.push(finished);
    }

    fn summary(&self) -> ExitCode {
        println!("\n=== summary");
        let (mut all_passed, mut all_failed) = (0, 0);
        for finished in &self.finished {
            println!("{}", line(finished));
            if let Outcome::Ran { passed, failed } = finished.outcome {
                all_passed += passed;
                all_failed += failed;
            }
        }
        println!("{all_passed} passed, {all_failed} failed");
        if all_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn line(Finished { name, outcome, took }: &Finished) -> String {
    let word = match outcome {
        Outcome::Ran { passed: 1, failed: 0 } => "passed".to_owned(),
        Outcome::Ran { passed: 0, failed: 1 } => "FAILED".to_owned(),
        Outcome::Ran { passed, failed: 0 } => format!("{passed} passed"),
        Outcome::Ran { passed, failed } => format!("{passed} passed, {failed} FAILED"),
        Outcome::Skipped(why) | Outcome::Absent(why) => format!("SKIPPED: {why}"),
    };
    format!("{name:<15} {:>7.1} s  {word}", took.as_secs_f64())
}

fn passed() -> anyhow::Result<Outcome> {
    Ok(Outcome::Ran { passed: 1, failed: 0 })
}

fn passed_if(ok: bool) -> anyhow::Result<Outcome> {
    Ok(Outcome::Ran { passed: usize::from(ok), failed: usize::from(!ok) })
}

/// Runs a cargo subcommand that is a component of its own.
fn component(subcommand: &str, component: &str, args: &[&str]) -> anyhow::Result<Outcome> {
    if !shell::works(&mut shell::cargo(&[subcommand, "--version"])) {
        return Ok(Outcome::Skipped(format!(
            "{component} is not installed (rustup component add {component})"
        )));
    }
    shell::run(&mut shell::cargo(args))?;
    passed()
}

/// All tests of the workspace. The test of the real tokenizer finds the pinned model in `WHARF_TEST_SMOLLM2`.
fn tests(pinned: Option<&Path>, require_all: bool) -> anyhow::Result<Outcome> {
    let mut cargo = shell::cargo(&["test", "--workspace", "--no-fail-fast"]);
    if let Some(model) = pinned {
        cargo.env("WHARF_TEST_SMOLLM2", model);
    }
    if require_all {
        cargo.env("CI", "true");
    }
    let (mut passed, mut failed) = (0, 0);
    let ok = watch(&mut cargo, |line| {
        if let Some(counts) = test_counts(line) {
            passed += counts.0;
            failed += counts.1;
        }
    })?;
    if !ok && failed == 0 {
        bail!("the tests did not build, or a test program crashed");
    }
    Ok(Outcome::Ran { passed, failed })
}

fn client_test(stand: &Stand, client: Result<Client, &str>) -> anyhow::Result<Outcome> {
    match client {
        Ok(client) => stand.test(&client).map(|(passed, failed)| Outcome::Ran { passed, failed }),
        Err(missing) => Ok(Outcome::Skipped(missing.into())),
    }
}
