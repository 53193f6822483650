//! Helm installs, upgrades and uninstalls the chart on an API server in memory (`fake-cluster`): whether an API server takes what it renders to,
//! whether an upgrade reaches the definitions, and what is left at the end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use serde::Deserialize;

use super::{CHART, RENDERINGS};
use crate::shell;

/// An API server, until it is dropped.
struct Cluster {
    child: Child,
    url: String,
}

/// What the script prints.
#[derive(Deserialize)]
struct Said {
    facts: usize,
    complaints: Vec<String>,
}

/// How much was tried, and what did not go as it should. `script` is ready to run a script of ours.
pub(super) fn install(mut script: Command) -> anyhow::Result<(usize, Vec<String>)> {
    let cluster = Cluster::start()?;
    let values = RENDERINGS.map(|(values, _)| values).into_iter().filter(|values| *values != "-");
    script.args(["scripts/install_chart.py", CHART, &cluster.url]).args(values);
    let Said { facts, complaints } = serde_json::from_str(&shell::output(&mut script)?)
        .context("failed to read what became of the release")?;
    Ok((facts, complaints.into_iter().map(|what| format!("Helm on an API server: not so: {what}")).collect()))
}

impl Cluster {
    fn start() -> anyhow::Result<Cluster> {
        shell::run(&mut shell::cargo(&[
            "build",
            "--quiet",
            "--package",
            "wharf-fakes",
            "--bin",
            "fake-cluster",
        ]))?;
        let program = shell::target()?.join("debug/fake-cluster");
        let mut command = Command::new(&program);
        command.args(["--install", "monitoring.coreos.com"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
        let output = child.stdout.take().context("a pipe was asked for")?;
        let mut cluster = Cluster { child, url: String::new() };
        BufReader::new(output)
            .read_line(&mut cluster.url)
            .context("failed to learn where the API server listens")?;
        cluster.url.truncate(cluster.url.trim_end().len());
        Ok(cluster)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
