//! Runs the binary under test.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use wharf_fake_cuda::FakeCuda;

/// The binary with `args`, no configuration from the developer's environment and none of the developer's GPUs.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(args).env_remove("OPENAI_API_KEY");
    without_gpus(&mut command);
    command
}

/// Whatever it starts finds no driver: what a machine has must not decide what computes, and how fast, in a test. Tests of GPUs bring their own.
pub(crate) fn without_gpus(command: &mut Command) {
    static HIDDEN: OnceLock<&Path> = OnceLock::new();
    let folder = HIDDEN.get_or_init(|| {
        let folder = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/no-gpus"));
        std::fs::create_dir_all(folder).unwrap();
        FakeCuda::hide(folder).unwrap();
        folder
    });
    command.env("LD_LIBRARY_PATH", folder).env_remove("WHARF_DEVICE");
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
