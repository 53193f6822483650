//! `cargo xtask verify-up`: whether `wharf up` keeps its promises with a real model, real processes and load.
//!
//! The check itself is `scripts/verify_up.py`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::script;

/// Run a service of a real model through sleep, releases good and bad, crashes and ends
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-up
  cargo xtask verify-up --output figures.json
  PATH=/opt/llama.cpp/bin:$PATH cargo xtask verify-up --llamacpp

Needs Python and Linux; about five minutes on two cores. Exits with 1 when something does not hold.")]
pub(crate) struct Args {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also with llama.cpp as the engine: the llama-server that is in the path
    #[arg(long)]
    llamacpp: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let llamacpp = args.llamacpp.then(|| OsString::from("--llamacpp"));
    script::with_model("verify_up", script::output(args.output.as_deref()).chain(llamacpp))
}
