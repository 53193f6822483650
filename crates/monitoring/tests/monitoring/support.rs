//! What several tests look at.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wharf_manifests::{Mode, Settings, State};
use wharf_monitoring::rules::{Tuning, groups};
use wharf_monitoring::{Alert, Group, Rule};
use wharf_spec::{Document, Object, check};

/// A path of the repository.
pub(crate) fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The installation's alerts.
pub(crate) fn alerts(groups: &[Group]) -> Vec<&Alert> {
    let rules = groups.iter().flat_map(|group| &group.rules);
    rules
        .filter_map(|rule| match rule {
            Rule::Alert(alert) => Some(alert),
            Rule::Record { .. } => None,
        })
        .collect()
}

/// The installation's rules as they are without tuning.
pub(crate) fn installed() -> Vec<Group> {
    groups(&Tuning::default())
}

/// Rules of services that promtool tries: a name, an example, and who renders it.
pub(crate) const TRIED: [(&str, &str, Mode); 3] = [
    ("production", "production", Mode::Managed),
    ("vllm", "vllm", Mode::Managed),
    ("vllm.standalone", "vllm", Mode::Standalone),
];

/// Rules of the services of an example, where `mode` can render them.
pub(crate) fn of_example(name: &str, mode: Mode) -> Vec<Value> {
    let text = std::fs::read_to_string(root(&format!("examples/{name}.yaml"))).unwrap();
    let mut rules = Vec::new();
    for document in Document::read(name, &text).unwrap() {
        if let (Some(Object::Service(service)), _) = check(&document) {
            let state = State::fresh(&service);
            let objects =
                wharf_manifests::service(&service, &state, &Settings::default(), mode).unwrap_or_default();
            rules.extend(objects.into_iter().filter(|object| object["kind"] == "PrometheusRule"));
        }
    }
    rules
}

/// Every example.
pub(crate) fn examples() -> Vec<String> {
    let files = std::fs::read_dir(root("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
