//! `cargo xtask verify-peers`: whether our numbers are as good as llama.cpp's on the same weights.
//!
//! Speed is worth nothing if answers get worse. The comparison itself is `scripts/verify_peers.py`, because llama.cpp is
//! reached through its Python binding; this command provides what the script needs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::cache::Cache;
use crate::python::Python;
use crate::{demo_model, environment, shell};

/// Compare logits with llama.cpp over real text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-peers                          8,000 tokens; F16, Q8_0 and Q4_0
  cargo xtask verify-peers --tokens 1024 --types Q4_0
  cargo xtask verify-peers --output report.json

The first run compiles llama.cpp (some minutes) and writes about 2 GB into the cache. Exits with 1 when a bar is missed.")]
pub(crate) struct Args {
    /// How many tokens of text to score
    #[arg(long, value_name = "N", default_value_t = 8000)]
    tokens: usize,
    /// Weight types
    #[arg(long, value_name = "TYPE", num_args = 1.., default_values = ["F16", "Q8_0", "Q4_0"])]
    types: Vec<String>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let cache = Cache::open()?;
    let model = demo_model::obtain()?;
    let packages = python
        .compiled(&cache, "verify-peers", &["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy"])
        .context("failed to install llama.cpp")?;
    let ours = shell::example("logits")?;

    let mut command = python.command();
    command
        .arg(environment::root().join("scripts/verify_peers.py"))
        .arg("--model")
        .arg(&model.path)
        .arg("--work")
        .arg(cache.folder("verify-peers"))
        .arg("--ours")
        .arg(ours)
        .args(["--tokens", &args.tokens.to_string()])
        .arg("--types")
        .args(&args.types)
        .env("PYTHONPATH", packages);
    if let Some(output) = &args.output {
        command.arg("--output").arg(output);
    }
    let what = shell::describe(&command);
    eprintln!("$ {what}");
    let status = command.status().with_context(|| format!("failed to start `{what}`"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
