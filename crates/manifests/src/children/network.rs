//! Who may reach the pods, and whom they may reach: nobody but those who are named.

use serde_json::{Value, json};
use wharf_spec::Model;
use wharf_spec::job::PROGRESS_PORT;
use wharf_spec::service::{PeerFrom, PeerTo, ScalingMode};

use crate::facts::{Facts, Files};
use crate::names::{self, HTTPS, MODEL, PICKER, Part, SERVICE};
use crate::{Mode, Peer, Settings};

/// Addresses that are nobody's on the Internet (RFC 1918, RFC 6598, RFC 3927, RFC 1122, RFC 5735): fetching must not reach into the
/// cluster or to a cloud's metadata.
const PRIVATE_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// The same of IPv6 (RFC 4193, RFC 4291, RFC 6052).
const PRIVATE_V6: &[&str] = &["::/128", "::1/128", "64:ff9b::/96", "fc00::/7", "fe80::/10", "ff00::/8"];

pub(super) fn of_service(facts: &Facts<'_>) -> Vec<Value> {
    let mut policies = vec![servers(facts)];
    if matches!(facts.files, Files::OwnClaim(_)) {
        let ranges = &facts.spec.access.egress_cidrs;
        policies.extend(jobs(SERVICE, facts.name, facts.namespace, ranges, (facts.settings, facts.mode)));
    }
    policies
}

pub(super) fn of_model(model: &Model, settings: &Settings, mode: Mode) -> Vec<Value> {
    let name = model.metadata.name.as_deref().unwrap_or_default();
    jobs(MODEL, name, model.metadata.namespace.as_deref(), &model.spec.egress_cidrs, (settings, mode))
}

/// The policy of the pods that answer requests, and of those that compute for them.
fn servers(facts: &Facts<'_>) -> Value {
    let launch = facts.launch();
    let (metrics, _) = launch.metrics;
    let tcp = |port: u16| json!({"protocol": "TCP", "port": port});
    let mut api = vec![tcp(launch.http)];
    if facts.serves_tls() {
        api.push(tcp(HTTPS));
    }
    let group = json!([{"podSelector": {"matchLabels": {SERVICE: facts.name}}}]);
    let mut ingress = vec![json!({"from": callers(facts), "ports": api})];
    if facts.mode == Mode::Managed {
        let mut ports = vec![tcp(launch.http)];
        if facts.is_direct() && metrics != launch.http {
            // There is no gateway to tell how versions answer.
            ports.push(tcp(metrics));
        }
        ingress.push(json!({"from": [peer(&facts.settings.operator)], "ports": ports}));
    }
    let prometheus = named_namespace(&facts.spec.observability.prometheus_namespace);
    ingress.push(json!({"from": [prometheus], "ports": [tcp(metrics)]}));
    if matches!(facts.spec.scaling.mode, ScalingMode::Hpa | ScalingMode::Keda) && facts.mode == Mode::Managed
    {
        // Replicas are set by what it reads.
        ingress.push(json!({"from": [peer(&facts.settings.metrics_api)], "ports": [tcp(metrics)]}));
    }
    if facts.settings.serving_metrics && facts.mode == Mode::Managed {
        // Told beside what GPUs measure.
        ingress.push(json!({"from": [peer(&facts.settings.node_agents)], "ports": [tcp(metrics)]}));
    }
    if facts.spec.expose.inference_pool {
        // The picker reads metrics to choose by them.
        let picker =
            json!({"podSelector": {"matchLabels": names::selector(SERVICE, facts.name, Part::Picker)}});
        ingress.push(json!({"from": [picker], "ports": [tcp(metrics)]}));
    }
    let mut egress = vec![dns(&facts.settings.dns)];
    if facts.is_group() {
        // Engines choose ports of their own beside the one that ranks meet on.
        ingress.push(json!({"from": group}));
        egress.push(json!({"to": group}));
    }
    egress.extend(facts.spec.access.allow_to.iter().map(allowed));
    let labels = names::labels(SERVICE, facts.name);
    let mut policy =
        names::object("networking.k8s.io/v1", "NetworkPolicy", facts.name, facts.namespace, labels);
    policy["spec"] = json!({
        "podSelector": {
            "matchLabels": {SERVICE: facts.name},
            "matchExpressions": [{
                "key": names::PART, "operator": "In", "values": [Part::Server.name(), Part::Worker.name()],
            }],
        },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    });
    policy
}

/// Who may call: the gateway, or, where Services select the pods, those that the service names.
fn callers(facts: &Facts<'_>) -> Vec<Value> {
    let allowed = &facts.spec.access.allow_from;
    if !facts.is_direct() {
        return vec![peer(&facts.settings.gateway)];
    }
    if allowed.is_empty() {
        // Everybody in the namespace; from outside the cluster too where the service is exposed there.
        let outside = facts.spec.expose.kind != wharf_spec::service::ExposeType::ClusterIP;
        let mut all = vec![json!({"podSelector": {}})];
        if outside {
            all.push(json!({"ipBlock": {"cidr": "0.0.0.0/0"}}));
            all.push(json!({"ipBlock": {"cidr": "::/0"}}));
        }
        return all;
    }
    allowed.iter().map(caller).collect()
}

fn caller(from: &PeerFrom) -> Value {
    let PeerFrom { namespace, namespace_labels, pods, cidr } = from;
    if let Some(cidr) = cidr {
        return json!({"ipBlock": {"cidr": cidr}});
    }
    let mut peer = match (namespace, namespace_labels) {
        (Some(name), _) => named_namespace(name),
        (None, Some(labels)) => json!({"namespaceSelector": {"matchLabels": labels}}),
        (None, None) => json!({}),
    };
    if let Some(labels) = pods {
        peer["podSelector"] = json!({"matchLabels": labels});
    }
    peer
}

fn allowed(to: &PeerTo) -> Value {
    let PeerTo { namespace, cidr, port } = to;
    let peer = match (namespace, cidr) {
        (_, Some(cidr)) => json!({"ipBlock": {"cidr": cidr}}),
        (namespace, None) => named_namespace(namespace.as_deref().unwrap_or_default()),
    };
    json!({"to": [peer], "ports": [{"protocol": "TCP", "port": port.get()}]})
}

/// Policies of Jobs: those that fetch reach port 443 of public addresses, or of the ranges that are named; the others reach nobody.
fn jobs(
    kind: &str,
    owner: &str,
    namespace: Option<&str>,
    ranges: &[String],
    (settings, mode): (&Settings, Mode),
) -> Vec<Value> {
    let ingress = match mode {
        // It asks how far they are.
        Mode::Managed => {
            let port = json!({"protocol": "TCP", "port": PROGRESS_PORT});
            json!([{"from": [peer(&settings.operator)], "ports": [port]}])
        }
        Mode::Standalone | Mode::Local => json!([]),
    };
    let policy = |suffix: &str, part: Part, egress: Vec<Value>| {
        let name = names::child(owner, suffix);
        let labels = names::labels(kind, owner);
        let mut policy = names::object("networking.k8s.io/v1", "NetworkPolicy", &name, namespace, labels);
        policy["spec"] = json!({
            "podSelector": {"matchLabels": names::selector(kind, owner, part)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        });
        policy
    };
    let to: Vec<Value> = match ranges {
        [] => vec![
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": PRIVATE_V4}}),
            json!({"ipBlock": {"cidr": "::/0", "except": PRIVATE_V6}}),
        ],
        ranges => ranges.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}})).collect(),
    };
    let web = json!({"to": to, "ports": [{"protocol": "TCP", "port": 443}]});
    vec![
        policy("fetch", Part::Fetch, vec![dns(&settings.dns), web]),
        policy("prepare", Part::Prepare, Vec::new()),
    ]
}

/// The policy of the endpoint picker: gateways ask it, and it asks the pods and the API server.
pub(super) fn of_picker(facts: &Facts<'_>) -> Value {
    let labels = names::labels(SERVICE, facts.name);
    let name = names::child(facts.name, "epp");
    let (metrics, _) = facts.launch().metrics;
    let servers = json!({"podSelector": {"matchLabels": names::selector(SERVICE, facts.name, Part::Server)}});
    let mut policy = names::object("networking.k8s.io/v1", "NetworkPolicy", &name, facts.namespace, labels);
    policy["spec"] = json!({
        "podSelector": {"matchLabels": names::selector(SERVICE, facts.name, Part::Picker)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": PICKER}]}],
        "egress": [
            dns(&facts.settings.dns),
            {"to": [servers], "ports": [{"protocol": "TCP", "port": metrics}]},
            // The API server's address is not known here; its ports are.
            {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]},
        ],
    });
    policy
}

fn dns(server: &Peer) -> Value {
    json!({"to": [peer(server)], "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]})
}

fn peer(peer: &Peer) -> Value {
    let mut found = named_namespace(&peer.namespace);
    found["podSelector"] = json!({"matchLabels": peer.pods});
    found
}

/// By the label that the API server itself gives to every namespace.
fn named_namespace(name: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}})
}
