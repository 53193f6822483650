//! `cargo xtask verify-logs`: whether the shippers of logs read what containers and Wharf write, with the configuration that the chart renders.
//!
//! The shippers are others' programs that no package index of ours carries; whoever has one names it. `scripts/verify_logs.py` says what is checked.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cache::Cache;
use crate::python::Python;
use crate::{chart, environment, script, shell};

/// Ship log files of containers with Fluent Bit or Fluentd, as the chart configures them, and compare what arrives
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-logs --fluent-bit /opt/fluent-bit/bin/fluent-bit
  cargo xtask verify-logs --fluentd 'bundle exec fluentd'

Fluentd needs its plugins concat, parser-cri, kubernetes_metadata_filter, dedot_filter and elasticsearch, as the image has them.
Exits with 1 when a fact is not so.")]
pub(crate) struct Args {
    /// The program of Fluent Bit
    #[arg(long, value_name = "PROGRAM", required_unless_present = "fluentd")]
    fluent_bit: Option<PathBuf>,
    /// The command that starts Fluentd, its words apart by spaces
    #[arg(long, value_name = "COMMAND")]
    fluentd: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    shell::run(&mut shell::cargo(&[
        "build",
        "--quiet",
        "--package",
        "wharf-telemetry",
        "--example",
        "log_lines",
    ]))?;
    shell::run(&mut shell::cargo(&[
        "build",
        "--quiet",
        "--package",
        "wharf-fakes",
        "--bin",
        "fake-cluster",
    ]))?;
    let mut ended = ExitCode::SUCCESS;
    let fluent_bit =
        args.fluent_bit.iter().map(|program| ("fluent-bit", vec![program.display().to_string()]));
    let fluentd = args
        .fluentd
        .iter()
        .map(|command| ("fluentd", command.split_whitespace().map(str::to_owned).collect()));
    for (kind, command) in fluent_bit.chain(fluentd) {
        if ship(&python, kind, command)? != ExitCode::SUCCESS {
            ended = ExitCode::FAILURE;
        }
    }
    Ok(ended)
}

fn ship(python: &Python, kind: &str, command: Vec<String>) -> anyhow::Result<ExitCode> {
    let folder = shell::target()?.join("verify-logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    // Free until the script opens it: the configuration has to name it before.
    let free = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .context("failed to find a free port")?;
    let values = folder.join("values.yaml");
    let output = format!(
        "{{host: 127.0.0.1, port: {}, scheme: http, indexPrefix: llm, credentialsSecret: c}}",
        free.port()
    );
    std::fs::write(&values, format!("logs: {{enabled: true, shipper: {kind}, output: {output}}}\n"))
        .with_context(|| format!("failed to write {}", values.display()))?;
    let objects = chart::rendered(&Cache::open()?, python, &values)?;
    let config = folder.join(format!("{kind}.rendered"));
    std::fs::write(&config, configuration(&objects)?)
        .with_context(|| format!("failed to write {}", config.display()))?;
    let programs = shell::target()?.join("debug");
    let mut check = python.command();
    check
        .arg(environment::root().join("scripts/verify_logs.py"))
        .args([kind.as_ref(), config.as_os_str()])
        .arg(free.port().to_string())
        .args([programs.join("examples/log_lines"), programs.join("fake-cluster")])
        .args(command);
    script::outcome(&mut check)
}

/// The text of the one ConfigMap of the shipper.
fn configuration(objects: &[Value]) -> anyhow::Result<String> {
    let is_it =
        |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["namespace"] == "wharf-logs";
    let maps: Vec<&Value> = objects.iter().filter(is_it).collect();
    ensure!(maps.len() == 1, "the chart has {} ConfigMaps of the shipper", maps.len());
    let texts = maps[0]["data"].as_object().context("the ConfigMap has no data")?;
    let text = texts.values().next().and_then(Value::as_str);
    Ok(text.context("the ConfigMap has no text")?.to_owned())
}
