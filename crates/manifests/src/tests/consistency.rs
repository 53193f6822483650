//! What must hold between the objects of a service, whatever it asks for.

use std::collections::BTreeSet;

use super::examples::{all, rendered};
use super::*;

/// Labels, name and everything else of the pods that an object makes.
struct Pods<'a> {
    maker: String,
    labels: &'a Value,
    spec: &'a Value,
}

fn pods(objects: &[Value]) -> Vec<Pods<'_>> {
    let mut all = Vec::new();
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap();
        let kind = object["kind"].as_str().unwrap();
        let templates = match kind {
            "Deployment" | "Job" => vec!["/spec/template"],
            "LeaderWorkerSet" => {
                vec!["/spec/leaderWorkerTemplate/leaderTemplate", "/spec/leaderWorkerTemplate/workerTemplate"]
            }
            _ => Vec::new(),
        };
        for pointer in templates {
            let template = object.pointer(pointer).unwrap();
            let maker = format!("{kind} {name}");
            all.push(Pods { maker, labels: &template["metadata"]["labels"], spec: &template["spec"] });
        }
    }
    all
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object();
    let equal = equal.into_iter().flatten().all(|(key, value)| labels[key] == *value);
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
        let key = expression["key"].as_str().unwrap();
        match expression["operator"].as_str().unwrap() {
            "In" => expression["values"].as_array().unwrap().contains(&labels[key]),
            other => panic!("a test for {other} is missing"),
        }
    });
    equal && expressions
}

/// Names of the ports of all containers.
fn port_names(spec: &Value) -> Vec<&str> {
    let containers = spec["containers"].as_array().unwrap();
    let ports = containers.iter().flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports.filter_map(|port| port["name"].as_str()).collect()
}

/// Everything that does not fit together.
pub(super) fn faults(objects: &[Value], mode: Mode) -> Vec<String> {
    let mut faults = Vec::new();
    let pods = pods(objects);
    let has = |kind: &str, name: &Value| {
        objects.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == *name)
    };
    let mut names = BTreeSet::new();
    for object in objects {
        let kind = object["kind"].as_str().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let mut fault = |text: String| faults.push(format!("{kind} {name}: {text}"));
        if name.len() > 63 || !names.insert((kind, name)) {
            fault("its name is too long or taken".to_owned());
        }
        for (key, value) in object["metadata"]["labels"].as_object().unwrap() {
            if value.as_str().unwrap().len() > 63 {
                fault(format!("the label {key} is too long"));
            }
        }
        match kind {
            "Deployment" => {
                let selector = &object["spec"]["selector"];
                let makes = |pods: &&Pods<'_>| pods.maker == format!("{kind} {name}");
                let own = pods.iter().filter(makes).all(|pods| matches(selector, pods.labels));
                let others =
                    pods.iter().filter(|pods| !makes(pods)).any(|pods| matches(selector, pods.labels));
                if !own || others {
                    fault("selects not its own pods alone".to_owned());
                }
            }
            "Service" => {
                let Some(selector) = object["spec"]["selector"].as_object() else {
                    if mode == Mode::Standalone {
                        fault("selects nothing, and there is nobody to say what it stands for".to_owned());
                    }
                    continue;
                };
                let selector = serde_json::json!({"matchLabels": selector});
                let found: Vec<&Pods<'_>> =
                    pods.iter().filter(|pods| matches(&selector, pods.labels)).collect();
                if found.is_empty() {
                    fault("selects no pod".to_owned());
                }
                for port in object["spec"]["ports"].as_array().unwrap() {
                    let target = port["targetPort"].as_str().unwrap();
                    if found.iter().any(|pods| !port_names(pods.spec).contains(&target)) {
                        fault(format!("no port is called {target}"));
                    }
                }
                if found.iter().any(|pods| pods.maker.starts_with("Job")) {
                    fault("sends requests to Jobs".to_owned());
                }
            }
            "PodDisruptionBudget" | "InferencePool" => {
                let found = pods.iter().filter(|pods| matches(&object["spec"]["selector"], pods.labels));
                let found: Vec<&Pods<'_>> = found.collect();
                let wrong = |pods: &&Pods<'_>| pods.labels[crate::names::PART] != "server";
                if found.is_empty() || found.iter().any(wrong) {
                    fault("selects not the servers".to_owned());
                }
            }
            "NetworkPolicy" => {
                let found =
                    pods.iter().filter(|pods| matches(&object["spec"]["podSelector"], pods.labels)).count();
                let of_jobs = name.ends_with("-fetch") || name.ends_with("-prepare");
                if found == 0 && !of_jobs {
                    fault("is for no pod".to_owned());
                }
            }
            "HorizontalPodAutoscaler" | "ScaledObject" => {
                let target = &object["spec"]["scaleTargetRef"];
                let there = match target["kind"].as_str().unwrap() {
                    "LLMService" => mode == Mode::Managed,
                    kind => has(kind, &target["name"]),
                };
                if !there {
                    fault(format!("scales {target}, which is not there"));
                }
            }
            "RoleBinding" if !has("Role", &object["roleRef"]["name"]) => {
                fault("is for a role that is not there".to_owned());
            }
            "ServiceMonitor" => {
                let selector = &object["spec"]["selector"];
                let services = objects
                    .iter()
                    .filter(|o| o["kind"] == "Service" && matches(selector, &o["metadata"]["labels"]));
                let services: Vec<&Value> = services.collect();
                let port = &object["spec"]["endpoints"][0]["port"];
                let has_port = |service: &&Value| {
                    service["spec"]["ports"].as_array().unwrap().iter().any(|one| one["name"] == *port)
                };
                if services.len() != 1 || !services.iter().all(has_port) {
                    fault("does not find the one Service of the pods, or its port".to_owned());
                }
            }
            "Ingress" => {
                let backend = &object["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"];
                if !has("Service", backend) {
                    fault("leads nowhere".to_owned());
                }
            }
            "HTTPRoute" => {
                let backend = &object["spec"]["rules"][0]["backendRefs"][0];
                if !has(backend["kind"].as_str().unwrap(), &backend["name"]) {
                    fault("leads nowhere".to_owned());
                }
            }
            _ => {}
        }
    }
    faults.extend(models_that_nobody_makes(objects));
    for pods in &pods {
        let mut fault = |text: String| faults.push(format!("{}: {text}", pods.maker));
        let spec = pods.spec;
        let covered = objects.iter().filter(|object| {
            object["kind"] == "NetworkPolicy" && matches(&object["spec"]["podSelector"], pods.labels)
        });
        if covered.count() != 1 {
            fault("not exactly one network policy is for it".to_owned());
        }
        let volumes: Vec<&Value> = spec["volumes"].as_array().into_iter().flatten().collect();
        let mounted: BTreeSet<&str> = containers(spec)
            .flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten())
            .map(|mount| mount["name"].as_str().unwrap())
            .collect();
        let declared: BTreeSet<&str> =
            volumes.iter().map(|volume| volume["name"].as_str().unwrap()).collect();
        if mounted != declared {
            fault(format!("mounts {mounted:?} of the volumes {declared:?}"));
        }
        for volume in &volumes {
            if let Some(name) = volume.pointer("/configMap/name")
                && !has("ConfigMap", name)
            {
                fault(format!("the ConfigMap {name} is not there"));
            }
        }
        for container in containers(spec) {
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(port) = container[probe]["httpGet"]["port"].as_str()
                    && !port_names(spec).contains(&port)
                {
                    fault(format!("{probe} asks a port {port} that is not there"));
                }
            }
            let security = &container["securityContext"];
            let restricted = security["allowPrivilegeEscalation"] == false
                && security["capabilities"]["drop"] == serde_json::json!(["ALL"])
                && security["readOnlyRootFilesystem"] == true
                && spec["securityContext"]["runAsNonRoot"] == true
                && spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault";
            if !restricted {
                fault(format!("{} may do more than restricted allows", container["name"]));
            }
        }
        let account = &spec["serviceAccountName"];
        if account.is_string()
            && spec["automountServiceAccountToken"] == false
            && !has("ServiceAccount", account)
        {
            // An account of the user's own is there already.
            let own = pods.labels[crate::names::SERVICE] == *account;
            if own {
                fault(format!("the account {account} is not there"));
            }
        }
    }
    faults
}

/// Files that servers are given from the service's own claim, and no Job puts there.
fn models_that_nobody_makes(objects: &[Value]) -> Vec<String> {
    let text = serde_json::to_string(objects).unwrap();
    // Names of sources and artifacts, wherever they are said.
    let names = text.split("/models/").skip(1).map(|rest| {
        rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next().unwrap_or_default()
    });
    let ours = names.filter(|name| name.starts_with("source-") || name.starts_with("artifact-"));
    let made = |name: &str| text.contains(&format!("\"-o\",\"/models/{name}"));
    ours.filter(|name| !made(name)).map(|name| format!("nobody makes {name}")).collect()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"];
    lists.into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten())
}

#[test]
fn the_objects_of_every_example_fit_together() {
    for (name, text) in all() {
        let managed = rendered(&text, Mode::Managed);
        assert!(!managed.is_empty(), "{name}");
        assert_eq!(faults(&managed, Mode::Managed), [] as [String; 0], "{name}");
        assert_eq!(faults(&rendered(&text, Mode::Standalone), Mode::Standalone), [] as [String; 0], "{name}");
    }
}

#[test]
fn a_set_that_does_not_fit_together_is_noticed() {
    let good = render(
        &service("{model: {source: hf://a/b}, observability: {serviceMonitor: true}}"),
        Mode::Standalone,
    );
    let breaks: [(&str, &str, Value); 6] = [
        ("Service", "/spec/ports/0/targetPort", "other".into()),
        ("Service", "/spec/selector/wharf.dev~1service", "other".into()),
        ("Deployment", "/spec/template/metadata/labels/wharf.dev~1part", "worker".into()),
        ("PodDisruptionBudget", "/spec/selector/matchLabels/wharf.dev~1part", "fetch".into()),
        ("ServiceMonitor", "/spec/endpoints/0/port", "other".into()),
        ("Deployment", "/spec/template/spec/containers/0/readinessProbe/httpGet/port", "other".into()),
    ];
    for (kind, pointer, value) in breaks {
        let mut broken = good.clone();
        let object = broken.iter_mut().find(|object| object["kind"] == kind).unwrap();
        *object.pointer_mut(pointer).unwrap() = value;
        assert!(!faults(&broken, Mode::Standalone).is_empty(), "{kind} {pointer}");
    }
}
