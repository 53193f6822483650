//! What metrics say of each service and Model, read off the objects as the cluster has them. Pure.
//!
//! Every object gives a handful of values whose labels are its own name and words of ours, so there are as many as there are objects.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use wharf_rollout::Policy;
use wharf_spec::job::REFUSED;
use wharf_spec::service::{Rollout, Scaling, ScalingMode, ServiceStatus};
use wharf_telemetry::metrics::{Metric, operator as table};

/// Every gauge that is about single objects.
pub(super) const OF_OBJECTS: [&Metric; 11] = [
    &table::SERVICE_PHASE,
    &table::SERVICE_REPLICAS,
    &table::SERVICE_BOUNDS,
    &table::SERVICE_TRAFFIC,
    &table::COLD_START,
    &table::OWN_ALERTS,
    &table::RELEASE_PHASE,
    &table::RELEASE_SINCE,
    &table::RELEASE_PATIENCE,
    &table::MODEL_STATE,
    &table::GATE_REFUSED,
];

/// Takes a metric, the values of its labels, and its value.
pub(super) type Set<'a> = &'a mut dyn FnMut(&'static Metric, &[&str], f64);

/// What there is to say of an object of a kind.
pub(super) fn object(kind: &str, object: &DynamicObject, set: Set<'_>) {
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    match kind {
        "LLMService" => service(&name, &object.data, set),
        "Model" => model(&name, &object.data, set),
        _ => {}
    }
}

fn service(name: &str, data: &Value, set: Set<'_>) {
    let (spec, status) = (&data["spec"], &data["status"]);
    let known: ServiceStatus = read(status);
    if let Some(phase) = status["phase"].as_str() {
        set(&table::SERVICE_PHASE, &[name, phase], 1.0);
    }
    let scaling: Scaling = read(&spec["scaling"]);
    let mut wanted = spec["replicas"].as_u64().unwrap_or(1) as f64;
    if scaling.mode != ScalingMode::None {
        let (fewest, most) = (f64::from(scaling.min), f64::from(scaling.most()));
        wanted = wanted.clamp(fewest, most.max(fewest));
        set(&table::SERVICE_BOUNDS, &[name, "fewest"], fewest);
        set(&table::SERVICE_BOUNDS, &[name, "most"], most);
    }
    let (all, ready) = (f64::from(known.replicas), f64::from(known.ready_replicas));
    for (state, count) in [("wanted", wanted), ("ready", ready), ("starting", (all - ready).max(0.0))] {
        set(&table::SERVICE_REPLICAS, &[name, state], count);
    }
    for traffic in &known.traffic {
        let share = f64::from(traffic.weight) / 100.0;
        set(&table::SERVICE_TRAFFIC, &[name, traffic.colour.as_str()], share);
    }
    if let Some(start) = &known.cold_start {
        let parts = [
            ("schedule", start.schedule),
            ("fetch", start.fetch),
            ("load", start.load),
            ("warm", start.warm),
        ];
        for (part, seconds) in parts {
            set(&table::COLD_START, &[name, part], seconds);
        }
    }
    if !spec["observability"]["alerts"].is_null() {
        set(&table::OWN_ALERTS, &[name], 1.0);
    }
    release(name, &status["rollout"], &read(&spec["rollout"]), set);
    // A Model says it of itself.
    if spec["model"]["ref"].is_null() {
        gate("LLMService", name, &spec["model"]["optimize"], status, set);
    }
}

fn release(name: &str, kept: &Value, rollout: &Rollout, set: Set<'_>) {
    let (Some(phase), Some(since_ms)) = (kept["phase"].as_str(), kept["sinceMs"].as_u64()) else { return };
    set(&table::RELEASE_PHASE, &[name, phase], 1.0);
    set(&table::RELEASE_SINCE, &[name], since_ms as f64 / 1000.0);
    let policy = Policy::from(rollout);
    let step = match policy.strategy {
        wharf_rollout::Strategy::Canary => policy.steps.iter().map(|step| step.for_ms).max().unwrap_or(0),
        wharf_rollout::Strategy::BlueGreen
        | wharf_rollout::Strategy::Rolling
        | wharf_rollout::Strategy::Recreate => 0,
    };
    set(&table::RELEASE_PATIENCE, &[name], policy.deadline_ms.saturating_add(step) as f64 / 1000.0);
}

fn model(name: &str, data: &Value, set: Set<'_>) {
    let (spec, status) = (&data["spec"], &data["status"]);
    if let Some(state) = status["phase"].as_str() {
        set(&table::MODEL_STATE, &[name, state], 1.0);
    }
    gate("Model", name, &spec["optimize"], status, set);
}

/// Whether what was made was refused, where there is somebody to refuse it.
fn gate(kind: &str, name: &str, optimize: &Value, status: &Value, set: Set<'_>) {
    if optimize["gate"].is_null() {
        return;
    }
    let conditions = status["conditions"].as_array();
    let says = |condition: &Value| condition["message"].as_str().is_some_and(|said| said.contains(REFUSED));
    let refused = conditions.into_iter().flatten().any(says);
    set(&table::GATE_REFUSED, &[kind, name], f64::from(u8::from(refused)));
}

/// What cannot be read is as if nothing was said: a look at the object says what is wrong with it.
fn read<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(kind: &str, spec: Value, status: Value) -> Vec<String> {
        let value = json!({
            "apiVersion": "wharf.dev/v1alpha1", "kind": kind, "metadata": {"namespace": "demo", "name": "a"},
            "spec": spec, "status": status,
        });
        let mut all = Vec::new();
        object(kind, &serde_json::from_value(value).unwrap(), &mut |metric, labels, value| {
            assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
            assert!(
                OF_OBJECTS.iter().any(|known| known.name == metric.name),
                "{} stays for ever",
                metric.name
            );
            let name = metric.name.trim_start_matches("wharf_operator_");
            all.push(format!("{name} {} {value}", labels.join(" ")));
        });
        all
    }

    #[test]
    fn a_service_tells_replicas_shares_and_how_far_its_release_is() {
        let spec = json!({
            "replicas": 9, "model": {"ref": "m"}, "scaling": {"min": 1, "max": 4},
            "rollout": {"strategy": "Canary", "deadline": "10m", "steps": [{"weight": "10%", "duration": "1h"}]},
        });
        let status = json!({
            "phase": "RollingOut", "replicas": 3, "readyReplicas": 2, "coldStart": {"load": 12.5},
            "traffic": [{"colour": "blue", "weight": 90, "generation": 1}, {"colour": "green", "weight": 10, "generation": 2}],
            "rollout": {"format": 1, "phase": "Shifting", "step": 0, "weight": 10, "reason": "r", "sinceMs": 60_500},
        });
        let expected = [
            "service_phase demo/a RollingOut 1",
            "service_replicas_bound demo/a fewest 1",
            "service_replicas_bound demo/a most 4",
            "service_replicas demo/a wanted 4",
            "service_replicas demo/a ready 2",
            "service_replicas demo/a starting 1",
            "service_traffic_ratio demo/a blue 0.9",
            "service_traffic_ratio demo/a green 0.1",
            "service_cold_start_seconds demo/a schedule 0",
            "service_cold_start_seconds demo/a fetch 0",
            "service_cold_start_seconds demo/a load 12.5",
            "service_cold_start_seconds demo/a warm 0",
            "release_phase demo/a Shifting 1",
            "release_since_timestamp_seconds demo/a 60.5",
            "release_patience_seconds demo/a 4200",
        ];
        assert_eq!(said("LLMService", spec, status), expected);
    }

    #[test]
    fn a_service_of_which_nothing_is_known_has_only_what_it_wants() {
        let spec = json!({"replicas": 2, "scaling": {"mode": "none"}, "observability": {"alerts": {}}});
        let expected = [
            "service_replicas demo/a wanted 2",
            "service_replicas demo/a ready 0",
            "service_replicas demo/a starting 0",
            "service_own_alerts demo/a 1",
        ];
        assert_eq!(said("LLMService", spec, Value::Null), expected);
    }

    #[test]
    fn a_gate_that_refused_is_told_by_whoever_has_it() {
        let refused = format!("`wharf quantize` failed: out.gguf {REFUSED}: perplexity rises by 3.10 %");
        let status =
            |message: &str| json!({"phase": "Failed", "conditions": [{"type": "Ready", "message": message}]});
        let gated = json!({"gate": {"maxPerplexityIncrease": "2%"}});
        let model = |message: &str| said("Model", json!({"optimize": gated}), status(message));
        assert_eq!(model(&refused), ["model_state demo/a Failed 1", "gate_refused Model demo/a 1"]);
        assert_eq!(model("no space left"), ["model_state demo/a Failed 1", "gate_refused Model demo/a 0"]);
        let open = said("Model", json!({"optimize": {"quantize": "q8_0"}}), status(&refused));
        assert_eq!(open, ["model_state demo/a Failed 1"]);
        let service = |model: Value| said("LLMService", json!({"model": model}), status(&refused));
        let own = service(json!({"optimize": gated}));
        assert!(own.contains(&"gate_refused LLMService demo/a 1".to_owned()), "{own:?}");
        let referred = service(json!({"ref": "m", "optimize": gated}));
        assert!(!referred.iter().any(|line| line.contains("gate")), "{referred:?}");
    }
}
