//! `cargo xtask verify-manifests`: whether others' schemas accept what `wharf render` prints.
//!
//! Every example is rendered for clusters with and without Wharf, beside the CustomResourceDefinitions and what the chart renders to. Kubernetes' own kinds are validated
//! with the schemas that it publishes (PyPI kubernetes-validate), kinds of other projects with types and models that are generated
//! from their CRDs (crates kcr_*, npm @kubernetes-models).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::cache::Cache;
use crate::python::Python;
use crate::{chart, environment, server, shell};

const PYTHON_PACKAGE: &str = "kubernetes-validate==1.37.0";
const NODE_PACKAGES: [&str; 3] = [
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "@kubernetes-models/gateway-api@2.0.0",
];

/// Kinds that no package carries a schema of.
const UNCHECKED: &[&str] = &["InferencePool"];

/// Check every example's manifests against the schemas of Kubernetes and of other projects
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-manifests

Needs Python with pip, and Node with npm. Exits with 1 when a schema does not accept something, or no checker knows a kind.")]
pub(crate) struct Args {}

/// What a checker says.
#[derive(Debug, Deserialize)]
pub(crate) struct Verdict {
    /// Who checked, with its version.
    pub(crate) checker: String,
    /// Objects of kinds that it knows.
    pub(crate) checked: usize,
    pub(crate) complaints: Vec<String>,
}

pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let wharf = server::build()?;
    let cache = Cache::open()?;
    let python = Python::find().context(Python::MISSING)?;
    let mut objects = render(&wharf)?;
    objects.extend(chart::objects(&cache, &python)?);
    let file = written(&objects)?;

    let verdicts = [kubernetes(&cache, &python, &objects)?, models(&cache, &file)?, types(&file)?];
    let mut faults = Vec::new();
    for Verdict { checker, checked, complaints } in &verdicts {
        println!("{checker}: {checked} objects, {} complaints", complaints.len());
        faults.extend(complaints.iter().map(|complaint| format!("{checker}: {complaint}")));
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for object in &objects {
        *kinds.entry(object["kind"].as_str().unwrap_or_default()).or_default() += 1;
    }
    let list: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("{} objects: {}", objects.len(), list.join(", "));
    let unchecked: usize = UNCHECKED.iter().filter_map(|kind| kinds.get(kind)).sum();
    // Kinds of other projects are looked at twice, except LeaderWorkerSet, of which npm has no model.
    let twice = ["ScaledObject", "ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"];
    let twice: usize = twice.iter().filter_map(|kind| kinds.get(kind)).sum();
    let looked_at: usize = verdicts.iter().map(|verdict| verdict.checked).sum();
    ensure!(
        looked_at == objects.len() - unchecked + twice,
        "{looked_at} checks of {} objects: some kind is known to no checker",
        objects.len()
    );
    println!("not checked, because no package has their schema: {}", UNCHECKED.join(", "));
    faults.iter().for_each(|fault| println!("{fault}"));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that is to be accepted.
fn render(wharf: &Path) -> anyhow::Result<Vec<Value>> {
    let list = |command: &mut Command| -> anyhow::Result<Vec<Value>> {
        serde_json::from_str(&shell::read(command.args(["--output", "json"]))?)
            .context("failed to parse the objects")
    };
    let mut objects = list(Command::new(wharf).arg("crd"))?;
    for file in examples()? {
        objects.extend(list(Command::new(wharf).args(["render", "-f"]).arg(&file))?);
        // What needs the gateway is refused, and a test knows which examples those are.
        let mut standalone = Command::new(wharf);
        standalone.args(["render", "--standalone", "--output", "json", "-f"]).arg(&file);
        let output = standalone.output().context("failed to run wharf render")?;
        if output.status.success() {
            let more: Vec<Value> =
                serde_json::from_slice(&output.stdout).context("failed to parse the objects")?;
            objects.extend(more);
        }
    }
    Ok(objects)
}

fn examples() -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir("examples").context("failed to list the examples")?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .context("failed to list the examples")?;
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    Ok(files)
}

/// The Python packages of [`kubernetes`].
pub(crate) fn packages(cache: &Cache, python: &Python) -> anyhow::Result<PathBuf> {
    python.packages(cache, PYTHON_PACKAGE)
}

/// Compares objects with the schemas that Kubernetes publishes.
pub(crate) fn kubernetes(cache: &Cache, python: &Python, objects: &[Value]) -> anyhow::Result<Verdict> {
    let mut command = python.command();
    command.env("PYTHONPATH", packages(cache, python)?).current_dir(environment::root());
    verdict(command.arg("scripts/verify_manifests.py").arg(written(objects)?))
}

/// A file with objects, for programs that check them.
fn written(objects: &[Value]) -> anyhow::Result<PathBuf> {
    let folder = shell::target()?.join("verify-manifests");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let file = folder.join("objects.json");
    let text = serde_json::to_string(objects).context("failed to write the objects as JSON")?;
    std::fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
    Ok(file)
}

fn models(cache: &Cache, file: &Path) -> anyhow::Result<Verdict> {
    let folder = cache.filled(Path::new("npm/kubernetes-models"), |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--prefix"]).arg(folder);
        shell::run(npm.args(NODE_PACKAGES))
    })?;
    verdict(Command::new("node").arg("scripts/verify_manifests.mjs").arg(file).arg(folder))
}

fn types(file: &Path) -> anyhow::Result<Verdict> {
    let mut cargo =
        shell::cargo(&["run", "--quiet", "--manifest-path", "tests/schemas/Cargo.toml", "--target-dir"]);
    verdict(cargo.arg(shell::target()?.join("schemas")).arg("--").arg(file))
}

fn verdict(command: &mut Command) -> anyhow::Result<Verdict> {
    let said = shell::read(command)?;
    serde_json::from_str(&said).with_context(|| format!("failed to understand a checker that said {said:?}"))
}
