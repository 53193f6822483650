//! `cargo xtask verify-fetch`: whether `wharf fetch` reads from an S3 server that we did not write.
//!
//! The server is moto's, from the Python package index. What is put there, fetched and compared is in `scripts/verify_fetch.py`; this command
//! provides the packages and the binary. The protocols that need no server of others are tested in the crate itself.

use std::process::ExitCode;

use anyhow::Context;

use crate::cache::Cache;
use crate::python::Python;
use crate::{environment, server, shell};

const PACKAGES: [&str; 4] = ["moto[s3]==5.2.5", "boto3", "flask", "flask-cors"];

/// Fetch from moto's S3 server: folders, pins, ranges, a kill and the rest
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-fetch
  WHARF_BINARY=target/debug/wharf cargo xtask verify-fetch

The first run installs moto, flask and boto3 into the cache. Takes 256 MiB of memory and three times that on the disk.")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let cache = Cache::open()?;
    let packages =
        python.wheels(&cache, "verify-fetch", &PACKAGES).context("failed to install moto's S3 server")?;
    let wharf = server::build()?;
    let mut command = python.command();
    command.arg(environment::root().join("scripts/verify_fetch.py")).arg("--wharf").arg(wharf);
    shell::run(command.env("PYTHONPATH", packages))?;
    Ok(ExitCode::SUCCESS)
}
