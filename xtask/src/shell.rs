//! Runs other programs: says what it runs, and names the command in every error.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::environment;

/// `cargo` in the repository's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(environment::cargo());
    command.args(args).current_dir(environment::root());
    command
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs to the end with the terminal's own streams; fails unless it exits with 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let what = describe(command);
    eprintln!("$ {what}");
    let status = command.status().with_context(|| format!("failed to start `{what}`"))?;
    if !status.success() {
        bail!("`{what}` ended with {status}");
    }
    Ok(())
}

/// Runs to the end and returns standard output; its errors stay visible.
pub(crate) fn read(command: &mut Command) -> anyhow::Result<String> {
    let what = describe(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("failed to start `{what}`"))?;
    if !output.status.success() {
        bail!("`{what}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{what}` did not print UTF-8"))
}

/// Whether the command can be run at all and exits with 0; prints nothing.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
