//! `wharf run-child`: stands between a supervisor and one process of it.

use std::ffi::OsString;
use std::io;

use anyhow::{Context, anyhow};

use crate::exit::{BadInput, Failure};

/// Run a program that ends when standard input does (used by `wharf up` for its replicas)
#[derive(clap::Args)]
#[command(
    hide = true,
    after_help = "\
Examples:
  wharf run-child -- wharf serve --model model.gguf
  wharf run-child --cpus 0,1 -- llama-server -m model.gguf"
)]
pub(crate) struct Args {
    /// CPUs that the program may use
    #[arg(long, value_name = "N", value_delimiter = ',')]
    cpus: Vec<usize>,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, last = true)]
    command: Vec<OsString>,
}

/// Runs the program; its exit code is ours.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let words = args.command.iter().map(|word| word.to_str().map(str::to_owned));
    let words: Vec<String> = words.collect::<Option<_>>().context("the command is not text").bad_input()?;
    let (program, rest) = words.split_first().context("there is no program to run").bad_input()?;
    let code = wharf_local::run_child(program, rest, &args.cpus).map_err(|error| match error.kind() {
        // Another try would not find it either.
        io::ErrorKind::NotFound => Failure::BadInput(error.into()),
        _ => Failure::Failed(error.into()),
    })?;
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Child(code)),
        Err(_) => Err(Failure::Failed(anyhow!("{program} ended with {code}"))),
    }
}
