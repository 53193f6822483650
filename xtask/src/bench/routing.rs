//! `cargo xtask bench routing`: what routing by prefix gains over round robin before four real servers.
//!
//! The measurement itself is `scripts/bench_routing.py`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::script;

/// Compare routing by prefix with round robin, before four servers of the demo model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench routing
  cargo xtask bench routing --rounds 5 --output figures.json

Needs Python. Two traces, each against both policies in alternating runs with new servers; exits with 1 when the mean time to the first
token is above 0.5 of round robin's with conversations, or above it with prompts that share nothing.")]
pub(super) struct Args {
    /// Runs of each policy on each trace
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let rounds = ["--rounds".into(), args.rounds.to_string().into()];
    script::with_model("bench_routing", rounds.into_iter().chain(script::output(args.output.as_deref())))
}
