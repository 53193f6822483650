//! What is kept of objects that are not compared with what is wanted: others make them, and little of them is read. Pure.

use kube::api::DynamicObject;
use serde_json::{Map, Value};

/// What is taken away from objects of a kind before they are kept.
pub(crate) fn trim(kind: &str) -> fn(&mut DynamicObject) {
    match kind {
        "Pod" => pod,
        _ => |_| {},
    }
}

/// Of a pod's spec the ports of its containers and the nodes that it asks for are read. How it mounts, probes and starts its containers is most of
/// it, and the workload that makes it says the same.
fn pod(pod: &mut DynamicObject) {
    let spec = pod.data["spec"].take();
    let containers = spec["containers"].as_array().into_iter().flatten();
    let containers = containers.map(|container| only(container, &["name", "ports"])).collect();
    let mut kept = Map::new();
    kept.insert("nodeSelector".to_owned(), spec["nodeSelector"].clone());
    kept.insert("containers".to_owned(), Value::Array(containers));
    pod.data["spec"] = Value::Object(kept);
    pod.data["status"] = only(
        &pod.data["status"].take(),
        &["phase", "podIP", "conditions", "initContainerStatuses", "containerStatuses"],
    );
}

fn only(of: &Value, keys: &[&str]) -> Value {
    let known = |key: &&str| Some(((*key).to_owned(), of.get(*key)?.clone()));
    Value::Object(keys.iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_keeps_where_it_listens_what_it_asks_for_and_how_it_is() {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "X"}, "volumes": [{"name": "v"}],
                "containers": [{"name": "server", "ports": ports, "env": [{"name": "A", "value": "b"}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, "hostIP": "10.0.0.2"},
        }))
        .unwrap();
        trim("Pod")(&mut object);
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"nodeSelector": {"nvidia.com/gpu.product": "X"}, "containers": [{"name": "server", "ports": ports}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions},
        });
        assert_eq!(serde_json::to_value(&object).unwrap(), expected);
        assert_eq!(wharf_cluster::address(&object, "http").as_deref(), Some("10.0.0.1:8080"));
    }

    #[test]
    fn what_is_compared_keeps_everything() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
        let mut object: DynamicObject = serde_json::from_value(service.clone()).unwrap();
        trim("Service")(&mut object);
        assert_eq!(serde_json::to_value(&object).unwrap(), service);
    }
}
