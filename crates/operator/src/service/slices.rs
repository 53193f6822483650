//! What points the Services that clients use at the gateway: EndpointSlices, one for each family of addresses that its pods have. Pure.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use wharf_cluster::Object;
use wharf_manifests::names::{self, SERVICE};
use wharf_spec::service::{Expose, ExposeType};

use crate::apply::own;
use crate::live::mark;
use crate::observe::is_serving;

/// Port of the gateway while there is none to ask.
const GATEWAY: u64 = 8000;

/// Families of addresses: as a slice says it, and how the name of its slice ends. The first has a slice even while nobody has an address.
const FAMILIES: [(&str, &str); 2] = [("IPv4", "gateway"), ("IPv6", "gateway-ipv6")];

pub(super) fn slices(object: &DynamicObject, expose: &Expose, gateways: &[Object]) -> Vec<Value> {
    if expose.direct {
        return Vec::new();
    }
    let name = object.name_any();
    let mut services = vec![name.clone()];
    if expose.kind == ExposeType::LoadBalancer {
        services.push(names::child(&name, "external"));
    }
    let there: Vec<&Object> = gateways.iter().filter(|pod| takes_requests(pod)).collect();
    let mut slices = Vec::new();
    for service in &services {
        for (place, (family, suffix)) in FAMILIES.iter().enumerate() {
            let endpoints = endpoints(family, &there);
            if place > 0 && endpoints.is_empty() {
                continue;
            }
            let mut slice = slice(object, service, suffix);
            slice["addressType"] = (*family).into();
            slice["ports"] = ports(&there);
            slice["endpoints"] = Value::Array(endpoints);
            own(object, &mut slice);
            mark(&mut slice);
            slices.push(slice);
        }
    }
    slices
}

fn slice(object: &DynamicObject, service: &str, suffix: &str) -> Value {
    let mut labels = names::labels(SERVICE, &object.name_any());
    labels.insert("kubernetes.io/service-name".to_owned(), service.into());
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), "wharf".into());
    let (name, namespace) = (names::child(service, suffix), object.namespace());
    names::object("discovery.k8s.io/v1", "EndpointSlice", &name, namespace.as_deref(), labels)
}

/// Whether a pod is somewhere, and is to stay. That it is not ready yet is said of it.
fn takes_requests(pod: &Object) -> bool {
    pod.metadata.deletion_timestamp.is_none() && port(pod, "http").is_some()
}

/// All pods of one gateway listen on the same ports. While one of them does not speak TLS yet, nobody is sent to that port.
fn ports(gateways: &[&Object]) -> Value {
    let common = |name: &str| -> Option<u64> {
        let mut numbers = gateways.iter().map(|pod| port(pod, name));
        let first = numbers.next()??;
        numbers.all(|number| number.is_some()).then_some(first)
    };
    let mut ports =
        vec![json!({"name": "http", "port": common("http").unwrap_or(GATEWAY), "protocol": "TCP"})];
    ports.extend(common("https").map(|port| json!({"name": "https", "port": port, "protocol": "TCP"})));
    Value::Array(ports)
}

fn port(pod: &Object, name: &str) -> Option<u64> {
    wharf_cluster::address(pod, name)?.rsplit_once(':')?.1.parse().ok()
}

fn endpoints(family: &str, gateways: &[&Object]) -> Vec<Value> {
    let endpoint = |pod: &&Object| {
        let address = addresses(pod).into_iter().find(|ip| ip.contains(':') == (family == "IPv6"))?;
        Some(json!({"addresses": [address], "conditions": {"ready": is_serving(pod)}}))
    };
    gateways.iter().filter_map(endpoint).collect()
}

/// Addresses of a pod: one of each family of its network.
fn addresses(pod: &Object) -> Vec<&str> {
    let status = &pod.data["status"];
    let all = status["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str());
    let all: Vec<&str> = all.collect();
    if all.is_empty() { status["podIP"].as_str().into_iter().collect() } else { all }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn gateway(ips: &[&str], ports: &[(&str, u64)], ready: &str) -> Object {
        let ports: Vec<Value> =
            ports.iter().map(|(name, number)| json!({"name": name, "containerPort": number})).collect();
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "g"}, "spec": {"containers": [{"ports": ports}]},
            "status": {"podIP": ips.first().map(|ip| ip["ip"].clone()), "podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Of each slice its name, family, ports, and addresses with whether they are ready.
    fn shown(expose: Value, gateways: &[Object]) -> Vec<String> {
        let owner: DynamicObject = serde_json::from_value(
            json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a", "namespace": "n"}}),
        )
        .unwrap();
        let expose: Expose = serde_json::from_value(expose).unwrap();
        let line = |slice: Value| {
            let ports = slice["ports"].as_array().unwrap().iter();
            let ports: Vec<String> =
                ports.map(|port| format!("{}:{}", port["name"].as_str().unwrap(), port["port"])).collect();
            let endpoints = slice["endpoints"].as_array().unwrap().iter();
            let endpoints: Vec<String> = endpoints
                .map(|at| format!("{}={}", at["addresses"][0].as_str().unwrap(), at["conditions"]["ready"]))
                .collect();
            let (name, family) =
                (slice["metadata"]["name"].as_str().unwrap(), slice["addressType"].as_str().unwrap());
            format!("{name} {family} {} [{}]", ports.join(" "), endpoints.join(" "))
        };
        slices(&owner, &expose, gateways).into_iter().map(line).collect()
    }

    const PLAIN: [(&str, u64); 1] = [("http", 8000)];
    const BOTH: [(&str, u64); 2] = [("http", 8000), ("https", 8443)];

    #[test]
    fn each_family_of_addresses_has_a_slice_and_the_first_one_even_without_any() {
        assert_eq!(shown(json!({}), &[]), ["a-gateway IPv4 http:8000 []"]);
        let four = gateway(&["10.0.0.1"], &PLAIN, "True");
        assert_eq!(
            shown(json!({}), std::slice::from_ref(&four)),
            ["a-gateway IPv4 http:8000 [10.0.0.1=true]"]
        );
        let two = gateway(&["10.0.0.2", "fd00::2"], &PLAIN, "False");
        let expected = [
            "a-gateway IPv4 http:8000 [10.0.0.1=true 10.0.0.2=false]",
            "a-gateway-ipv6 IPv6 http:8000 [fd00::2=false]",
        ];
        assert_eq!(shown(json!({}), &[four, two]), expected);
        let six = gateway(&["fd00::1"], &[("http", 9000)], "True");
        let expected = ["a-gateway IPv4 http:9000 []", "a-gateway-ipv6 IPv6 http:9000 [fd00::1=true]"];
        assert_eq!(shown(json!({}), &[six]), expected);
    }

    #[test]
    fn tls_is_offered_once_every_gateway_speaks_it() {
        let (plain, both) = (gateway(&["10.0.0.1"], &PLAIN, "True"), gateway(&["10.0.0.2"], &BOTH, "True"));
        let all = "[10.0.0.1=true 10.0.0.2=true]";
        assert_eq!(shown(json!({}), &[plain, both.clone()]), [format!("a-gateway IPv4 http:8000 {all}")]);
        let expected = ["a-gateway IPv4 http:8000 https:8443 [10.0.0.2=true]"];
        assert_eq!(shown(json!({}), std::slice::from_ref(&both)), expected);
        let without_address = gateway(&[], &PLAIN, "False");
        assert_eq!(shown(json!({}), &[without_address, both]), expected);
    }

    #[test]
    fn an_external_service_has_its_own_slices_and_a_direct_one_none() {
        let four = gateway(&["10.0.0.1"], &PLAIN, "True");
        let external = shown(json!({"type": "LoadBalancer"}), std::slice::from_ref(&four));
        assert_eq!(external[1], "a-external-gateway IPv4 http:8000 [10.0.0.1=true]");
        assert_eq!(shown(json!({"direct": true}), &[four]), [] as [String; 0]);
    }
}
