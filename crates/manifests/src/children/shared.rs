//! What pods of servers and of Jobs have in common: the nodes that they may run on, and waiting for files.

use serde_json::{Map, Value, json};
use wharf_spec::service::{Gpu, Placement};

use super::pod::container_security;

/// Where a pod may run: on nodes that the user names, and on those of its GPUs.
pub(super) fn place(placement: &Placement, gpu: Option<&Gpu>, spec: &mut Value) {
    let selector = placement.node_selector.iter();
    let mut nodes: Map<String, Value> =
        selector.map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    let mut tolerations: Vec<Value> = Vec::new();
    if let Some(Gpu { count: _, product, resource }) = gpu {
        if let Some(product) = product {
            nodes.insert("nvidia.com/gpu.product".to_owned(), product.as_str().into());
        }
        tolerations.push(json!({"key": resource, "operator": "Exists", "effect": "NoSchedule"}));
    }
    let theirs = placement.tolerations.iter().map(|one| serde_json::to_value(one).expect("plain data"));
    tolerations.extend(theirs);
    if !nodes.is_empty() {
        spec["nodeSelector"] = Value::Object(nodes);
    }
    if !tolerations.is_empty() {
        spec["tolerations"] = Value::Array(tolerations);
    }
}

/// A container that ends when something is at a path, for clusters where no operator starts one thing after the other.
pub(super) fn wait(name: &str, image: &str, path: &str, mounts: Vec<Value>) -> Value {
    json!({
        "name": name,
        "image": image,
        "command": ["wharf"],
        "args": ["fetch", "--await", path],
        "securityContext": container_security(),
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": mounts,
    })
}
