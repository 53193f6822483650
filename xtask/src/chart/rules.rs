//! What objects of one installation say of each other: names, labels and ports that have to agree, and what `restricted` of the Pod Security
//! Standards asks of pods. No API server refuses any of it; it shows as silence. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// Everything that does not agree.
pub(super) fn complaints(objects: &[Value]) -> Vec<String> {
    let mut complaints = twice(objects);
    for object in objects {
        let found = match text(&object["kind"]) {
            "Deployment" | "DaemonSet" => deployment(object, objects),
            "Service" => service(object, objects),
            "ServiceMonitor" => monitor(object, objects),
            "PodMonitor" => pod_monitor(object, objects),
            "NetworkPolicy" => policy(object, objects),
            "PodDisruptionBudget" => selects(object, &object["spec"]["selector"], objects),
            "HorizontalPodAutoscaler" => scaler(object, objects),
            "RoleBinding" | "ClusterRoleBinding" => binding(object, objects),
            _ => Vec::new(),
        };
        complaints.extend(found.into_iter().map(|what| format!("{}: {what}", place(object))));
    }
    complaints
}

/// Kind, namespace and name.
fn place(object: &Value) -> String {
    format!("{} {}/{}", text(&object["kind"]), namespace(object), text(&object["metadata"]["name"]))
}

fn twice(objects: &[Value]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    objects
        .iter()
        .map(place)
        .filter(|place| !seen.insert(place.clone()))
        .map(|place| format!("{place}: is there twice"))
        .collect()
}

fn deployment(object: &Value, objects: &[Value]) -> Vec<String> {
    let template = &object["spec"]["template"];
    let spec = &template["spec"];
    let mut found = Vec::new();
    if !is_selected(&object["spec"]["selector"], &template["metadata"]["labels"]) {
        found.push("its selector does not match its own pods".to_owned());
    }
    let account = text(&spec["serviceAccountName"]);
    if account != "default" && !exists(objects, "ServiceAccount", namespace(object), account) {
        found.push(format!("there is no ServiceAccount {account:?}"));
    }
    let volumes: BTreeSet<&str> = list(&spec["volumes"]).iter().map(|volume| text(&volume["name"])).collect();
    for volume in list(&spec["volumes"]) {
        let config = text(&volume["configMap"]["name"]);
        if !config.is_empty() && !exists(objects, "ConfigMap", namespace(object), config) {
            found.push(format!("there is no ConfigMap {config:?}"));
        }
    }
    let mut mounted = BTreeSet::new();
    for container in list(&spec["containers"]) {
        let mounts: BTreeSet<&str> =
            list(&container["volumeMounts"]).iter().map(|mount| text(&mount["name"])).collect();
        found.extend(mounts.difference(&volumes).map(|name| format!("there is no volume {name:?} to mount")));
        mounted.extend(mounts);
        found.extend(probes(container));
        if !is_privileged(namespace(object), objects) {
            found.extend(restricted(spec, container));
        }
    }
    found.extend(volumes.difference(&mounted).map(|name| format!("nothing mounts the volume {name:?}")));
    found
}

fn probes(container: &Value) -> Vec<String> {
    let ports: Vec<&Value> = list(&container["ports"]).iter().map(|port| &port["name"]).collect();
    ["startupProbe", "livenessProbe", "readinessProbe"]
        .into_iter()
        .filter_map(|probe| match &container[probe]["httpGet"]["port"] {
            Value::Null => Some(format!("{} has no {probe}", text(&container["name"]))),
            port if !ports.contains(&port) => {
                Some(format!("{probe} asks port {port}, which the container does not have"))
            }
            _ => None,
        })
        .collect()
}

/// Whether the installation makes this namespace as one for what needs the host.
fn is_privileged(namespace: &str, objects: &[Value]) -> bool {
    objects.iter().any(|object| {
        object["kind"] == "Namespace"
            && object["metadata"]["name"] == namespace
            && object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    })
}

/// Pod Security Standards, level restricted, and a root that cannot be written.
fn restricted(pod: &Value, container: &Value) -> Vec<String> {
    let (of_pod, own) = (&pod["securityContext"], &container["securityContext"]);
    let asked = [
        ("runAsNonRoot", of_pod["runAsNonRoot"] == true),
        ("seccompProfile", text(&of_pod["seccompProfile"]["type"]) == "RuntimeDefault"),
        ("allowPrivilegeEscalation", own["allowPrivilegeEscalation"] == false),
        ("capabilities", list(&own["capabilities"]["drop"]).iter().any(|one| one == "ALL")),
        ("readOnlyRootFilesystem", own["readOnlyRootFilesystem"] == true),
        ("hostNetwork", pod["hostNetwork"] != true),
        ("hostPath", list(&pod["volumes"]).iter().all(|volume| volume["hostPath"].is_null())),
    ];
    let broken = asked.into_iter().filter(|(_, holds)| !holds);
    broken.map(|(what, _)| format!("{} is not restricted: {what}", text(&container["name"]))).collect()
}

fn service(object: &Value, objects: &[Value]) -> Vec<String> {
    let selector = serde_json::json!({"matchLabels": object["spec"]["selector"]});
    let mut found = selects(object, &selector, objects);
    let ports = ports_of(objects, namespace(object), &selector);
    for port in list(&object["spec"]["ports"]) {
        if !ports.contains(&port["targetPort"]) {
            found.push(format!("no pod has the port {}", port["targetPort"]));
        }
    }
    found
}

fn monitor(object: &Value, objects: &[Value]) -> Vec<String> {
    let labels = |service: &&Value| is_selected(&object["spec"]["selector"], &service["metadata"]["labels"]);
    let services: Vec<&Value> = of_kind(objects, "Service", namespace(object)).filter(labels).collect();
    let [service] = services.as_slice() else {
        return vec![format!("selects {} Services, and its pods are to be measured once", services.len())];
    };
    let has = |port: &Value| list(&service["spec"]["ports"]).iter().any(|one| one["name"] == *port);
    let endpoints = list(&object["spec"]["endpoints"]).iter();
    endpoints
        .filter(|one| !has(&one["port"]))
        .map(|one| format!("{} has no port {}", place(service), one["port"]))
        .collect()
}

fn pod_monitor(object: &Value, objects: &[Value]) -> Vec<String> {
    let selector = &object["spec"]["selector"];
    let mut found = selects(object, selector, objects);
    let ports = ports_of(objects, namespace(object), selector);
    let endpoints = list(&object["spec"]["podMetricsEndpoints"]).iter();
    found.extend(
        endpoints
            .filter(|one| !ports.contains(&one["port"]))
            .map(|one| format!("no pod has the port {}", one["port"])),
    );
    found
}

fn policy(object: &Value, objects: &[Value]) -> Vec<String> {
    let selector = &object["spec"]["podSelector"];
    let mut found = selects(object, selector, objects);
    let ports = ports_of(objects, namespace(object), selector);
    for rule in list(&object["spec"]["ingress"]) {
        for port in list(&rule["ports"]).iter().map(|port| &port["port"]).filter(|port| port.is_string()) {
            if !ports.contains(port) {
                found.push(format!("no pod has the port {port}"));
            }
        }
    }
    for side in ["ingress", "egress"] {
        for peer in list(&object["spec"][side])
            .iter()
            .flat_map(|rule| [list(&rule["from"]), list(&rule["to"])].concat())
        {
            // Pods of this namespace are ours.
            if !peer["podSelector"].is_null() && peer["namespaceSelector"].is_null() {
                found.extend(selects(object, &peer["podSelector"], objects));
            }
        }
    }
    found
}

fn scaler(object: &Value, objects: &[Value]) -> Vec<String> {
    let name = text(&object["spec"]["scaleTargetRef"]["name"]);
    let target =
        of_kind(objects, "Deployment", namespace(object)).find(|one| text(&one["metadata"]["name"]) == name);
    match target {
        None => vec![format!("there is no Deployment {name:?} to scale")],
        Some(target) if !target["spec"]["replicas"].is_null() => {
            vec![format!("{} says its replicas too", place(target))]
        }
        Some(_) => Vec::new(),
    }
}

fn binding(object: &Value, objects: &[Value]) -> Vec<String> {
    let role = &object["roleRef"];
    let mut found = Vec::new();
    let of_role = if role["kind"] == "Role" { namespace(object) } else { "" };
    let is_kubernetes =
        role["name"] == "extension-apiserver-authentication-reader" && of_role == "kube-system";
    if !is_kubernetes && !exists(objects, text(&role["kind"]), of_role, text(&role["name"])) {
        found.push(format!("there is no {} {}", text(&role["kind"]), role["name"]));
    }
    for subject in list(&object["subjects"]) {
        let name = text(&subject["name"]);
        if name != "default" && !exists(objects, "ServiceAccount", text(&subject["namespace"]), name) {
            found.push(format!("there is no ServiceAccount {name:?}"));
        }
    }
    found
}

/// Complains where a selector finds no pod.
fn selects(object: &Value, selector: &Value, objects: &[Value]) -> Vec<String> {
    let finds = pods(objects, namespace(object)).any(|pod| is_selected(selector, &pod["metadata"]["labels"]));
    if finds { Vec::new() } else { vec![format!("no pod has the labels {selector}")] }
}

fn ports_of(objects: &[Value], namespace: &str, selector: &Value) -> Vec<Value> {
    let selected = pods(objects, namespace).filter(|pod| is_selected(selector, &pod["metadata"]["labels"]));
    selected
        .flat_map(|pod| list(&pod["spec"]["containers"]))
        .flat_map(|container| list(&container["ports"]))
        .map(|port| port["name"].clone())
        .collect()
}

/// Templates of pods in a namespace.
fn pods<'a>(objects: &'a [Value], namespace: &'a str) -> impl Iterator<Item = &'a Value> {
    let workloads =
        ["Deployment", "DaemonSet"].into_iter().flat_map(move |kind| of_kind(objects, kind, namespace));
    workloads.map(|workload| &workload["spec"]["template"])
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str, of: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind && namespace(object) == of)
}

fn exists(objects: &[Value], kind: &str, namespace: &str, name: &str) -> bool {
    of_kind(objects, kind, namespace).any(|object| object["metadata"]["name"] == name)
}

/// Selectors with nothing in them select everything, which no object of ours means.
fn is_selected(selector: &Value, labels: &Value) -> bool {
    let nothing = Map::new();
    let wanted = selector["matchLabels"].as_object().unwrap_or(&nothing);
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value)
}

fn namespace(object: &Value) -> &str {
    text(&object["metadata"]["namespace"])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
