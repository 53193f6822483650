//! The HorizontalPodAutoscaler: one, with every metric that is asked for. Two on one target disable each other
//! (Kubernetes documentation, "Horizontal Pod Autoscaling", AmbiguousSelector).

use serde_json::{Value, json};
use wharf_spec::service::{ScalingMode, Targets};

use super::workload;
use crate::Mode;
use crate::facts::Facts;
use crate::names::{self, SERVICE, metric};

/// Seconds that fewer replicas must have been enough, and the share that may go in a minute: models come back slowly.
const DOWN_WINDOW: i64 = 300;
const DOWN_PERCENT: i64 = 10;

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let scaling = &facts.spec.scaling;
    if !is_wanted(facts) {
        return Vec::new();
    }
    let labels = names::labels(SERVICE, facts.name);
    let mut hpa =
        names::object("autoscaling/v2", "HorizontalPodAutoscaler", facts.name, facts.namespace, labels);
    hpa["spec"] = json!({
        "scaleTargetRef": target(facts),
        "minReplicas": scaling.min.max(1),
        "maxReplicas": scaling.most(),
        "metrics": metrics(facts),
        "behavior": behavior(facts),
    });
    vec![hpa]
}

fn is_wanted(facts: &Facts<'_>) -> bool {
    let scaling = &facts.spec.scaling;
    match (scaling.mode, facts.mode) {
        (ScalingMode::Hpa, _) => true,
        // Without an operator nobody but an HPA can do what mode native asks for, as far as it knows the targets.
        (ScalingMode::Native, Mode::Standalone) => scaling.most() > scaling.min && !metrics(facts).is_empty(),
        (ScalingMode::Native | ScalingMode::Keda | ScalingMode::None, _) => false,
    }
}

/// Whether an HPA, KEDA's or ours, sets the number of replicas.
pub(super) fn is_scaled(facts: &Facts<'_>) -> bool {
    is_wanted(facts) || facts.spec.scaling.mode == ScalingMode::Keda
}

/// What is scaled: the service itself, whose operator scales the version that serves; without an operator, that version.
pub(super) fn target(facts: &Facts<'_>) -> Value {
    match facts.mode {
        Mode::Managed | Mode::Local => {
            json!({"apiVersion": wharf_spec::API_VERSION, "kind": "LLMService", "name": facts.name})
        }
        Mode::Standalone => {
            let (api_version, kind) = match facts.is_group() {
                true => ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
                false => ("apps/v1", "Deployment"),
            };
            let name = workload::name(facts, facts.state.serving);
            json!({"apiVersion": api_version, "kind": kind, "name": name})
        }
    }
}

/// The user's, or one that lets replicas go slowly.
pub(super) fn behavior(facts: &Facts<'_>) -> Value {
    match &facts.spec.scaling.behavior {
        Some(behavior) => serde_json::to_value(behavior).expect("plain data"),
        None => json!({
            "scaleDown": {
                "stabilizationWindowSeconds": DOWN_WINDOW,
                "policies": [{"type": "Percent", "value": DOWN_PERCENT, "periodSeconds": 60}],
            },
        }),
    }
}

/// Every metric that an HPA can know.
fn metrics(facts: &Facts<'_>) -> Vec<Value> {
    let Targets {
        concurrency,
        requests_per_second,
        queue,
        kv_cache,
        tokens_in_flight: _,
        gpu,
        cpu,
        memory,
        ttft_p95: _,
    } = &facts.spec.scaling.target;
    let resource = |name: &str, percent: &Option<u32>| {
        let target = json!({"type": "Utilization", "averageUtilization": (*percent)?});
        Some(json!({"type": "Resource", "resource": {"name": name, "target": target}}))
    };
    let pods = |name: &str, average: Option<String>| {
        let target = json!({"type": "AverageValue", "averageValue": average?});
        Some(json!({"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}))
    };
    let all = [
        resource("cpu", cpu),
        resource("memory", memory),
        pods(metric::REQUESTS_PER_SECOND, requests_per_second.as_ref().map(ToString::to_string)),
        pods(metric::REQUESTS_RUNNING, concurrency.map(|count| count.to_string())),
        pods(metric::REQUESTS_WAITING, queue.map(|count| count.to_string())),
        pods(
            metric::KV_CACHE_USAGE,
            kv_cache.as_ref().map(|share| format!("{}m", (share.ratio() * 1000.0).round())),
        ),
        pods(metric::GPU_UTILIZATION, gpu.map(|percent| percent.to_string())),
    ];
    all.into_iter().flatten().collect()
}
