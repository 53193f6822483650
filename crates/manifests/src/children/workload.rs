//! What makes the pods: a Deployment for each version, or a LeaderWorkerSet where a replica has pods on several nodes.

use serde_json::{Map, Value, json};
use wharf_spec::service::Strategy;

use super::pod;
use crate::Mode;
use crate::facts::Facts;
use crate::names::{self, COLOUR, Part, SERVICE};
use crate::version::{Colour, Version, has_colours};

/// Name of the workload of a version. Where Kubernetes replaces pods in place there is one, named without a colour.
pub(super) fn name(facts: &Facts<'_>, colour: Colour) -> String {
    match has_colours(facts.mode, facts.spec.rollout.strategy) {
        true => names::child(facts.name, colour.name()),
        false => facts.name.to_owned(),
    }
}

/// Selects the pods of a version that answer requests.
pub(super) fn selector(facts: &Facts<'_>, colour: Colour, part: Part) -> Map<String, Value> {
    let mut selector = names::selector(SERVICE, facts.name, part);
    if has_colours(facts.mode, facts.spec.rollout.strategy) {
        selector.insert(COLOUR.to_owned(), colour.name().into());
    }
    selector
}

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    facts.state.versions.iter().map(|version| workload(facts, version)).collect()
}

fn workload(facts: &Facts<'_>, version: &Version) -> Value {
    let of = version.released.as_deref().unwrap_or(facts.service);
    let facts = &facts.of_version(of);
    let colour = version.colour;
    let mut labels = names::labels(SERVICE, facts.name);
    labels.extend(selector(facts, colour, Part::Server));
    let name = name(facts, colour);
    if facts.is_group() {
        group(facts, version, &name, labels)
    } else {
        deployment(facts, version, &name, labels)
    }
}

fn deployment(facts: &Facts<'_>, version: &Version, name: &str, labels: Map<String, Value>) -> Value {
    let mut deployment = names::object("apps/v1", "Deployment", name, facts.namespace, labels);
    let deadline = facts.spec.rollout.deadline.whole_seconds();
    // With colours its pods are never replaced by others: a release is another Deployment.
    let coloured = has_colours(facts.mode, facts.spec.rollout.strategy);
    let strategy = match facts.spec.rollout.strategy {
        Strategy::Recreate if !coloured => json!({"type": "Recreate"}),
        Strategy::Rolling if !coloured => {
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
        }
        Strategy::BlueGreen | Strategy::Canary | Strategy::Rolling | Strategy::Recreate => {
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
        }
    };
    deployment["spec"] = json!({
        "replicas": version.replicas,
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": deadline,
        "strategy": strategy,
        "selector": {"matchLabels": selector(facts, version.colour, Part::Server)},
        "template": pod::template(facts, version.colour, Part::Server),
    });
    leave_replicas_to_the_scaler(facts, &mut deployment);
    deployment
}

/// Where an autoscaler scales the workload itself, a number in the manifest would undo its work with every `kubectl apply`.
fn leave_replicas_to_the_scaler(facts: &Facts<'_>, workload: &mut Value) {
    if facts.mode == Mode::Standalone
        && super::autoscaler::is_scaled(facts)
        && let Some(spec) = workload["spec"].as_object_mut()
    {
        spec.remove("replicas");
    }
}

/// Groups of pods that come and go together (leaderworkerset.sigs.k8s.io).
fn group(facts: &Facts<'_>, version: &Version, name: &str, labels: Map<String, Value>) -> Value {
    let mut group =
        names::object("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", name, facts.namespace, labels);
    group["spec"] = json!({
        "replicas": version.replicas,
        "startupPolicy": "LeaderCreated",
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1},
        },
        "leaderWorkerTemplate": {
            "size": facts.spec.parallelism.nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": pod::template(facts, version.colour, Part::Server),
            "workerTemplate": pod::template(facts, version.colour, Part::Worker),
        },
    });
    leave_replicas_to_the_scaler(facts, &mut group);
    group
}
