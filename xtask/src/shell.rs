//! Runs other programs: says what it runs, and names the command in every error.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};

use crate::environment;

/// Whether builds keep nothing for builds of changed sources.
static ONCE: AtomicBool = AtomicBool::new(false);

/// From now on builds keep nothing for builds of changed sources (`CARGO_INCREMENTAL=0`).
pub(crate) fn build_once() {
    ONCE.store(true, Ordering::Relaxed);
}

/// `cargo` in the repository's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(environment::cargo());
    command.args(args).current_dir(environment::root());
    if ONCE.load(Ordering::Relaxed) {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Where cargo builds, as cargo itself says: the environment and any of its configuration files can move it.
pub(crate) fn target() -> anyhow::Result<PathBuf> {
    target_of(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))
}

fn target_of(metadata: &mut Command) -> anyhow::Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata: Metadata =
        serde_json::from_str(&read(metadata)?).context("failed to read cargo's metadata")?;
    Ok(metadata.target_directory)
}

/// Builds an example in release mode and returns the executable.
pub(crate) fn example(name: &str) -> anyhow::Result<PathBuf> {
    // Of the workspace, so that what other commands have built with its features is used again.
    run(&mut cargo(&["build", "--release", "--workspace", "--example", name]))?;
    Ok(target()?.join("release/examples").join(name))
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

/// As [`read`], but its errors are shown only when it fails.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    captured(command).map(|[output, _]| output)
}

/// Runs to the end and returns what it printed, standard output first and errors second.
pub(crate) fn captured(command: &mut Command) -> anyhow::Result<[String; 2]> {
    let what = describe(command);
    let ran = command.stdin(Stdio::null()).output().with_context(|| format!("failed to start `{what}`"))?;
    if !ran.status.success() {
        bail!("`{what}` ended with {}\n{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    }
    let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
    let output = String::from_utf8(ran.stdout).with_context(|| format!("`{what}` did not print UTF-8"))?;
    Ok([output, errors])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_target_folder_lies_where_cargo_builds() {
        let mut metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
        let target = target_of(metadata.env("CARGO_TARGET_DIR", "elsewhere")).unwrap();
        assert_eq!(target, environment::root().join("elsewhere"));
    }

    #[test]
    fn who_builds_once_keeps_nothing_for_the_next_build() {
        build_once();
        let cargo = cargo(&["test"]);
        let set = cargo.get_envs().find(|(name, _)| *name == "CARGO_INCREMENTAL");
        assert_eq!(set.and_then(|(_, value)| value), Some("0".as_ref()));
    }

    #[test]
    fn a_configured_target_folder_is_found() {
        let mut metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
        metadata.args(["--config", "build.target-dir='/elsewhere'"]).env_remove("CARGO_TARGET_DIR");
        assert_eq!(target_of(&mut metadata).unwrap(), PathBuf::from("/elsewhere"));
    }
}
