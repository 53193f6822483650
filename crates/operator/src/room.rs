//! Whether a second version has room on the GPUs that nodes have free, before its pods ask for it. Pure.
//!
//! Only GPUs are counted, and of pods only our own are seen: what is said here is true, and where nothing is said a pod may still find no node.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use wharf_cluster::Object;
use wharf_spec::LLMService;

use crate::observe::has_ended;

/// Devices that a pod holds on its node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Holds {
    pub(crate) node: Box<str>,
    pub(crate) devices: Vec<(Box<str>, u64)>,
}

/// What a pod holds; nothing before it has a node, and after it has ended.
pub(crate) fn holds(pod: &DynamicObject) -> Option<Holds> {
    let spec = &pod.data["spec"];
    let node = spec["nodeName"].as_str().filter(|_| !has_ended(pod))?;
    let containers = spec["containers"].as_array().into_iter().flatten();
    let limits = containers.filter_map(|container| container["resources"]["limits"].as_object()).flatten();
    let devices = limits.filter(|(name, _)| name.contains('/'));
    let devices: Vec<(Box<str>, u64)> =
        devices.map(|(name, amount)| (name.as_str().into(), number(amount))).collect();
    (!devices.is_empty()).then(|| Holds { node: node.into(), devices })
}

/// What a second version lacks, and what can be done; nothing where it fits, and where no node is known.
pub(crate) fn lacks(service: &LLMService, replicas: u32, nodes: &[Object], held: &[Holds]) -> Option<String> {
    let gpu = service.spec.resources.gpu.as_ref().filter(|gpu| gpu.count > 0)?;
    let each = u64::from(gpu.count);
    let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
    for holds in held {
        let own = holds.devices.iter().filter(|(name, _)| **name == gpu.resource);
        *taken.entry(&holds.node).or_default() += own.map(|(_, count)| count).sum::<u64>();
    }
    let (mut all, mut free, mut pods_fit) = (0, 0, 0);
    for node in nodes.iter().filter(|node| takes_pods_of(service, node)) {
        let offers = number(&node.data["status"]["allocatable"][&gpu.resource]);
        let left = offers.saturating_sub(taken.get(node.name_any().as_str()).copied().unwrap_or(0));
        all += offers;
        free += left;
        pods_fit += left / each;
    }
    let pods = u64::from(service.spec.parallelism.nodes.max(1));
    let (wanted, fit) = (u64::from(replicas.max(1)), pods_fit / pods);
    if nodes.is_empty() || fit >= wanted {
        return None;
    }
    let product = gpu.product.as_deref().map_or(String::new(), |product| format!(" {product}"));
    Some(format!(
        "a second version needs {} GPUs{product} beside the one that serves ({wanted} × {} of {}), and nodes have room for {fit} of its replicas: \
         {free} of {all} are free; use rollout.strategy Recreate, which pauses, or Rolling or Canary, which begin with fewer replicas, ask for fewer \
         replicas, or add nodes",
        wanted * pods * each,
        pods * each,
        gpu.resource,
    ))
}

/// Whether a node is one of those that a service asks for, and takes pods.
fn takes_pods_of(service: &LLMService, node: &DynamicObject) -> bool {
    let product = service.spec.resources.gpu.as_ref().and_then(|gpu| gpu.product.as_ref());
    let mut wanted = service.spec.placement.node_selector.iter().map(|(key, value)| (key.as_str(), value));
    let labels = node.labels();
    let fits = wanted.all(|(key, value)| labels.get(key) == Some(value))
        && product.is_none_or(|product| labels.get("nvidia.com/gpu.product") == Some(product));
    let conditions = node.data["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|condition| condition["type"] == "Ready").all(|c| c["status"] == "True");
    fits && ready && node.data["spec"]["unschedulable"] != true
}

/// A whole number of devices, as Kubernetes writes it.
fn number(amount: &Value) -> u64 {
    amount.as_u64().or_else(|| amount.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn service(spec: &Value) -> LLMService {
        let mut all = json!({"model": {"source": "hf://a/b"}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let object = json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a"}, "spec": all});
        serde_json::from_value(object).unwrap()
    }

    fn node(name: &str, gpus: u64, changes: &Value) -> Arc<DynamicObject> {
        let mut node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": "H100"}},
            "status": {"allocatable": {"nvidia.com/gpu": gpus.to_string()}},
        });
        for (key, value) in changes.as_object().unwrap() {
            node[key] = value.clone();
        }
        Arc::new(object(node))
    }

    fn taken(node: &str, gpus: u64) -> Holds {
        Holds { node: node.into(), devices: vec![("nvidia.com/gpu".into(), gpus)] }
    }

    #[test]
    fn a_version_lacks_what_no_node_has_free() {
        let plain = json!({});
        let two = || vec![node("one", 4, &plain), node("two", 4, &plain)];
        let gpus = |count: u32| json!({"resources": {"gpu": {"count": count}}});
        let of = |product: &str| json!({"resources": {"gpu": {"count": 1, "product": product}}});
        let selects =
            json!({"resources": {"gpu": {"count": 1}}, "placement": {"nodeSelector": {"zone": "a"}}});
        let group = json!({
            "resources": {"gpu": {"count": 4}}, "parallelism": {"tensor": 8, "nodes": 2}, "runtime": {"engine": "vllm"},
        });
        let ready = |status: &str| json!({"status": {"allocatable": {"nvidia.com/gpu": "4"}, "conditions": [{"type": "Ready", "status": status}]}});
        let cases = [
            ("room on one node", gpus(2), 1, two(), vec![taken("one", 4), taken("two", 2)], true),
            ("what is free lies apart", gpus(2), 1, two(), vec![taken("one", 3), taken("two", 3)], false),
            ("for some replicas alone", gpus(1), 3, two(), vec![taken("one", 4), taken("two", 2)], false),
            ("asleep, it needs one", gpus(1), 0, two(), vec![taken("one", 4), taken("two", 4)], false),
            ("a group needs both nodes", group.clone(), 1, two(), vec![], true),
            ("a group has one", group, 1, two(), vec![taken("two", 1)], false),
            ("of this product", of("H100"), 8, two(), vec![], true),
            ("of another product", of("H200"), 1, two(), vec![], false),
            ("on other nodes", selects, 1, two(), vec![], false),
            (
                "a node that is cordoned",
                gpus(1),
                1,
                vec![node("n", 4, &json!({"spec": {"unschedulable": true}}))],
                vec![],
                false,
            ),
            ("a node that is not ready", gpus(1), 1, vec![node("n", 4, &ready("Unknown"))], vec![], false),
            ("a node that is ready", gpus(1), 4, vec![node("n", 4, &ready("True"))], vec![], true),
            (
                "more is held than there is",
                gpus(1),
                1,
                vec![node("n", 1, &plain)],
                vec![taken("n", 2)],
                false,
            ),
            ("no node is known", gpus(1), 1, vec![], vec![], true),
            ("it needs no GPU", json!({}), 9, two(), vec![taken("one", 4), taken("two", 4)], true),
        ];
        for (case, spec, replicas, nodes, held, fits) in cases {
            assert_eq!(lacks(&service(&spec), replicas, &nodes, &held).is_none(), fits, "{case}");
        }
    }

    #[test]
    fn it_says_what_is_missing_and_what_can_be_done() {
        let spec = json!({"resources": {"gpu": {"count": 2, "product": "H100"}}});
        let nodes = [node("one", 4, &json!({})), node("two", 4, &json!({}))];
        let said = lacks(&service(&spec), 3, &nodes, &[taken("one", 3), taken("two", 2)]).unwrap();
        let expected = "a second version needs 6 GPUs H100 beside the one that serves (3 × 2 of nvidia.com/gpu), and nodes have room for 1 of its \
                        replicas: 3 of 8 are free; use rollout.strategy Recreate";
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn a_pod_holds_devices_from_when_it_has_a_node_until_it_has_ended() {
        let pod = |node: Value, phase: &str| {
            let container =
                json!({"name": "server", "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": "2"}}});
            object(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {"nodeName": node, "containers": [container]}, "status": {"phase": phase},
            }))
        };
        assert_eq!(holds(&pod(json!("one"), "Running")), Some(taken("one", 2)));
        assert_eq!(holds(&pod(Value::Null, "Pending")), None);
        assert_eq!(holds(&pod(json!("one"), "Succeeded")), None);
    }
}
