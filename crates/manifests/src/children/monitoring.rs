//! What Prometheus reads, and when it warns.

use serde_json::{Map, Value, json};
use wharf_spec::service::Engine;

use super::services;
use crate::facts::Facts;
use crate::names::{self, SERVICE};

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
    });
    monitor
}

/// The names that an engine has for what alerts ask about.
struct Names {
    /// Histogram of seconds to the first token.
    first_token: &'static str,
    /// Rates of failed and of all requests; where an engine does not count failures, none.
    failed: Option<(&'static str, &'static str)>,
    /// Requests that wait.
    waiting: &'static str,
}

fn names_of(engine: Engine) -> Option<Names> {
    match engine {
        Engine::Wharf => Some(Names {
            first_token: "vllm:time_to_first_token_seconds_bucket",
            failed: Some(("wharf_http_requests_total", "status=~\"5..\"")),
            waiting: "vllm:num_requests_waiting",
        }),
        Engine::Vllm => Some(Names {
            first_token: "vllm:time_to_first_token_seconds_bucket",
            failed: Some(("http_requests_total", "status=~\"5..\"")),
            waiting: "vllm:num_requests_waiting",
        }),
        Engine::Sglang => Some(Names {
            first_token: "sglang:time_to_first_token_seconds_bucket",
            failed: None,
            waiting: "sglang:num_queue_reqs",
        }),
        // It has no histogram, and a custom engine has names of its own.
        Engine::LlamaCpp | Engine::Custom => None,
    }
}

fn rules(facts: &Facts<'_>) -> Value {
    let alerts = facts.spec.observability.alerts.clone().unwrap_or_default();
    let (name, pods) = (facts.name, services::pods_name(facts));
    let mut of = format!("service=\"{pods}\"");
    if let Some(namespace) = facts.namespace {
        of.push_str(&format!(",namespace=\"{namespace}\""));
    }
    let alert =
        |alert: &str, expr: String, wait: &str, severity: &str, summary: String, description: String| {
            json!({
                "alert": alert, "expr": expr, "for": wait,
                "labels": {"severity": severity, "llmservice": name},
                "annotations": {"summary": summary, "description": description},
            })
        };
    let mut rules = vec![alert(
        "LLMServiceDown",
        format!("absent(up{{{of}}} == 1)"),
        "5m",
        "critical",
        format!("No pod of {name} answers"),
        "Prometheus has read metrics of no pod for five minutes. See the service's status for the reason."
            .to_owned(),
    )];
    if let Some(Names { first_token, failed, waiting }) = names_of(facts.spec.runtime.engine) {
        let seconds = alerts.ttft_p95.seconds();
        rules.push(alert(
            "LLMServiceSlowFirstToken",
            format!("histogram_quantile(0.95, sum by (le) (rate({first_token}{{{of}}}[5m]))) > {seconds}"),
            "10m",
            "warning",
            format!("{name} takes over {} to the first token", alerts.ttft_p95),
            "One request in twenty waits longer than it should. More replicas, shorter prompts or a smaller model help.".to_owned(),
        ));
        if let Some((requests, failed)) = failed {
            let ratio = alerts.error_rate.ratio();
            rules.push(alert(
                "LLMServiceErrors",
                format!(
                    "sum(rate({requests}{{{of},{failed}}}[5m])) / sum(rate({requests}{{{of}}}[5m])) > {ratio}"
                ),
                "5m",
                "critical",
                format!("Over {} of {name}'s requests fail", alerts.error_rate),
                "The server answers with 5xx. Its log has the cause.".to_owned(),
            ));
        }
        rules.push(alert(
            "LLMServiceQueue",
            format!("min_over_time(sum({waiting}{{{of}}})[10m:1m]) > 0"),
            "5m",
            "warning",
            format!("Requests to {name} always wait"),
            "No moment of the last ten minutes was without a queue: replicas are too few, or the most that scaling allows.".to_owned(),
        ));
    }
    let mut object =
        names::object("monitoring.coreos.com/v1", "PrometheusRule", name, facts.namespace, labels(facts));
    object["spec"] = json!({"groups": [{"name": format!("llmservice-{name}"), "rules": rules}]});
    object
}
