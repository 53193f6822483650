//! `cargo xtask verify-up`: whether `wharf up` keeps its promises with a real model, real processes and load.
//!
//! The check itself is `scripts/verify_up.py`; this command provides what the script needs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::python::Python;
use crate::{demo_model, environment, server, shell};

/// Run a service of a real model through sleep, releases good and bad, crashes and ends
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-up
  cargo xtask verify-up --output figures.json

Needs Python and Linux; about five minutes on two cores. Exits with 1 when something does not hold.")]
pub(crate) struct Args {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let model = demo_model::obtain()?;
    let wharf = server::build()?;
    let mut command = python.command();
    command
        .arg(environment::root().join("scripts/verify_up.py"))
        .arg("--wharf")
        .arg(wharf.canonicalize().with_context(|| format!("failed to find {}", wharf.display()))?)
        .arg("--model")
        .arg(model.path.canonicalize().with_context(|| format!("failed to find {}", model.path.display()))?)
        .arg("--work")
        .arg(shell::target()?.join("verify-up"));
    if let Some(output) = &args.output {
        command.arg("--output").arg(output);
    }
    let what = shell::describe(&command);
    eprintln!("$ {what}");
    let status = command.status().with_context(|| format!("failed to start `{what}`"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
