//! What is kept of objects of which little is read: others make them, or they are made once. Pure.

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use crate::made;

/// What is taken away from objects of a kind before they are kept.
pub(crate) fn trim(kind: &str) -> fn(&mut DynamicObject) {
    match kind {
        "Pod" => pod,
        "Node" => node,
        "Deployment" | "LeaderWorkerSet" => made::forget_unless_edited,
        _ => |_| {},
    }
}

/// Of a pod's spec the ports of its containers, its devices and the nodes that it asks for and has are read. How it mounts, probes and starts its
/// containers is most of it, and the workload that makes it says the same.
fn pod(pod: &mut DynamicObject) {
    let spec = pod.data["spec"].take();
    let containers = spec["containers"].as_array().into_iter().flatten();
    let containers = containers.map(container).collect();
    let mut kept = Map::new();
    kept.insert("nodeSelector".to_owned(), spec["nodeSelector"].clone());
    if spec["nodeName"].is_string() {
        kept.insert("nodeName".to_owned(), spec["nodeName"].clone());
    }
    kept.insert("containers".to_owned(), Value::Array(containers));
    pod.data["spec"] = Value::Object(kept);
    pod.data["status"] = only(
        &pod.data["status"].take(),
        &["phase", "podIP", "conditions", "initContainerStatuses", "containerStatuses"],
    );
}

fn container(container: &Value) -> Value {
    let mut kept = only(container, &["name", "ports"]);
    let devices = devices(&container["resources"]["limits"]);
    if !devices.is_empty() {
        kept["resources"]["limits"] = Value::Object(devices);
    }
    kept
}

/// Of a node its labels are read, its devices, and whether it takes pods.
fn node(node: &mut DynamicObject) {
    let devices = devices(&node.data["status"]["allocatable"]);
    let conditions = node.data["status"]["conditions"].as_array().into_iter().flatten();
    let ready: Vec<Value> = conditions
        .filter(|condition| condition["type"] == "Ready")
        .map(|c| only(c, &["type", "status"]))
        .collect();
    node.metadata.annotations = None;
    node.data["spec"] = only(&node.data["spec"].take(), &["unschedulable"]);
    node.data["status"] = json!({"allocatable": devices, "conditions": ready});
}

/// Amounts of what has the name of a vendor's domain: GPUs, and not CPU or memory.
fn devices(amounts: &Value) -> Map<String, Value> {
    let amounts = amounts.as_object().into_iter().flatten();
    let devices = amounts.filter(|(name, _)| name.contains('/'));
    devices.map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

fn only(of: &Value, keys: &[&str]) -> Value {
    let known = |key: &&str| Some(((*key).to_owned(), of.get(*key)?.clone()));
    Value::Object(keys.iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_keeps_where_it_listens_what_it_asks_for_and_how_it_is() {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "X"}, "nodeName": "n", "volumes": [{"name": "v"}],
                "containers": [{
                    "name": "server", "ports": ports, "env": [{"name": "A", "value": "b"}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": "2"}},
                }],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, "hostIP": "10.0.0.2"},
        }))
        .unwrap();
        trim("Pod")(&mut object);
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "X"}, "nodeName": "n",
                "containers": [{"name": "server", "ports": ports, "resources": {"limits": {"nvidia.com/gpu": "2"}}}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions},
        });
        assert_eq!(serde_json::to_value(&object).unwrap(), expected);
        assert_eq!(wharf_cluster::address(&object, "http").as_deref(), Some("10.0.0.1:8080"));
    }

    #[test]
    fn a_node_keeps_its_labels_its_devices_and_whether_it_takes_pods() {
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n", "labels": {"a": "b"}, "annotations": {"much": "of it"}},
            "spec": {"podCIDR": "10.0.0.0/24", "unschedulable": true},
            "status": {
                "allocatable": {"cpu": "8", "nvidia.com/gpu": "4"}, "images": [{"names": ["x"]}],
                "conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }))
        .unwrap();
        trim("Node")(&mut object);
        let expected = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"unschedulable": true},
            "status": {"allocatable": {"nvidia.com/gpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(serde_json::to_value(&object).unwrap(), expected);
    }

    #[test]
    fn what_is_compared_keeps_everything() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
        let mut object: DynamicObject = serde_json::from_value(service.clone()).unwrap();
        trim("Service")(&mut object);
        assert_eq!(serde_json::to_value(&object).unwrap(), service);
    }
}
