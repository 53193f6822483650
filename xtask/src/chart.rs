//! `cargo xtask chart`: what the Helm chart renders to, whether that is valid, and whether what is checked in of it is fresh.
//!
//! Helm itself renders (PyPI helm-python-sdk carries it as a library) the default, the minimal and the production values. Kubernetes' schemas
//! are asked about every object, [`rules`] about what objects say of each other, and an API server in memory what becomes of a release. `deploy/install.yaml` is the default rendering; the others
//! are checked in so that a change of a template is read as a change of manifests, and tests of the crates parse what is in them.

mod rules;
mod trial;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::cache::Cache;
use crate::python::Python;
use crate::verify_manifests::{self, Verdict};
use crate::{environment, shell};

const HELM_PACKAGE: &str = "helm-python-sdk==0.2.2";
const CHART: &str = "deploy/helm/wharf";
const CRDS: &str = "deploy/crds/wharf.dev.yaml";
const CRDS_OF_CHART: &str = "deploy/helm/wharf/files/crds.yaml";
const INSTALL: &str = "deploy/install.yaml";
/// Release and namespace of what is checked in.
const RELEASE: &str = "wharf";
const NAMESPACE: &str = "wharf-system";

/// Values, and where their rendering is checked in.
const RENDERINGS: [(&str, &str); 5] = [
    ("-", INSTALL),
    ("deploy/helm/wharf/ci/minimal-values.yaml", "deploy/helm/rendered/minimal.yaml"),
    ("deploy/helm/wharf/ci/production-values.yaml", "deploy/helm/rendered/production.yaml"),
    ("deploy/helm/wharf/ci/fluentd-values.yaml", "deploy/helm/rendered/fluentd.yaml"),
    ("deploy/helm/wharf/ci/gpu-values.yaml", "deploy/helm/rendered/gpu.yaml"),
];

/// Render the Helm chart and check what it renders to
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask chart            check; 1 if something is wrong or stale
  cargo xtask chart --write    and write install.yaml and what else is generated from the chart

Needs Python 3.10 or later with pip.")]
pub(crate) struct Args {
    /// Write the generated files instead of comparing them
    #[arg(long)]
    write: bool,
}

/// What the script prints.
#[derive(Deserialize)]
struct Rendered {
    /// Version of Helm.
    helm: String,
    findings: Vec<String>,
    renderings: Vec<Rendering>,
}

/// What values render to.
#[derive(Deserialize)]
struct Rendering {
    /// Text of every document, in the order in which Helm applies them; CustomResourceDefinitions are left out.
    documents: Vec<String>,
    /// All objects.
    objects: Vec<Value>,
    notes: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    let (checked, faults) = examine(&python, args.write)?;
    faults.iter().for_each(|fault| println!("{fault}"));
    println!("{checked} checks, {} faults", faults.len());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many objects were looked at and facts tried, and everything that is wrong.
pub(crate) fn examine(python: &Python, write: bool) -> anyhow::Result<(usize, Vec<String>)> {
    let cache = Cache::open()?;
    let mut faults = Vec::new();
    let crds = read(CRDS)?;
    generated(CRDS_OF_CHART, &kept(&crds), write, &mut faults)?;
    let Rendered { helm, findings, renderings } = render(&cache, python)?;
    ensure!(renderings.len() == RENDERINGS.len(), "the script rendered {} times", renderings.len());
    faults.extend(findings.into_iter().map(|finding| format!("Helm {helm}: {finding}")));
    faults.extend(versions(&read(&format!("{CHART}/Chart.yaml"))?));
    let mut all = Vec::new();
    for ((values, place), Rendering { documents, objects, notes }) in RENDERINGS.into_iter().zip(renderings) {
        let text = match place {
            INSTALL => install(&crds, &documents),
            _ => rendering(values, &documents, &notes),
        };
        generated(place, &text, write, &mut faults)?;
        faults.extend(
            rules::complaints(&objects).into_iter().map(|complaint| format!("{values}: {complaint}")),
        );
        all.extend(objects);
    }
    let Verdict { checker, checked, complaints } = verify_manifests::kubernetes(&cache, python, &all)?;
    println!("Helm {helm}; {checker}: {checked} of {} objects have a schema there", all.len());
    faults.extend(complaints.into_iter().map(|complaint| format!("{checker}: {complaint}")));
    let (facts, broken) = trial::install(script(&cache, python)?)?;
    println!("Helm installed, upgraded and uninstalled it: {facts} facts");
    faults.extend(broken);
    Ok((all.len() + facts, faults))
}

/// All objects of all renderings.
pub(crate) fn objects(cache: &Cache, python: &Python) -> anyhow::Result<Vec<Value>> {
    Ok(render(cache, python)?.renderings.into_iter().flat_map(|rendering| rendering.objects).collect())
}

/// All objects of one rendering.
pub(crate) fn rendered(cache: &Cache, python: &Python, values: &Path) -> anyhow::Result<Vec<Value>> {
    let renderings = render_each(cache, python, &[values.as_os_str()])?.renderings;
    Ok(renderings.into_iter().flat_map(|rendering| rendering.objects).collect())
}

fn render(cache: &Cache, python: &Python) -> anyhow::Result<Rendered> {
    render_each(cache, python, &RENDERINGS.map(|(values, _)| OsStr::new(values)))
}

fn render_each(cache: &Cache, python: &Python, values: &[&OsStr]) -> anyhow::Result<Rendered> {
    let mut command = script(cache, python)?;
    command.args(["scripts/render_chart.py", CHART, RELEASE, NAMESPACE]).args(values);
    serde_json::from_str(&shell::read(&mut command)?).context("failed to read what Helm rendered")
}

/// A Python that has Helm, and reads YAML with what the validator of manifests depends on.
fn script(cache: &Cache, python: &Python) -> anyhow::Result<Command> {
    let packages = [python.packages(cache, HELM_PACKAGE)?, verify_manifests::packages(cache, python)?];
    let mut command = python.command();
    command.env("PYTHONPATH", std::env::join_paths(packages).context("failed to name the Python packages")?);
    command.current_dir(environment::root());
    Ok(command)
}

/// The definitions as a release has them: they stay when it is uninstalled, and with them everything that users made.
fn kept(crds: &str) -> String {
    crds.replace("\nmetadata:\n", "\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n")
}

/// Everything for `kubectl apply`: the namespace, the definitions, and the objects without what only Helm has a use for.
fn install(crds: &str, documents: &[String]) -> String {
    let helm = |line: &&str| {
        !line.contains("helm.sh/chart:") && !line.contains("app.kubernetes.io/managed-by: Helm")
    };
    let objects = documents.iter().map(|document| {
        let lines: Vec<&str> = document.lines().filter(helm).collect();
        format!("---\n{}\n", lines.join("\n"))
    });
    format!(
        "# Wharf: operator and gateway, without Helm. Generated from deploy/helm/wharf by `cargo xtask chart --write`.\n\
         #\n\
         #   kubectl apply --server-side -f install.yaml\n\
         ---\n\
         apiVersion: v1\n\
         kind: Namespace\n\
         metadata:\n  \
           name: {NAMESPACE}\n  \
           labels:\n    \
             pod-security.kubernetes.io/enforce: restricted\n\
         {crds}{}",
        objects.collect::<String>()
    )
}

/// A rendering for people to read.
fn rendering(values: &str, documents: &[String], notes: &str) -> String {
    let notes: String = notes.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect();
    let objects: String = documents.iter().map(|document| format!("---\n{document}\n")).collect();
    format!(
        "# Rendered from {values} by `cargo xtask chart --write`, without CustomResourceDefinitions.\n#\n{notes}{objects}"
    )
}

/// The chart's versions are the workspace's.
fn versions(chart: &str) -> Vec<String> {
    let version = env!("CARGO_PKG_VERSION");
    [format!("version: {version}"), format!("appVersion: \"{version}\"")]
        .into_iter()
        .filter(|line| !chart.lines().any(|one| one == line))
        .map(|line| format!("{CHART}/Chart.yaml: does not say `{line}`, the version of the workspace"))
        .collect()
}

/// Writes a generated file, or says that it is stale.
fn generated(place: &str, text: &str, write: bool, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let path = path(place);
    if write {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("failed to create {}", folder.display()))?;
        }
        return std::fs::write(&path, text).with_context(|| format!("failed to write {place}"));
    }
    match std::fs::read_to_string(&path) {
        Ok(there) if there == text => Ok(()),
        Ok(there) => {
            let line = there.lines().zip(text.lines()).take_while(|(old, new)| old == new).count() + 1;
            faults.push(format!("{place}:{line}: is stale; `cargo xtask chart --write` writes it"));
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            faults.push(format!("{place}: is missing; `cargo xtask chart --write` writes it"));
            Ok(())
        }
        Err(error) => bail!("failed to read {place}: {error}"),
    }
}

fn read(place: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path(place)).with_context(|| format!("failed to read {place}"))
}

fn path(place: &str) -> PathBuf {
    environment::root().join(Path::new(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_a_release_stay_when_it_goes() {
        let crds = "---\nkind: CustomResourceDefinition\nmetadata:\n  name: a\nspec:\n  x: {}\n---\nkind: B\nmetadata:\n  name: b\n";
        assert_eq!(
            kept(crds)
                .matches("metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  name:")
                .count(),
            2
        );
    }

    #[test]
    fn what_kubectl_applies_says_nothing_of_helm() {
        let document = "kind: A\nmetadata:\n  labels:\n    helm.sh/chart: wharf-1\n    app.kubernetes.io/managed-by: Helm\n    a: b";
        let text = install("---\nkind: CustomResourceDefinition\n", &[document.to_owned()]);
        assert!(
            text.ends_with(
                "---\nkind: CustomResourceDefinition\n---\nkind: A\nmetadata:\n  labels:\n    a: b\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("\nkind: Namespace\nmetadata:\n  name: wharf-system\n  labels:\n    pod-security"),
            "{text}"
        );
    }

    #[test]
    fn a_chart_of_another_version_is_a_fault() {
        let version = env!("CARGO_PKG_VERSION");
        assert!(versions(&format!("version: {version}\nappVersion: \"{version}\"\n")).is_empty());
        assert_eq!(versions(&format!("version: {version}\nappVersion: \"0.0.1\"\n")).len(), 1);
        assert_eq!(versions("").len(), 2);
    }
}
