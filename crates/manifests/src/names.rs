//! Names, labels and ports: what ties a set of objects together. Every builder takes them from here.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Longest name of a Service, and value of a label (RFC 1035, RFC 1123).
const LONGEST: usize = 63;

/// Label of everything that belongs to a service.
pub const SERVICE: &str = "wharf.dev/service";
/// Label of everything that belongs to a model.
pub const MODEL: &str = "wharf.dev/model";
/// Label that tells which part of a service a pod is.
pub const PART: &str = "wharf.dev/part";
/// Label that tells which version of a service a pod is of.
pub const COLOUR: &str = "wharf.dev/colour";
/// Label of Jobs that remove a file or folder of a model, and of their pods: its name.
pub const REMOVES: &str = "wharf.dev/removes";

/// Metrics of pods that autoscalers ask for, and Wharf's metrics API answers.
pub mod metric {
    /// Requests a second.
    pub const REQUESTS_PER_SECOND: &str = "requests_per_second";
    /// Requests at the same time.
    pub const REQUESTS_RUNNING: &str = "requests_running";
    /// Requests that wait.
    pub const REQUESTS_WAITING: &str = "requests_waiting";
    /// Share of the KV cache in use.
    pub const KV_CACHE_USAGE: &str = "kv_cache_usage";
    /// Utilisation of GPUs, in percent.
    pub const GPU_UTILIZATION: &str = "gpu_utilization";
}

/// What a pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Answers requests.
    Server,
    /// Computes for a server on another node.
    Worker,
    /// Fetches models over the network.
    Fetch,
    /// Makes a model out of another.
    Prepare,
    /// Picks endpoints for a gateway.
    Picker,
}

impl Part {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Part::Server => "server",
            Part::Worker => "worker",
            Part::Fetch => "fetch",
            Part::Prepare => "prepare",
            Part::Picker => "picker",
        }
    }
}

/// Port of the HTTP API in model pods.
pub const HTTP: u16 = 8080;
/// Port of the HTTPS API in model pods.
pub const HTTPS: u16 = 8081;
/// Port of metrics in model pods of Wharf's own engine.
pub const METRICS: u16 = 8082;
/// Port on which ranks of a group meet.
pub const RANKS: u16 = 8083;
/// Port of the endpoint picker.
pub const PICKER: u16 = 9002;
/// gRPC port of its health service, in plain text.
pub const PICKER_HEALTH: u16 = 9003;

/// Name of a part of an object: `parent-suffix` where that fits, otherwise as much of the parent as does, and a digest of all of it in
/// between, so that two long parents do not meet.
pub fn child(parent: &str, suffix: &str) -> String {
    let plain = format!("{parent}-{suffix}");
    if plain.len() <= LONGEST {
        return plain;
    }
    let digest = short_digest(parent);
    let room = LONGEST - suffix.len() - digest.len() - 2;
    let kept = parent[..room].trim_end_matches('-');
    format!("{kept}-{digest}-{suffix}")
}

/// Digits of a digest in names.
pub(crate) const DIGITS: usize = 10;

/// Ten hexadecimal digits that stand for a text.
pub fn short_digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// The same for JSON, whatever the order of its keys.
pub fn digest_of(value: &Value) -> String {
    short_digest(&sorted(value).to_string())
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Labels of an object that belongs to `owner`, which is a service or a model by the label `kind`.
pub fn labels(kind: &str, owner: &str) -> Map<String, Value> {
    let labels = json!({
        "app.kubernetes.io/name": "llm",
        "app.kubernetes.io/instance": owner,
        "app.kubernetes.io/managed-by": "wharf",
        kind: owner,
    });
    match labels {
        Value::Object(labels) => labels,
        _ => unreachable!("the macro makes an object"),
    }
}

/// Labels of a pod.
pub fn pod_labels(kind: &str, owner: &str, part: Part) -> Map<String, Value> {
    let mut labels = labels(kind, owner);
    labels.insert(PART.to_owned(), part.name().into());
    labels
}

/// Selects the pods that are a part of `owner`.
pub fn selector(kind: &str, owner: &str, part: Part) -> Map<String, Value> {
    let mut selector = Map::new();
    selector.insert(kind.to_owned(), owner.into());
    selector.insert(PART.to_owned(), part.name().into());
    selector
}

/// `apiVersion`, `kind` and `metadata` of an object of `owner`; `namespace` is left out where the user left it out.
pub fn object(
    api_version: &str,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    labels: Map<String, Value>,
) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    metadata["labels"] = Value::Object(labels);
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_parents_are_cut_and_stay_apart() {
        assert_eq!(child("assistant", "pods"), "assistant-pods");
        let long = "a".repeat(63);
        let other = format!("{}b", "a".repeat(62));
        for suffix in ["pods", "config-0123456789"] {
            let (one, two) = (child(&long, suffix), child(&other, suffix));
            assert!(one.len() <= 63 && one.ends_with(suffix) && one != two, "{one} {two}");
        }
    }

    #[test]
    fn a_digest_of_json_does_not_depend_on_the_order_of_keys() {
        let (one, two) = (json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"b": {"d": 3, "c": 2}, "a": 1}));
        assert_eq!(digest_of(&one), digest_of(&two));
        assert_ne!(digest_of(&one), digest_of(&json!({"a": 1, "b": {"c": 2, "d": 4}})));
    }
}
