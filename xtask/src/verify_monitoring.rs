//! `cargo xtask verify-monitoring`: whether Prometheus' own tool accepts rules and metrics, and whether every alert fires when it should and
//! is quiet when it should.
//!
//! Rules and cases are checked in (`deploy/monitoring`, `crates/monitoring/promtool`), where tests keep them fresh and complete. Metrics are the
//! text of every role with one sample of each metric, and what a node agent with fake GPUs, a gateway with fake model servers and an operator on an API
//! server in memory answer. What promtool says of names that are not ours to choose is listed in `tolerated.txt`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::cache::Cache;
use crate::python::Python;
use crate::verify_manifests::Verdict;
use crate::{environment, server, shell};

/// Debian's package with promtool in it.
const PACKAGE: &str = "prometheus";
const CASES: &str = "crates/monitoring/promtool";
const DASHBOARDS: &str = "deploy/helm/wharf/files/dashboards";
/// Grafana's types of what it reads.
const GRAFANA: &str = "grafana-foundation-sdk==1769699998!10.1.0";
const TOLERATED: &str = "crates/monitoring/promtool/tolerated.txt";
/// Names that others have given: vLLM's and dcgm-exporter's.
const OF_OTHERS: [&str; 2] = ["vllm:", "DCGM_FI_DEV_"];
const ROLES: [&str; 5] = ["server", "gateway", "operator", "metrics-api", "node"];
/// GPUs are files and model servers fakes: nothing takes long.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Check rules, their cases and every role's metrics with promtool, dashboards with Grafana's types
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-monitoring

Needs promtool: on PATH, or on Debian and Ubuntu from the package prometheus, which is put into the cache and not installed.
With Python and pip, dashboards are compared with Grafana's types. Exits with 1 when something does not hold.")]
pub(crate) struct Args {}

/// Prometheus' own tool.
pub(crate) struct Promtool(PathBuf);

impl Promtool {
    /// What to tell a user without it.
    pub(crate) const MISSING: &str = "promtool is not on PATH and apt-get could not bring it (on Debian: apt install prometheus; elsewhere it is in Prometheus' release archive)";

    /// `None` when it is not there and cannot be had.
    pub(crate) fn find() -> anyhow::Result<Option<Promtool>> {
        if shell::works(Command::new("promtool").arg("--version")) {
            return Ok(Some(Promtool(PathBuf::from("promtool"))));
        }
        if !["apt-get", "dpkg-deb"].iter().all(|tool| shell::works(Command::new(tool).arg("--version"))) {
            return Ok(None);
        }
        match Cache::open()?.filled(Path::new("promtool"), unpack) {
            Ok(folder) => Ok(Some(Promtool(folder.join("promtool")))),
            Err(error) => {
                println!("{error:#}");
                Ok(None)
            }
        }
    }

    fn command(&self) -> Command {
        Command::new(&self.0)
    }

    /// Everything that it says of the text of metrics.
    fn findings(&self, text: &Path) -> anyhow::Result<BTreeSet<String>> {
        let file = File::open(text).with_context(|| format!("failed to open {}", text.display()))?;
        let mut command = self.command();
        let ran =
            command.args(["check", "metrics"]).stdin(file).output().context("failed to start promtool")?;
        let said: BTreeSet<String> = [ran.stdout, ran.stderr]
            .iter()
            .flat_map(|output| String::from_utf8_lossy(output).lines().map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| !line.trim().is_empty())
            .collect();
        // 3: it has understood everything and finds something.
        ensure!(
            matches!(ran.status.code(), Some(0 | 3)),
            "promtool cannot read {}: {}",
            text.display(),
            said.into_iter().collect::<Vec<_>>().join("; ")
        );
        Ok(said)
    }
}

/// promtool alone, out of Debian's package.
fn unpack(folder: &Path) -> anyhow::Result<()> {
    shell::run(Command::new("apt-get").args(["download", PACKAGE]).current_dir(folder))
        .with_context(|| format!("failed to obtain Debian's package {PACKAGE}"))?;
    let entries = std::fs::read_dir(folder).context("failed to list the downloaded package")?;
    let package = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt-get left no package")?;
    let files = folder.join("files");
    shell::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&files))?;
    std::fs::rename(files.join("usr/bin/promtool"), folder.join("promtool"))
        .context("the package has no promtool")?;
    std::fs::remove_dir_all(&files).context("failed to remove the rest of the package")?;
    std::fs::remove_file(&package).context("failed to remove the package")
}

pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let promtool = Promtool::find()?.context(Promtool::MISSING)?;
    let (passed, faults) = examine(&promtool)?;
    faults.iter().for_each(|fault| println!("{fault}"));
    println!("{passed} checks passed, {} faults", faults.len());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many checks passed, and everything that is wrong.
pub(crate) fn examine(promtool: &Promtool) -> anyhow::Result<(usize, Vec<String>)> {
    let mut passed = 0;
    let mut faults = Vec::new();
    let mut rules = vec![environment::root().join("deploy/monitoring/rules.yaml")];
    rules.extend(files(CASES, ".rules.yaml")?);
    let cases = files(CASES, ".test.yaml")?;
    ensure!(cases.len() == rules.len(), "{} files of rules have {} files of cases", rules.len(), cases.len());
    for (what, files) in [("check", rules), ("test", cases)] {
        for file in files {
            match shell::captured(promtool.command().args([what, "rules"]).arg(&file)) {
                Ok([said, _]) => {
                    passed += 1;
                    let said = said.trim().lines().last().unwrap_or_default().trim();
                    println!("{what} rules {}: {said}", file.display());
                }
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
    }
    let folder = shell::target()?.join("verify-monitoring");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let write = ["run", "--quiet", "--package", "wharf-monitoring", "--example", "metrics_text", "--"];
    shell::run(shell::cargo(&write).arg(&folder))?;
    let mut texts: Vec<(String, PathBuf)> =
        ROLES.map(|role| (role.to_owned(), folder.join(format!("{role}.txt")))).to_vec();
    texts.push(("a running node agent".to_owned(), agent(&folder)?));
    texts.push(("a running gateway".to_owned(), gateway(&folder)?));
    texts.push(("a running operator".to_owned(), operator(&folder)?));
    let tolerated = tolerated()?;
    let mut found = BTreeSet::new();
    for (role, text) in texts {
        let findings = promtool.findings(&text)?;
        let wrong: Vec<&String> = findings.difference(&tolerated).collect();
        println!("check metrics of {role}: {} tolerated, {} not", findings.len() - wrong.len(), wrong.len());
        passed += usize::from(wrong.is_empty());
        faults.extend(wrong.into_iter().map(|finding| format!("metrics of {role}: {finding}")));
        found.extend(findings);
    }
    match Python::find() {
        Some(python) => {
            let Verdict { checker, checked, complaints } = dashboards(&python)?;
            println!("{checker}: {checked} dashboards, {} complaints", complaints.len());
            passed += usize::from(complaints.is_empty());
            faults.extend(complaints);
        }
        None => println!("SKIPPED: Grafana's types are not asked about dashboards: {}", Python::MISSING),
    }
    faults.extend(
        tolerated.difference(&found).map(|stale| format!("{TOLERATED}: is not found any more: {stale}")),
    );
    Ok((passed, faults))
}

fn files(folder: &str, ends: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(environment::root().join(folder))
        .with_context(|| format!("failed to list {folder}"))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("failed to list {folder}"))?;
    files.retain(|path| path.to_string_lossy().ends_with(ends));
    files.sort();
    Ok(files)
}

/// Whether Grafana's own types know everything that dashboards say.
fn dashboards(python: &Python) -> anyhow::Result<Verdict> {
    let packages = python.packages(&Cache::open()?, GRAFANA)?;
    let mut command = python.command();
    command.env("PYTHONPATH", packages).arg(environment::root().join("scripts/verify_dashboards.py"));
    let said = shell::read(command.args(files(DASHBOARDS, ".json")?))?;
    serde_json::from_str(&said).with_context(|| format!("failed to understand a checker that said {said:?}"))
}

/// What is said of names of others.
fn tolerated() -> anyhow::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(environment::root().join(TOLERATED))
        .with_context(|| format!("failed to read {TOLERATED}"))?;
    let lines: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    match lines.iter().find(|line| !OF_OTHERS.iter().any(|name| line.starts_with(name))) {
        Some(ours) => bail!("{TOLERATED}: {ours:?} is about a name of our own, which can be put right"),
        None => Ok(lines),
    }
}

/// `/metrics` of a node agent that runs, with fake GPUs.
fn agent(folder: &Path) -> anyhow::Result<PathBuf> {
    let state = folder.join("agent");
    std::fs::create_dir_all(&state).with_context(|| format!("failed to create {}", state.display()))?;
    let mut command = example("wharf-node", "agent")?;
    command.arg(&state).arg("2");
    // It says where it listens.
    running(folder, "agent", command, str::to_owned, "DCGM_FI_DEV_POWER_USAGE{")
}

/// `/metrics` of a gateway that runs, with fake model servers and somebody who calls.
fn gateway(folder: &Path) -> anyhow::Result<PathBuf> {
    let port = server::free_port(0)?;
    let config = folder.join("gateway.yaml");
    let text = format!("host: 127.0.0.1\nport: 0\nmetricsPort: {port}\n");
    std::fs::write(&config, text).context("failed to write the gateway's configuration")?;
    let mut command = example("wharf-gateway", "console")?;
    command.arg(&config);
    running(folder, "gateway", command, |_| format!("127.0.0.1:{port}"), "wharf_gateway_requests_total{")
}

/// `/metrics` of an operator that runs, on an API server in memory.
fn operator(folder: &Path) -> anyhow::Result<PathBuf> {
    let command = example("wharf-operator", "alone")?;
    running(folder, "operator", command, str::to_owned, "wharf_operator_release_phase{")
}

/// An example of a package, built.
fn example(package: &str, name: &str) -> anyhow::Result<Command> {
    shell::run(&mut shell::cargo(&["build", "--quiet", "--package", package, "--example", name]))?;
    Ok(Command::new(shell::target()?.join("debug/examples").join(name)))
}

/// Starts a role, and keeps what it tells of itself when that has `sign` in it. Its first line says that it listens, and perhaps where.
fn running(
    folder: &Path,
    role: &str,
    mut command: Command,
    address: impl Fn(&str) -> String,
    sign: &str,
) -> anyhow::Result<PathBuf> {
    let log = File::create(folder.join(format!("{role}.log"))).context("failed to create a log")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child =
        command.spawn().with_context(|| format!("failed to start {}", shell::describe(&command)))?;
    let text = scraped(&mut child, address, sign);
    child.kill().with_context(|| format!("failed to end the {role}"))?;
    child.wait().with_context(|| format!("failed to wait for the {role}"))?;
    let file = folder.join(format!("running-{role}.txt"));
    std::fs::write(&file, text?).with_context(|| format!("failed to write the metrics of the {role}"))?;
    Ok(file)
}

fn scraped(
    child: &mut std::process::Child,
    address: impl Fn(&str) -> String,
    sign: &str,
) -> anyhow::Result<String> {
    let output = child.stdout.take().context("a pipe was asked for")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("failed to read where a role listens")?;
    let address = address(line.trim());
    let start = Instant::now();
    loop {
        let text = get(&address, "/metrics")?;
        if text.contains(sign) {
            return Ok(text);
        }
        ensure!(start.elapsed() < READY_WITHIN, "{address} does not tell of {sign}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The body of an answer.
fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let asking = || format!("failed to ask {address} for {path}");
    let mut stream = TcpStream::connect(address).with_context(asking)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").with_context(asking)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(asking)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(asking)?;
    ensure!(head.contains(" 200 "), "{address}{path} answers {head:?}");
    Ok(body.to_owned())
}
