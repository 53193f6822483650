//! `cargo xtask gpu`: checks and measures the CUDA backend where there is a GPU, by a program that is built here and needs only a driver there.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::{environment, shell};

/// Check and measure the CUDA backend on an NVIDIA GPU, here or elsewhere
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask gpu                          where there is a GPU: checks, limits, times, PyTorch beside them
  cargo xtask gpu --build-only             where there is none: builds the program and says where it is
  cargo xtask gpu --binary gpu --out gpu.json    runs one that was built elsewhere

Exits with 1 when a check fails, with 2 when there is no GPU.")]
pub(crate) struct Args {
    /// Only build the program
    #[arg(long, conflicts_with = "binary")]
    build_only: bool,
    /// Run this one instead of building it
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Write all that was found as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seconds that all may take; rows that do not fit are dropped
    #[arg(long, value_name = "N", default_value_t = 480)]
    budget_s: u64,
}

/// What the program ends with where there is no GPU.
const NO_GPU: i32 = 2;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let program = match &args.binary {
        Some(program) => program.clone(),
        None => build()?,
    };
    if args.build_only {
        println!("{}", elsewhere(&program));
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = command(&program, args);
    let what = shell::describe(&command);
    eprintln!("$ {what}");
    let status = command.status().with_context(|| format!("failed to start `{what}`"))?;
    match status.code() {
        Some(NO_GPU) => {
            println!("{}", elsewhere(&program));
            Ok(ExitCode::from(2))
        }
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => bail!("`{what}` ended with {status}"),
    }
}

/// The program, which tells of which commit it is.
fn build() -> anyhow::Result<PathBuf> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(environment::root());
    let commit = shell::read(&mut git)?;
    let mut cargo = shell::cargo(&["build", "--release", "--package", "wharf-cuda", "--example", "gpu"]);
    shell::run(cargo.env("WHARF_COMMIT", commit.trim()))?;
    Ok(shell::target()?.join("release/examples/gpu"))
}

fn command(program: &Path, args: &Args) -> Command {
    // A name without a folder would be looked for in PATH.
    let program =
        if program.components().count() == 1 { Path::new(".").join(program) } else { program.to_owned() };
    let mut command = Command::new(program);
    command.arg("--peers").args(["--budget-s", &args.budget_s.to_string()]);
    if let Some(out) = &args.out {
        command.arg("--out").arg(out);
    }
    command
}

/// How to go on where there is no GPU.
fn elsewhere(program: &Path) -> String {
    let program = program.display();
    format!(
        "copy {program} to a machine with an NVIDIA GPU (the driver and glibc are all that it needs there) and run `./gpu --peers --out gpu.json`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_this_folder_is_not_looked_for_in_the_path() {
        let args = Args { build_only: false, binary: None, out: Some("a.json".into()), budget_s: 60 };
        assert_eq!(
            shell::describe(&command(Path::new("gpu"), &args)),
            "./gpu --peers --budget-s 60 --out a.json"
        );
        assert_eq!(command(Path::new("/a/gpu"), &args).get_program(), "/a/gpu");
    }

    #[test]
    fn one_line_says_how_to_go_on_elsewhere() {
        let line = elsewhere(Path::new("target/release/examples/gpu"));
        assert!(line.contains("target/release/examples/gpu") && !line.contains('\n'), "{line}");
    }
}
