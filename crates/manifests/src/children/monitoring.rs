//! What Prometheus reads, and when it warns: the alerts themselves are decided in `wharf_monitoring`.

use serde_json::{Map, Value, json};
use wharf_monitoring::engines::{self, Names};
use wharf_monitoring::service::{Promise, groups};
use wharf_monitoring::{RUNBOOKS, document};
use wharf_spec::service::{Alerts, Engine};

use super::services;
use crate::Mode;
use crate::facts::Facts;
use crate::names::{self, COLOUR, SERVICE};

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let observability = &facts.spec.observability;
    let mut objects = Vec::new();
    if observability.service_monitor {
        objects.push(monitor(facts));
    }
    if observability.alerts.is_some() {
        objects.push(rules(facts));
    }
    objects
}

/// Our labels, and those by which a Prometheus chooses what is its own.
fn labels(facts: &Facts<'_>) -> Map<String, Value> {
    let mut labels = names::labels(SERVICE, facts.name);
    let theirs = &facts.spec.observability.labels;
    labels.extend(theirs.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
    labels
}

fn monitor(facts: &Facts<'_>) -> Value {
    let launch = facts.launch();
    let (port, path) = &launch.metrics;
    let port = if *port == launch.http { "http" } else { "metrics" };
    let mut monitor = names::object(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        facts.name,
        facts.namespace,
        labels(facts),
    );
    monitor["spec"] = json!({
        "selector": {"matchLabels": {SERVICE: facts.name, "wharf.dev/metrics": "true"}},
        "endpoints": [{"port": port, "path": path, "interval": facts.spec.observability.interval.as_str(), "scheme": "http"}],
        "targetLabels": [SERVICE],
        "podTargetLabels": [COLOUR],
    });
    monitor
}

fn names_of(engine: Engine) -> Names {
    match engine {
        Engine::Wharf => engines::WHARF,
        Engine::Vllm => engines::VLLM,
        Engine::Sglang => engines::SGLANG,
        Engine::LlamaCpp => engines::LLAMA_CPP,
        Engine::Custom => engines::CUSTOM,
    }
}

fn rules(facts: &Facts<'_>) -> Value {
    let Alerts { ttft_p95, inter_token_p95, error_rate } =
        facts.spec.observability.alerts.clone().unwrap_or_default();
    let pods = services::pods_name(facts);
    let promise = Promise {
        name: facts.name,
        namespace: facts.namespace,
        pods: &pods,
        behind_gateway: facts.mode == Mode::Managed && !facts.spec.expose.direct,
        sleeps: facts.mode == Mode::Managed && facts.spec.scaling.min == 0,
        names: names_of(facts.spec.runtime.engine),
        errors: error_rate.ratio(),
        first_token: (ttft_p95.seconds(), ttft_p95.as_str()),
        between_tokens: (inter_token_p95.seconds(), inter_token_p95.as_str()),
    };
    let mut object = names::object(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        facts.name,
        facts.namespace,
        labels(facts),
    );
    object["spec"] = document(&groups(&promise), RUNBOOKS);
    object
}
