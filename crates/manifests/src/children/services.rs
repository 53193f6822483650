//! Services: the one that clients use, the one by which pods are found, and the external one.

use serde_json::{Map, Value, json};
use wharf_spec::service::ExposeType;

use super::workload;
use crate::facts::Facts;
use crate::names::{self, HTTPS, Part, SERVICE};

/// Name of the Service by which gateway and Prometheus find the pods.
pub(super) fn pods_name(facts: &Facts<'_>) -> String {
    names::child(facts.name, "pods")
}

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let mut objects = vec![front(facts, facts.name, "ClusterIP", Map::new()), pods(facts)];
    if facts.spec.expose.kind == ExposeType::LoadBalancer {
        let annotations = &facts.spec.expose.annotations;
        let annotations =
            annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        objects.push(front(facts, &names::child(facts.name, "external"), "LoadBalancer", annotations));
    }
    objects
}

/// A Service that clients use. Through the gateway it has no selector: the operator's EndpointSlice points at the gateway, so that
/// keys, limits, weights and waking hold for everyone.
fn front(facts: &Facts<'_>, name: &str, kind: &str, annotations: Map<String, Value>) -> Value {
    let mut service =
        names::object("v1", "Service", name, facts.namespace, names::labels(SERVICE, facts.name));
    if !annotations.is_empty() {
        service["metadata"]["annotations"] = Value::Object(annotations);
    }
    let mut ports = vec![
        json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}),
    ];
    if facts.spec.expose.tls.is_some() {
        ports.push(json!({"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP", "appProtocol": "https"}));
    }
    service["spec"] = json!({"type": kind, "ports": ports});
    if facts.is_direct() {
        let selector = workload::selector(facts, facts.state.serving, Part::Server);
        service["spec"]["selector"] = Value::Object(selector);
    }
    service
}

/// Headless: its name resolves to every ready pod, and monitors find its port of metrics.
fn pods(facts: &Facts<'_>) -> Value {
    let launch = facts.launch();
    let mut labels = names::labels(SERVICE, facts.name);
    labels.insert("wharf.dev/metrics".to_owned(), "true".into());
    let mut service = names::object("v1", "Service", &pods_name(facts), facts.namespace, labels);
    let mut ports =
        vec![json!({"name": "http", "port": launch.http, "targetPort": "http", "protocol": "TCP"})];
    if facts.serves_tls() {
        ports.push(json!({"name": "https", "port": HTTPS, "targetPort": "https", "protocol": "TCP"}));
    }
    let (metrics, _) = launch.metrics;
    if metrics != launch.http {
        ports.push(json!({"name": "metrics", "port": metrics, "targetPort": "metrics", "protocol": "TCP"}));
    }
    service["spec"] = json!({
        "clusterIP": "None",
        "ports": ports,
        "selector": names::selector(SERVICE, facts.name, Part::Server),
    });
    service
}
