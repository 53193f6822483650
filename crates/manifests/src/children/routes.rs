//! Ways in from outside the cluster: an Ingress, or an HTTPRoute of the Gateway API.

use serde_json::{Value, json};
use wharf_spec::service::{ExposeType, GatewayRef};

use crate::facts::Facts;
use crate::names::{self, SERVICE};

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let mut objects = match facts.spec.expose.kind {
        ExposeType::ClusterIP | ExposeType::LoadBalancer => return Vec::new(),
        ExposeType::Ingress => vec![ingress(facts)],
        ExposeType::HTTPRoute => vec![http_route(facts)],
    };
    let annotations = &facts.spec.expose.annotations;
    if !annotations.is_empty() {
        objects[0]["metadata"]["annotations"] = json!(annotations);
    }
    objects
}

fn ingress(facts: &Facts<'_>) -> Value {
    let expose = &facts.spec.expose;
    let labels = names::labels(SERVICE, facts.name);
    let mut ingress = names::object("networking.k8s.io/v1", "Ingress", facts.name, facts.namespace, labels);
    let backend = json!({"service": {"name": facts.name, "port": {"name": "http"}}});
    let host = expose.host.as_deref().unwrap_or_default();
    ingress["spec"] = json!({
        "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
    });
    if let Some(class) = &expose.ingress_class {
        ingress["spec"]["ingressClassName"] = class.as_str().into();
    }
    if let Some(tls) = &expose.tls {
        ingress["spec"]["tls"] = json!([{"hosts": [host], "secretName": tls.secret_name}]);
    }
    ingress
}

fn http_route(facts: &Facts<'_>) -> Value {
    let expose = &facts.spec.expose;
    let labels = names::labels(SERVICE, facts.name);
    let mut route =
        names::object("gateway.networking.k8s.io/v1", "HTTPRoute", facts.name, facts.namespace, labels);
    let mut parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway"});
    if let Some(GatewayRef { name, namespace, section_name }) = &expose.gateway {
        parent["name"] = name.as_str().into();
        if let Some(namespace) = namespace {
            parent["namespace"] = namespace.as_str().into();
        }
        if let Some(section) = section_name {
            parent["sectionName"] = section.as_str().into();
        }
    }
    let backend = match expose.inference_pool {
        true => json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": facts.name}),
        false => json!({"group": "", "kind": "Service", "name": facts.name, "port": 80}),
    };
    route["spec"] = json!({
        "parentRefs": [parent],
        "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "backendRefs": [backend],
            // A stream may last as long as the longest answer; proxies would cut it after a minute or less.
            "timeouts": {"request": format!("{}s", facts.spec.server.longest_answer.whole_seconds())},
        }],
    });
    if let Some(host) = &expose.host {
        route["spec"]["hostnames"] = json!([host]);
    }
    route
}
