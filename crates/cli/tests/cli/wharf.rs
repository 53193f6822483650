//! Runs the binary under test.

use std::process::{Command, Output};

/// The binary with `args` and no configuration from the developer's environment.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(args).env_remove("OPENAI_API_KEY");
    command
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Finished {
    Finished::from(command(args).output().unwrap())
}

/// Exit code and what was printed.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Finished {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
