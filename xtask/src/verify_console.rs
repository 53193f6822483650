//! `cargo xtask verify-console`: the console in a real browser, before services of a real model.
//!
//! The checks are `tests/console`; this command provides what they need, so that none is left out: a service that is awake and one that
//! falls asleep, a gateway that asks for keys, a port where the tests are the gateway's Prometheus, packages, and a folder for screenshots.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::demo_model::DemoModel;
use crate::server::{self, Server};
use crate::{demo, demo_model, environment, shell};

/// Drive the console with a browser, before `wharf up` with the demo model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-console
  CHROMIUM=/usr/bin/chromium cargo xtask verify-console --shots screenshots

Needs node with npm, and Chromium (Debian's package chromium). Exits with 1 when a test fails or is left out.")]
pub(crate) struct Args {
    /// Folder for screenshots
    #[arg(long, value_name = "DIR")]
    shots: Option<PathBuf>,
}

const TESTS: &str = "tests/console";
/// The small model does not know when to end.
const SHORT: &str = "  server: {defaults: {maxTokens: 160}}\n";
/// The browser needs a core as well: what it does is to be seen while an answer is written.
const ONE_CORE: &str = "  resources: {requests: {cpu: 1}}\n";
/// What falls asleep beside the demonstration's service; its name comes after that one's.
const SLEEPER: &str = "night-watch";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = demo_model::obtain()?;
    let wharf = server::build()?;
    let folder = shell::target()?.join("verify-console");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("failed to empty {}", folder.display()))?;
    }
    // Packages are installed beside a copy: nothing is added to the sources.
    let tests = folder.join("tests");
    make(&folder)?;
    shell::run(Command::new("cp").arg("-r").arg(environment::root().join(TESTS)).arg(&tests))?;
    shell::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&tests))?;
    let shots = args.shots.clone().unwrap_or_else(|| folder.join("shots"));
    make(&shots)?;
    let shots = shots.canonicalize().with_context(|| format!("failed to find {}", shots.display()))?;
    let mut test = Command::new("npm");
    test.arg("test").current_dir(&tests).env("WHARF_SHOTS", &shots).env("WHARF_WHOLE", "1");
    let status = demo::runtime()?.block_on(before(&wharf, &model, &folder, test))?;
    eprintln!("screenshots are in {}", shots.display());
    Ok(if status { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests before both gateways, which end whatever becomes of the tests.
async fn before(wharf: &Path, model: &DemoModel, folder: &Path, test: Command) -> anyhow::Result<bool> {
    let prometheus = server::free_port(0)?;
    let config = folder.join("gateway.yaml");
    write(&config, &format!("prometheus: http://127.0.0.1:{prometheus}\n"))?;
    let file = services(wharf, model, folder)?;
    let mut open = Server::up(wharf, &file, folder, &[("--gateway-config", &config)])?;
    let tested = match open.ready().await {
        Ok(_) => before_keyed(wharf, model, &folder.join("keyed"), test, (&open, prometheus)).await,
        Err(error) => Err(error),
    };
    let stopped = open.stop().await;
    tested.and_then(|passed| stopped.map(|()| passed))
}

/// Starts the gateway that asks for keys beside the open one, and runs the tests.
async fn before_keyed(
    wharf: &Path,
    model: &DemoModel,
    folder: &Path,
    mut test: Command,
    (open, prometheus): (&Server, u16),
) -> anyhow::Result<bool> {
    make(folder)?;
    let keys = folder.join("keys.yaml");
    let key = shell::read(Command::new(wharf).args(["key", "create", "console", "--file"]).arg(&keys))?;
    let file = demo::write_object(model, demo::AWAKE, folder)?;
    let mut keyed = Server::up(wharf, &file, folder, &[("--api-key-file", &keys)])?;
    let tested = match keyed.ready().await {
        Ok(_) => {
            test.env("WHARF_URL", open.url()).env("WHARF_KEYED_URL", keyed.url());
            test.env("WHARF_KEY", key.trim()).env("WHARF_PROMETHEUS_PORT", prometheus.to_string());
            test.status().context("failed to start npm test")
        }
        Err(error) => Err(error),
    };
    let stopped = keyed.stop().await;
    tested.and_then(|status| stopped.map(|()| status.success()))
}

/// Writes the service that is awake and the one that falls asleep. This one is an engine of its own, which takes a second more to start:
/// the small model would be awake before anybody has seen it wake.
fn services(wharf: &Path, model: &DemoModel, folder: &Path) -> anyhow::Result<PathBuf> {
    let file = demo::write_object(model, demo::AWAKE, folder)?;
    let awake =
        std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let found =
        |path: &Path| path.canonicalize().with_context(|| format!("failed to find {}", path.display()));
    let sleeper = format!(
        "---
apiVersion: wharf.dev/v1alpha1
kind: LLMService
metadata: {{name: {SLEEPER}}}
spec:
  model: {{source: 'file://{model}'}}
  runtime:
    engine: custom
    image: registry.example.com/slow:1
    ports: {{http: 8080}}
    probes: {{liveness: /health, readiness: /ready}}
    command: [sh, -c, 'sleep 1; exec \"$0\" serve --host 127.0.0.1 --port $1 --metrics-port 0']
    args: ['{wharf}', $(PORT)]
  scaling: {{min: 0, max: 1, target: {{concurrency: 8}}, idleAfter: 3s}}
",
        model = found(&model.path)?.display(),
        wharf = found(wharf)?.display(),
    );
    write(&file, &[&awake, SHORT, ONE_CORE, &sleeper, SHORT].concat())?;
    Ok(file)
}

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}
