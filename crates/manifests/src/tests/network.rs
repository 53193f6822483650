//! Who gets through to which port, asked as a cluster's network would ask the policies.

use serde_json::json;

use super::*;

/// Something that wants to connect.
struct Peer {
    /// Labels of its namespace; none outside the cluster.
    namespace: Option<Value>,
    pod: Value,
    address: &'static str,
}

fn in_namespace(name: &str, pod: Value) -> Peer {
    Peer {
        namespace: Some(json!({"kubernetes.io/metadata.name": name, "name": name})),
        pod,
        address: "10.1.2.3",
    }
}

fn outside(address: &'static str) -> Peer {
    Peer { namespace: None, pod: json!({}), address }
}

fn has_labels(selector: &Value, labels: &Value) -> bool {
    selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value)
}

fn in_range(cidr: &str, address: &str) -> bool {
    let (net, length) = cidr.split_once('/').unwrap();
    let (Ok(net), Ok(address)) = (net.parse::<std::net::Ipv4Addr>(), address.parse::<std::net::Ipv4Addr>())
    else {
        return false;
    };
    let shift = 32 - length.parse::<u32>().unwrap();
    u64::from(u32::from(net)) >> shift == u64::from(u32::from(address)) >> shift
}

/// Whether a peer of a policy's rule is this one; `own` is the namespace of the policy.
fn is_peer(rule: &Value, peer: &Peer, own: &str) -> bool {
    if let Some(cidr) = rule["ipBlock"]["cidr"].as_str() {
        let except = rule["ipBlock"]["except"].as_array().into_iter().flatten();
        let excepted = except.into_iter().any(|range| in_range(range.as_str().unwrap(), peer.address));
        return peer.namespace.is_none() && in_range(cidr, peer.address) && !excepted;
    }
    let Some(namespace) = &peer.namespace else { return false };
    let namespace_fits = match &rule["namespaceSelector"] {
        Value::Null => namespace["kubernetes.io/metadata.name"] == own,
        selector => has_labels(selector, namespace),
    };
    namespace_fits && has_labels(&rule["podSelector"], &peer.pod)
}

/// Whether rules let a peer through to a port.
fn lets(rules: &Value, side: &str, peer: &Peer, port: u16) -> bool {
    rules.as_array().unwrap().iter().any(|rule| {
        let peers = rule[side].as_array();
        let peer_fits = peers.is_none_or(|peers| peers.iter().any(|one| is_peer(one, peer, "llm")));
        let ports = rule["ports"].as_array();
        let port_fits =
            ports.is_none_or(|ports| ports.iter().any(|one| one["port"] == port && one["protocol"] == "TCP"));
        peer_fits && port_fits
    })
}

fn policy<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    &named(objects, "NetworkPolicy", name)["spec"]
}

#[test]
fn through_the_gateway_it_the_operator_and_prometheus_get_in_and_nobody_else() {
    let objects = render(&service("{model: {source: hf://a/b}}"), Mode::Managed);
    let ingress = &policy(&objects, "assistant")["ingress"];
    let gateway = in_namespace("wharf-system", json!({"app.kubernetes.io/component": "gateway"}));
    let operator = in_namespace("wharf-system", json!({"app.kubernetes.io/component": "operator"}));
    let stranger = in_namespace("wharf-system", json!({"app.kubernetes.io/component": "scaler"}));
    let prometheus = in_namespace("monitoring", json!({"app": "prometheus"}));
    let neighbour = in_namespace("llm", json!({"app": "anything"}));
    for (peer, port, expected) in [
        (&gateway, 8080, true),
        (&gateway, 8082, false),
        // It lets new replicas answer their first prompts.
        (&operator, 8080, true),
        (&operator, 8082, false),
        (&stranger, 8080, false),
        (&prometheus, 8082, true),
        (&prometheus, 8080, false),
        (&neighbour, 8080, false),
        (&neighbour, 8083, false),
        (&outside("203.0.113.7"), 8080, false),
    ] {
        assert_eq!(lets(ingress, "from", peer, port), expected, "{:?} {port}", peer.pod);
    }
}

#[test]
fn node_agents_get_in_to_metrics_alone_where_they_tell_of_models() {
    let agent = in_namespace("wharf-nodes", json!({"app.kubernetes.io/component": "node-agent"}));
    let stranger = in_namespace("wharf-nodes", json!({"app": "anything"}));
    let object = service("{model: {source: hf://a/b}}");
    for serving_metrics in [false, true] {
        let settings = Settings { serving_metrics, ..Settings::default() };
        let objects = crate::service(&object, &State::fresh(&object), &settings, Mode::Managed).unwrap();
        let ingress = &policy(&objects, "assistant")["ingress"];
        assert_eq!(lets(ingress, "from", &agent, 8082), serving_metrics);
        assert!(!lets(ingress, "from", &agent, 8080) && !lets(ingress, "from", &stranger, 8082));
    }
}

#[test]
fn without_the_gateway_those_that_are_named_get_in() {
    let spec = "{model: {source: hf://a/b}, expose: {direct: true, tls: {secretName: t}}, access: {allowFrom: [{namespace: frontend}, \
                {pods: {app: batch}}, {cidr: 203.0.113.0/24}]}}";
    let objects = render(&service(spec), Mode::Managed);
    let ingress = &policy(&objects, "assistant")["ingress"];
    for (peer, port, expected) in [
        (in_namespace("frontend", json!({})), 8080, true),
        (in_namespace("frontend", json!({})), 8081, true),
        (in_namespace("frontend", json!({})), 8082, false),
        (in_namespace("backend", json!({})), 8080, false),
        (in_namespace("llm", json!({"app": "batch"})), 8080, true),
        (in_namespace("llm", json!({"app": "other"})), 8080, false),
        (in_namespace("backend", json!({"app": "batch"})), 8080, false),
        (outside("203.0.113.7"), 8080, true),
        (outside("198.51.100.7"), 8080, false),
        (in_namespace("wharf-system", json!({"app.kubernetes.io/component": "operator"})), 8080, true),
        (in_namespace("wharf-system", json!({"app.kubernetes.io/component": "gateway"})), 8080, false),
    ] {
        assert_eq!(
            lets(ingress, "from", &peer, port),
            expected,
            "{:?} {:?} {port}",
            peer.namespace,
            peer.pod
        );
    }
}

#[test]
fn ranks_of_a_group_reach_each_other_and_strangers_do_not() {
    let spec = "{model: {source: hf://a/b}, runtime: {engine: vllm}, resources: {gpu: {count: 1}}, parallelism: {tensor: 2, nodes: 2}}";
    let objects = render(&service(spec), Mode::Managed);
    let spec = policy(&objects, "assistant");
    let rank = in_namespace("llm", json!({"wharf.dev/service": "assistant", "wharf.dev/part": "worker"}));
    let stranger = in_namespace("llm", json!({"wharf.dev/service": "other", "wharf.dev/part": "worker"}));
    for port in [8083, 40000] {
        assert!(lets(&spec["ingress"], "from", &rank, port) && lets(&spec["egress"], "to", &rank, port));
        assert!(
            !lets(&spec["ingress"], "from", &stranger, port) && !lets(&spec["egress"], "to", &stranger, port)
        );
    }
}

#[test]
fn servers_get_out_only_to_names_and_what_is_allowed_and_jobs_only_to_the_internet() {
    let spec = "{model: {source: hf://a/b, optimize: {quantize: int8}}, access: {allowTo: [{namespace: tools, port: 443}]}}";
    let objects = render(&service(spec), Mode::Managed);
    let egress = |name: &str| policy(&objects, name)["egress"].clone();
    let (servers, fetch, prepare) =
        (egress("assistant"), egress("assistant-fetch"), egress("assistant-prepare"));
    let dns = in_namespace("kube-system", json!({"k8s-app": "kube-dns"}));
    let tools = in_namespace("tools", json!({}));
    let (internet, metadata, cluster) =
        (outside("93.184.216.34"), outside("169.254.169.254"), outside("10.0.0.1"));
    for (rules, peer, port, expected) in [
        (&servers, &dns, 53, true),
        (&servers, &dns, 443, false),
        (&servers, &tools, 443, true),
        (&servers, &tools, 80, false),
        (&servers, &internet, 443, false),
        (&fetch, &dns, 53, true),
        (&fetch, &internet, 443, true),
        (&fetch, &internet, 80, false),
        (&fetch, &metadata, 443, false),
        (&fetch, &cluster, 443, false),
        (&fetch, &tools, 443, false),
        (&prepare, &dns, 53, false),
        (&prepare, &internet, 443, false),
    ] {
        assert_eq!(lets(rules, "to", peer, port), expected, "{} {port}", peer.address);
    }
}
