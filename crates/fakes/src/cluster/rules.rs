//! What the server demands of single fields and fills in by itself: a small part of what Kubernetes does, the part that Wharf meets.

use serde_json::{Value, json};

use super::defaults::{self, default, drop_nulls};
use super::failure::Cause;
use super::kinds::Kind;
use super::schema::Schema;

/// What is wrong with a name, if something is.
pub(crate) fn bad_name(kind: &Kind, name: &str) -> Option<Cause> {
    // Names of roles are free, so that `system:…` can be one.
    if kind.group == "rbac.authorization.k8s.io" {
        return None;
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let good = match kind.kind.as_str() {
        "Service" | "Namespace" => label(name) && name.len() <= 63,
        _ => name.len() <= 253 && name.split('.').all(label),
    };
    (!good).then(|| Cause {
        reason: "FieldValueInvalid",
        field: "metadata.name".to_owned(),
        message: format!("Invalid value: {name:?}: a lowercase RFC 1123 name is needed"),
    })
}

/// Fills in fields of a new object that depend on nothing that a writer says.
pub(crate) fn begin(kind: &Kind, new: &mut Value, number: u64) {
    if kind.custom {
        return;
    }
    match kind.kind.as_str() {
        "Service" => {
            if new["spec"]["type"] != "ExternalName" {
                let address = format!("10.96.{}.{}", (number >> 8) & 0xff, number & 0xff);
                default(&mut new["spec"], "clusterIP", address.into());
            }
            new["status"] = json!({"loadBalancer": {}});
        }
        "Deployment" => new["status"] = json!({}),
        "Job" => {
            new["status"] = json!({});
            job(new);
        }
        "PodDisruptionBudget" => {
            let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
            new["status"] = counts.iter().map(|count| ((*count).to_owned(), json!(0))).collect();
        }
        "Pod" | "PersistentVolumeClaim" => new["status"] = json!({"phase": "Pending"}),
        "Namespace" => {
            new["metadata"]["labels"]["kubernetes.io/metadata.name"] = new["metadata"]["name"].clone();
            new["status"] = json!({"phase": "Active"});
        }
        _ => {}
    }
}

/// A Job selects its Pods by its own uid, and names itself in their labels.
fn job(new: &mut Value) {
    if new["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (new["metadata"]["uid"].clone(), new["metadata"]["name"].clone());
    for prefix in ["batch.kubernetes.io/", ""] {
        for (label, value) in [("controller-uid", &uid), ("job-name", &name)] {
            new["spec"]["template"]["metadata"]["labels"][format!("{prefix}{label}")] = value.clone();
        }
    }
    if new["metadata"]["labels"].is_null() {
        new["metadata"]["labels"] = new["spec"]["template"]["metadata"]["labels"].clone();
    }
    new["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

/// Fills in what a writer may leave out, in every write.
pub(crate) fn fill_in(kind: &Kind, live: Option<&Value>, new: &mut Value) {
    if kind.custom {
        return;
    }
    drop_nulls(new);
    defaults::fill_in(&kind.kind, new);
    // An address once given is kept by who does not speak of it.
    if let ("Service", Some(live)) = (kind.kind.as_str(), live) {
        default(&mut new["spec"], "clusterIP", live["spec"]["clusterIP"].clone());
    }
}

/// What is wrong with an object as it would be.
pub(crate) fn check(
    kind: &Kind,
    schema: Option<&Schema>,
    live: Option<&Value>,
    new: &mut Value,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(schema) = schema {
        causes.extend(schema.check(new, live));
    }
    if let Some(live) = live {
        causes.extend(immutable(kind, live, new));
    }
    if kind.custom {
        return causes;
    }
    match kind.kind.as_str() {
        "Deployment" | "ReplicaSet" | "StatefulSet" => causes.extend(selects_its_pods(new)),
        "Secret" => string_data(new),
        "Service" => causes.extend(has_a_port_twice(new)),
        _ => {}
    }
    causes
}

/// Ports of a Service have names of their own.
fn has_a_port_twice(service: &Value) -> Option<Cause> {
    let ports = service["spec"]["ports"].as_array()?;
    let mut places = ports.iter().enumerate();
    let again =
        |place: usize, port: &Value| ports[..place].iter().any(|before| before["name"] == port["name"]);
    let (place, port) = places.find(|(place, port)| again(*place, port))?;
    Some(Cause {
        reason: "FieldValueDuplicate",
        field: format!("spec.ports[{place}].name"),
        message: format!("Duplicate value: {}", port["name"]),
    })
}

/// Fields that can be set once.
const IMMUTABLE: &[(&str, &str)] = &[
    ("Deployment", "/spec/selector"),
    ("ReplicaSet", "/spec/selector"),
    ("StatefulSet", "/spec/selector"),
    ("StatefulSet", "/spec/serviceName"),
    ("DaemonSet", "/spec/selector"),
    ("Job", "/spec/template"),
    ("Job", "/spec/selector"),
    ("Job", "/spec/completions"),
    ("PersistentVolumeClaim", "/spec/storageClassName"),
    ("PersistentVolumeClaim", "/spec/accessModes"),
    ("Secret", "/type"),
    ("RoleBinding", "/roleRef"),
    ("ClusterRoleBinding", "/roleRef"),
];

fn immutable(kind: &Kind, live: &Value, new: &Value) -> Vec<Cause> {
    let cause = |field: &str| Cause {
        reason: "FieldValueInvalid",
        field: field.trim_start_matches('/').replace('/', "."),
        message: "Invalid value: field is immutable".to_owned(),
    };
    if kind.custom {
        return Vec::new();
    }
    let mut causes: Vec<Cause> = IMMUTABLE
        .iter()
        .filter(|(of, _)| *of == kind.kind)
        .filter(|(_, field)| live.pointer(field) != new.pointer(field))
        .map(|(_, field)| cause(field))
        .collect();
    if matches!(kind.kind.as_str(), "Secret" | "ConfigMap") && live["immutable"] == true {
        let frozen = ["immutable", "data", "binaryData", "stringData"];
        causes.extend(
            frozen.iter().filter(|field| live.get(**field) != new.get(**field)).map(|field| cause(field)),
        );
    }
    if kind.kind == "Service"
        && live["spec"]["clusterIP"] != new["spec"]["clusterIP"]
        && !new["spec"]["clusterIP"].is_null()
    {
        causes.push(cause("spec.clusterIP"));
    }
    causes
}

/// A workload must select the pods that it makes.
fn selects_its_pods(new: &Value) -> Option<Cause> {
    let labels = &new["spec"]["template"]["metadata"]["labels"];
    let selector = new["spec"]["selector"]["matchLabels"].as_object();
    let missed = match selector {
        None => true,
        Some(selector) => selector.iter().any(|(key, value)| labels[key] != *value),
    };
    missed.then(|| Cause {
        reason: "FieldValueInvalid",
        field: "spec.template.metadata.labels".to_owned(),
        message: "Invalid value: `selector` does not match template `labels`".to_owned(),
    })
}

/// `stringData` is written and never read.
fn string_data(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.as_object_mut().and_then(|secret| secret.remove("stringData"))
    else {
        return;
    };
    if !secret["data"].is_object() {
        secret["data"] = json!({});
    }
    for (key, text) in texts {
        secret["data"][key] = base64(text.as_str().unwrap_or("").as_bytes()).into();
    }
}

/// Standard base64, padded.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 0x3f) as usize];
            text.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::kinds;

    fn kind(name: &str) -> Kind {
        kinds::own().into_iter().find(|kind| kind.kind == name).unwrap()
    }

    fn refused(name: &str, live: Value, mut new: Value) -> Vec<String> {
        check(&kind(name), None, Some(&live), &mut new).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn what_is_immutable_stays() {
        let deployment = |app: &str| {
            let labels = json!({"app": app});
            json!({"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}})
        };
        assert_eq!(refused("Deployment", deployment("a"), deployment("b")), ["spec.selector"]);
        let map = |value: &str| json!({"immutable": true, "data": {"a": value}});
        assert_eq!(refused("ConfigMap", map("1"), map("2")), ["data"]);
        assert_eq!(refused("ConfigMap", map("1"), map("1")), [""; 0]);
    }

    #[test]
    fn names_are_what_kubernetes_takes() {
        assert!(bad_name(&kind("Pod"), "a.b-1").is_none());
        assert!(bad_name(&kind("Pod"), "A").is_some());
        assert!(bad_name(&kind("Service"), "a.b").is_some());
        assert!(bad_name(&kind("Role"), "system:a").is_none());
    }

    #[test]
    fn ports_of_a_service_have_names_of_their_own() {
        let ports = |names: [&str; 2]| {
            let [first, second] = names.map(|name| json!({"name": name}));
            let mut service = json!({"spec": {"ports": [first, second]}});
            let causes = check(&kind("Service"), None, None, &mut service);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(ports(["http", "http"]), ["spec.ports[1].name"]);
        assert_eq!(ports(["http", "https"]), [""; 0]);
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"stringData": {"a": "abcd"}});
        check(&kind("Secret"), None, None, &mut secret);
        assert_eq!(secret, json!({"data": {"a": "YWJjZA=="}}));
    }
}
