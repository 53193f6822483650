//! What a gateway should serve, given what the cluster has: a pure function.
//!
//! An endpoint belongs to a service when the pod behind it says so by its labels. So it does not matter which Services there are, and what
//! the operator points at gateways is no endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use wharf_access::Limits;
use wharf_routing::{Endpoint, Share};
use wharf_spec::LLMService;
use wharf_spec::service::{ConditionStatus, Traffic};

use super::keys::SecretName;
use super::{SERVICE, joined};
use crate::config::{EndpointConfig, ServiceConfig, limits};

/// The version that a pod belongs to.
pub(super) const COLOUR: &str = "wharf.dev/colour";
/// Name of the port of the API.
const PORT: &str = "http";
/// Endings under which a Service's name resolves, besides its namespace alone.
const DOMAINS: [&str; 3] = ["", ".svc", ".svc.cluster.local"];

/// A pod without what it runs.
pub(super) type PodLabels = PartialObjectMeta<Pod>;

/// What the cluster has.
pub(super) struct Seen {
    pub(super) services: Vec<Arc<LLMService>>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    pub(super) pods: Vec<Arc<PodLabels>>,
}

/// A service, its keys not read yet.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) config: ServiceConfig,
    pub(super) trouble: Option<String>,
    pub(super) traffic: Vec<Traffic>,
    pub(super) secret: Option<SecretName>,
}

/// All services, in order of their names.
pub(super) fn find(seen: &Seen) -> Vec<Found> {
    let mut endpoints = endpoints(seen);
    let mut named: HashMap<String, usize> = HashMap::new();
    for service in &seen.services {
        *named.entry(service.name_any()).or_default() += 1;
    }
    let mut found: Vec<Found> = seen
        .services
        .iter()
        .map(|service| {
            let place = (service.namespace().unwrap_or_default(), service.name_any());
            let endpoints = endpoints.remove(&place).unwrap_or_default();
            of_service(service, place, endpoints, named[&service.name_any()] == 1)
        })
        .collect();
    found.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    found
}

fn of_service(
    service: &LLMService,
    (namespace, name): (String, String),
    endpoints: BTreeMap<String, Endpoint>,
    has_own_name: bool,
) -> Found {
    let spec = &service.spec;
    let status = service.status.clone().unwrap_or_default();
    let mut hosts: Vec<String> = DOMAINS.iter().map(|domain| format!("{name}.{namespace}{domain}")).collect();
    // The name alone says nothing where two namespaces have it.
    hosts.extend(has_own_name.then(|| name.clone()));
    hosts.extend(spec.expose.host.clone());
    let trouble = status.conditions.iter().find_map(|condition| {
        (condition.kind == "Failed" && condition.status == ConditionStatus::True)
            .then(|| condition.message.clone())
    });
    let share = |traffic: &Traffic| Share { colour: traffic.colour.to_string(), weight: traffic.weight };
    let config = ServiceConfig {
        name: format!("{namespace}/{name}"),
        models: vec![spec.model.name.clone().unwrap_or_else(|| name.clone())],
        adapters: spec.model.adapters.iter().map(|adapter| adapter.name.to_string()).collect(),
        hosts,
        endpoints: endpoints.into_values().map(EndpointConfig::Full).collect(),
        traffic: status.traffic.iter().map(share).collect(),
        routing: None,
        hold: None,
        api_keys: None,
        limits_per_key: spec.access.limits.as_ref().map(limits).unwrap_or_default(),
        limits: Limits::default(),
    };
    let secret = spec.access.api_keys.as_ref().map(|keys| (namespace, keys.secret_name.clone()));
    Found { config, trouble, traffic: status.traffic, secret }
}

/// Endpoints by address, by namespace and name of their service.
fn endpoints(seen: &Seen) -> HashMap<(String, String), BTreeMap<String, Endpoint>> {
    let pods: HashMap<(String, String), &PodLabels> =
        seen.pods.iter().map(|pod| ((pod.namespace().unwrap_or_default(), pod.name_any()), &**pod)).collect();
    let mut found: HashMap<(String, String), BTreeMap<String, Endpoint>> = HashMap::new();
    for slice in &seen.slices {
        let namespace = slice.namespace().unwrap_or_default();
        let ports = slice.ports.iter().flatten().filter(|port| port.name.as_deref() == Some(PORT));
        let ports: BTreeSet<i32> = ports.filter_map(|port| port.port).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let target = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
            let Some(pod) = target.and_then(|name| pods.get(&(namespace.clone(), name))) else { continue };
            let Some(service) = pod.labels().get(SERVICE) else { continue };
            let place = found.entry((namespace.clone(), service.clone())).or_default();
            let colour = pod.labels().get(COLOUR).cloned().unwrap_or_default();
            for port in &ports {
                place.extend(
                    of_endpoint(endpoint, *port, &colour).map(|known| (known.address.clone(), known)),
                );
            }
        }
    }
    found
}

fn of_endpoint(endpoint: &SliceEndpoint, port: i32, colour: &str) -> Option<Endpoint> {
    let address = joined(endpoint.addresses.first()?, port);
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // Absent means unknown, which the API asks to take for yes.
    let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
    let draining = conditions.terminating.unwrap_or(false);
    Some(Endpoint { address, colour: colour.to_owned(), ready: serving, draining })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(services: &[Value], slices: &[Value], pods: &[Value]) -> Seen {
        fn read<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<Arc<T>> {
            values.iter().map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect()
        }
        Seen { services: read(services), slices: read(slices), pods: read(pods) }
    }

    fn service(namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": name, "namespace": namespace},
            "spec": {"model": {"source": "hf://a/b"}},
        })
    }

    fn pod(name: &str, service: &str, colour: &str) -> Value {
        json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "namespace": "n", "labels": {"wharf.dev/service": service, "wharf.dev/colour": colour}},
        })
    }

    fn slice(ports: &Value, endpoints: &[(&str, &str, Value)]) -> Value {
        let endpoint = |(address, pod, conditions): &(&str, &str, Value)| json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}});
        let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x", "namespace": "n"},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        })
    }

    #[test]
    fn an_endpoint_is_its_pod_s_service_s_once_and_others_are_nobody_s() {
        let ports = json!([{"name": "http", "port": 8080}, {"name": "metrics", "port": 9}]);
        let slices = [
            slice(
                &ports,
                &[
                    ("10.0.0.1", "a", json!({"ready": true, "serving": true, "terminating": false})),
                    ("10.0.0.2", "b", json!({"ready": false, "serving": true, "terminating": true})),
                    ("fd00::3", "c", json!({"ready": false})),
                    ("10.0.0.4", "gateway", json!({"ready": true})),
                    ("10.0.0.5", "d", json!({})),
                ],
            ),
            // The same pod, by another Service.
            slice(&ports, &[("10.0.0.1", "a", json!({"ready": true}))]),
        ];
        let pods = [
            pod("a", "s", "blue"),
            pod("b", "s", "green"),
            pod("c", "s", "green"),
            pod("d", "other", "blue"),
        ];
        let found = find(&seen(&[service("n", "s")], &slices, &pods));
        let endpoint = |address: &str, colour: &str, ready, draining| {
            let (address, colour) = (address.to_owned(), colour.to_owned());
            EndpointConfig::Full(Endpoint { address, colour, ready, draining })
        };
        assert_eq!(
            found[0].config.endpoints,
            [
                endpoint("10.0.0.1:8080", "blue", true, false),
                endpoint("10.0.0.2:8080", "green", true, true),
                endpoint("[fd00::3]:8080", "green", false, false),
            ]
        );
    }

    #[test]
    fn a_short_host_is_one_service_s_or_nobody_s() {
        let services = [service("n", "s"), service("m", "s"), service("m", "t")];
        let found = find(&seen(&services, &[], &[]));
        let short: Vec<(&str, bool)> = found
            .iter()
            .map(|found| {
                (found.config.name.as_str(), found.config.hosts.iter().any(|host| !host.contains('.')))
            })
            .collect();
        assert_eq!(short, [("m/s", false), ("m/t", true), ("n/s", false)]);
        assert_eq!(found[1].config.models, ["t"]);
    }
}
