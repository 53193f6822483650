//! `cargo xtask fuzz`: feeds mutated bytes to every parser of foreign input, for a bounded time.
//!
//! libFuzzer needs only coverage counters, which stable rustc can insert through LLVM's own pass. The flags
//! go to everything that is compiled for the target, so the parsers that we depend on guide the fuzzer too;
//! build scripts and macros are compiled for the host and stay as they are.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::{environment, shell};

/// Fuzz the parsers of foreign bytes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz                      every target for a minute
  cargo xtask fuzz gguf --seconds 600

Inputs that crash are saved in fuzz/crashes/<target>/. Run one again with
  cargo xtask fuzz gguf --input fuzz/crashes/gguf/crash-…")]
pub(crate) struct Args {
    /// The targets; all if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long to run each
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Run this one input instead of fuzzing
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

const TARGETS: [&str; 11] = [
    "gguf",
    "safetensors",
    "tokenizer",
    "chat_template",
    "request",
    "gateway_body",
    "gateway_config",
    "keys",
    "token",
    "source",
    "object",
];

const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let targets = match &args.targets[..] {
        [] if args.input.is_some() => bail!("--input needs the target to run it with"),
        [] => TARGETS.map(String::from).to_vec(),
        named => named.to_vec(),
    };
    if let Some(unknown) = targets.iter().find(|t| !TARGETS.contains(&t.as_str())) {
        bail!("there is no fuzz target `{unknown}`; there are {}", TARGETS.join(", "));
    }
    let folder = environment::root().join("fuzz");
    let programs = build(&folder)?;
    let mut crashed = Vec::new();
    for target in &targets {
        if !fuzz(&folder, &programs.join(target), target, args)? {
            crashed.push(target.clone());
        }
    }
    println!("{} passed, {} failed", targets.len() - crashed.len(), crashed.len());
    Ok(if crashed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds all targets and returns the folder of the programs.
fn build(folder: &Path) -> anyhow::Result<PathBuf> {
    let host = shell::read(shell::cargo(&["--version", "--verbose"]).current_dir(folder))?;
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`cargo --version --verbose` names no host")?
        .to_owned();
    let target_dir = shell::target()?.join("fuzz");
    let mut cargo = shell::cargo(&["build", "--release", "--bins", "--target", &host]);
    cargo.current_dir(folder).env("RUSTFLAGS", RUSTFLAGS).env("CARGO_TARGET_DIR", &target_dir);
    shell::run(&mut cargo)?;
    Ok(target_dir.join(host).join("release"))
}

/// Whether the target survived.
fn fuzz(folder: &Path, program: &Path, target: &str, args: &Args) -> anyhow::Result<bool> {
    let mut command = std::process::Command::new(program);
    if let Some(input) = &args.input {
        command.arg(input);
    } else {
        let seeds = folder.join("seeds").join(target);
        let corpus = shell::target()?.join("fuzz-corpus").join(target);
        let crashes = folder.join("crashes").join(target);
        for made in [&corpus, &crashes] {
            std::fs::create_dir_all(made).with_context(|| format!("failed to create {}", made.display()))?;
        }
        command
            .arg(format!("-max_total_time={}", args.seconds))
            // A hang or a runaway allocation is a find like any other.
            .args([
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-malloc_limit_mb=1024",
                "-print_final_stats=1",
                "-verbosity=0",
            ])
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg(corpus)
            .arg(seeds);
        if target == "object" {
            command.arg(environment::root().join("examples"));
        }
    }
    match shell::run(&mut command) {
        Ok(()) => Ok(true),
        Err(error) => {
            println!("{error:#}");
            Ok(false)
        }
    }
}
