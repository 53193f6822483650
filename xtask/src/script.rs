//! Checks and measurements that are Python: what they need of the project, and how their outcome becomes ours.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::python::Python;
use crate::{demo_model, environment, server, shell};

/// Runs `scripts/NAME.py` with a release build, the demo model and a folder of its own under the target.
pub(crate) fn with_model(name: &str, more: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let model = demo_model::obtain()?;
    let wharf = server::build()?;
    let absolute =
        |path: &Path| path.canonicalize().with_context(|| format!("failed to find {}", path.display()));
    let mut command = python.command();
    command
        .arg(environment::root().join("scripts").join(format!("{name}.py")))
        .arg("--wharf")
        .arg(absolute(&wharf)?)
        .arg("--model")
        .arg(absolute(&model.path)?)
        .arg("--work")
        .arg(shell::target()?.join(name.replace('_', "-")))
        .args(more);
    outcome(&mut command)
}

/// Runs a script to its end.
pub(crate) fn outcome(command: &mut Command) -> anyhow::Result<ExitCode> {
    let what = shell::describe(command);
    eprintln!("$ {what}");
    let status = command.status().with_context(|| format!("failed to start `{what}`"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `--output FILE`, if a file is given.
pub(crate) fn output(file: Option<&Path>) -> impl Iterator<Item = OsString> {
    file.into_iter().flat_map(|file| [OsString::from("--output"), file.into()])
}
