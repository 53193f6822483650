//! `cargo xtask bench operator`: what `wharf operator` costs when it is idle, and how long many services take from cold.
//!
//! The measurement is the example `many` of `wharf-operator`; here its figures meet their bars.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::{server, shell};

/// Measure the operator with many services
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench operator
  KUBEBUILDER_ASSETS=/opt/kubernetes/bin cargo xtask bench operator     on a real API server

Without KUBEBUILDER_ASSETS the API server is the one in memory, which is slower than the operator. Exits with 1 when a bar is missed.")]
pub(super) struct Args {
    /// Services that are there before the operator is
    #[arg(long, value_name = "N", default_value_t = 500)]
    services: usize,
    /// Services while nothing happens
    #[arg(long, value_name = "N", default_value_t = 100)]
    idle_services: usize,
    /// How long nothing happens, in seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    idle_seconds: u64,
    /// Replicas that a service may have at most; from two on each has an autoscaler that looks every second
    #[arg(long, value_name = "N", default_value_t = 1)]
    max: u64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What the example prints, as far as it has a bar.
#[derive(Deserialize)]
struct Figures {
    api_server: String,
    idle: Idle,
    cold: Cold,
}

#[derive(Deserialize)]
struct Idle {
    millicores: f64,
    resident_bytes: f64,
    anonymous_bytes: f64,
    objects_written: u64,
}

#[derive(Deserialize)]
struct Cold {
    seconds_until_ready: f64,
    objects_written_by_a_new_operator: u64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let wharf = server::build()?;
    let example = shell::example("many")?;
    let mut command = Command::new(example);
    command.arg("--wharf").arg(wharf);
    for (name, value) in [
        ("--services", args.services as u64),
        ("--idle-services", args.idle_services as u64),
        ("--idle-seconds", args.idle_seconds),
        ("--max", args.max),
    ] {
        command.arg(name).arg(value.to_string());
    }
    let text = shell::read(&mut command)?;
    if let Some(path) = &args.output {
        std::fs::write(path, &text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    let all: Value = serde_json::from_str(&text).context("failed to read the figures")?;
    println!("{text}");
    let Figures { api_server, idle, cold } =
        serde_json::from_value(all).context("failed to read the figures")?;
    println!("API server: {api_server}");
    let bars = [
        ("idle, millicores", idle.millicores, 5.0),
        ("idle, resident MB", idle.resident_bytes / 1e6, 40.0),
        ("idle, objects written", idle.objects_written as f64, 0.0),
        ("from cold, seconds until all are ready", cold.seconds_until_ready, 60.0),
        ("objects that a new operator writes", cold.objects_written_by_a_new_operator as f64, 0.0),
    ];
    println!(
        "of the resident memory {:.1} MB are the operator's own, the rest pages of its binary",
        idle.anonymous_bytes / 1e6
    );
    let mut missed = false;
    for (what, figure, bar) in bars {
        let held = figure <= bar;
        missed |= !held;
        println!("{what}: {figure:.1} (bar {bar}): {}", if held { "held" } else { "MISSED" });
    }
    Ok(if missed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
