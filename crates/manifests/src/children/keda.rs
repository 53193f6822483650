//! KEDA's ScaledObject: the same targets through Wharf's scaler, or through Prometheus where there is no scaler of ours.

use serde_json::{Value, json};
use wharf_spec::service::{ScalingMode, Targets};

use super::autoscaler;
use crate::Mode;
use crate::facts::Facts;
use crate::names::{self, SERVICE, metric};

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let scaling = &facts.spec.scaling;
    if scaling.mode != ScalingMode::Keda {
        return Vec::new();
    }
    let labels = names::labels(SERVICE, facts.name);
    let mut object = names::object("keda.sh/v1alpha1", "ScaledObject", facts.name, facts.namespace, labels);
    object["spec"] = json!({
        "scaleTargetRef": autoscaler::target(facts),
        "minReplicaCount": scaling.min,
        "maxReplicaCount": scaling.most(),
        "cooldownPeriod": scaling.idle_after.whole_seconds(),
        "advanced": {
            "horizontalPodAutoscalerConfig": {"name": facts.name, "behavior": autoscaler::behavior(facts)},
        },
        "triggers": triggers(facts),
    });
    vec![object]
}

fn triggers(facts: &Facts<'_>) -> Vec<Value> {
    let scaling = &facts.spec.scaling;
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
    } = &scaling.target;
    let mut triggers = Vec::new();
    for (kind, percent) in [("cpu", cpu), ("memory", memory)] {
        if let Some(percent) = percent {
            triggers.push(json!({
                "type": kind, "metricType": "Utilization", "metadata": {"value": percent.to_string()},
            }));
        }
    }
    let targets = [
        (metric::REQUESTS_PER_SECOND, requests_per_second.as_ref().map(|rate| rate.milli() as f64 / 1000.0)),
        (metric::REQUESTS_RUNNING, concurrency.map(f64::from)),
        (metric::REQUESTS_WAITING, queue.map(f64::from)),
        (metric::KV_CACHE_USAGE, kv_cache.as_ref().map(|share| share.ratio())),
        (metric::GPU_UTILIZATION, gpu.map(f64::from)),
    ];
    for (metric, target) in targets {
        if let Some(target) = target {
            triggers.push(trigger(facts, metric, target));
        }
    }
    for schedule in &scaling.schedules {
        triggers.push(json!({"type": "cron", "metadata": {
            "timezone": schedule.time_zone, "start": schedule.start, "end": schedule.end,
            "desiredReplicas": schedule.min.to_string(),
        }}));
    }
    triggers
}

fn trigger(facts: &Facts<'_>, metric: &str, target: f64) -> Value {
    match facts.mode {
        Mode::Managed | Mode::Local => json!({"type": "external-push", "metadata": {
            "scalerAddress": facts.settings.scaler_address, "service": facts.name, "metric": metric, "target": target.to_string(),
        }}),
        Mode::Standalone => json!({"type": "prometheus", "metadata": {
            "serverAddress": facts.settings.prometheus_url, "query": query(facts, metric), "threshold": target.to_string(),
        }}),
    }
}

/// The sum over all pods: KEDA divides it by the target.
fn query(facts: &Facts<'_>, metric: &str) -> String {
    let service = super::services::pods_name(facts);
    let of = format!("{{service=\"{service}\"}}");
    match metric {
        metric::REQUESTS_PER_SECOND => format!("sum(rate(vllm:request_success_total{of}[1m]))"),
        metric::REQUESTS_RUNNING => format!("sum(vllm:num_requests_running{of})"),
        metric::REQUESTS_WAITING => format!("sum(vllm:num_requests_waiting{of})"),
        metric::KV_CACHE_USAGE => format!("sum(vllm:kv_cache_usage_perc{of})"),
        _ => {
            let pods = format!("{{pod=~\"{}-.*\"}}", facts.name);
            format!("sum(DCGM_FI_DEV_GPU_UTIL{pods})")
        }
    }
}
