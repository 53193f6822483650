//! EndpointSlices of Services that select Pods.
//!
//! Fakes listen on many ports of one address, so there is a slice for each set of ports that Pods really have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Next;
use super::api::{Things, is_true, text};
use super::kubelet::PORT_ANNOTATION;

const MANAGED_BY: &str = "fakes.wharf.dev";

pub(crate) async fn round(services: Things, pods: Things, slices: Things) -> kube::Result<Next> {
    let (pods, present) = (pods.list().await?, slices.list().await?);
    let mut kept = BTreeSet::new();
    for service in services.list().await? {
        if service["spec"]["selector"].as_object().is_none_or(|selector| selector.is_empty()) {
            continue;
        }
        for slice in of_service(&service, &pods) {
            kept.insert(name(&slice));
            slices.apply(&slice).await?;
        }
    }
    for slice in &present {
        if slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == MANAGED_BY
            && !kept.contains(&name(slice))
        {
            slices.delete(slice).await?;
        }
    }
    Ok(Next::Change)
}

fn name(object: &Value) -> (String, String) {
    let metadata = &object["metadata"];
    (text(&metadata["namespace"]).to_owned(), text(&metadata["name"]).to_owned())
}

/// The slices of one Service. A Service without Pods has one slice without endpoints.
fn of_service(service: &Value, pods: &[Value]) -> Vec<Value> {
    let selector = service["spec"]["selector"].as_object();
    let selected = pods.iter().filter(|pod| {
        pod["metadata"]["namespace"] == service["metadata"]["namespace"]
            && selector.into_iter().flatten().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
    });
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in selected.filter(|pod| pod["status"]["podIP"].is_string()) {
        let ports = ports(service, pod);
        by_ports
            .entry(ports.to_string())
            .or_insert_with(|| (ports, Vec::new()))
            .1
            .push(endpoint(service, pod));
    }
    if by_ports.is_empty() {
        by_ports.insert(String::new(), (json!([]), Vec::new()));
    }
    by_ports.into_values().map(|(ports, endpoints)| slice(service, &ports, &endpoints)).collect()
}

fn slice(service: &Value, ports: &Value, endpoints: &[Value]) -> Value {
    let metadata = &service["metadata"];
    let numbers: Vec<String> =
        ports.as_array().into_iter().flatten().map(|port| port["port"].to_string()).collect();
    let name = format!(
        "{}-{}",
        text(&metadata["name"]),
        if numbers.is_empty() { "none".to_owned() } else { numbers.join("-") }
    );
    // A Service's labels are those of its slices too.
    let mut labels = metadata["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("kubernetes.io/service-name".to_owned(), metadata["name"].clone());
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), MANAGED_BY.into());
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": metadata["namespace"], "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": metadata["name"], "uid": metadata["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

/// Ports as a Pod has them: a named target is looked up in its containers, and a fake says itself where it listens.
fn ports(service: &Value, pod: &Value) -> Value {
    let real = text(&pod["metadata"]["annotations"][PORT_ANNOTATION]).parse::<u16>().ok();
    let port = |port: &Value| {
        let target = match &port["targetPort"] {
            Value::String(name) => named(pod, name),
            Value::Number(number) => number.as_u64(),
            _ => port["port"].as_u64(),
        };
        let number = real.map(u64::from).or(target)?;
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        Some(json!({"name": text(&port["name"]), "port": number, "protocol": protocol}))
    };
    service["spec"]["ports"].as_array().into_iter().flatten().filter_map(port).collect()
}

fn named(pod: &Value, name: &str) -> Option<u64> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports.find(|port| port["name"] == name)?["containerPort"].as_u64()
}

fn endpoint(service: &Value, pod: &Value) -> Value {
    let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
    let serving = is_true(pod, "Ready");
    let ready = service["spec"]["publishNotReadyAddresses"] == true || (serving && !terminating);
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod", "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"], "uid": pod["metadata"]["uid"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_endpoints_by_their_condition_and_port() {
        let service = json!({"metadata": {"name": "s", "namespace": "n", "uid": "u"},
            "spec": {"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
        let pod = |name: &str, ready: &str, annotations: Value| {
            json!({
                "metadata": {"name": name, "namespace": "n", "labels": {"a": "b"}, "annotations": annotations},
                "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
                "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let mut going = pod("c", "True", json!({}));
        going["metadata"]["deletionTimestamp"] = "now".into();
        let pods = [pod("a", "True", json!({})), pod("b", "False", json!({PORT_ANNOTATION: "999"})), going];
        let short: Vec<String> = of_service(&service, &pods)
            .iter()
            .flat_map(|slice| {
                let port = slice["ports"][0]["port"].clone();
                slice["endpoints"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(move |endpoint| {
                        let c = &endpoint["conditions"];
                        format!(
                            "{} {port} {} {} {}",
                            endpoint["targetRef"]["name"], c["ready"], c["serving"], c["terminating"]
                        )
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(
            short,
            ["\"a\" 8080 true true false", "\"c\" 8080 false true true", "\"b\" 999 false false false"]
        );
        assert_eq!(of_service(&service, &[])[0]["endpoints"], json!([]));
    }
}
