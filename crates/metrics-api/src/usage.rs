//! What pods and nodes use of CPUs and memory, from kubelets' `/metrics/resource` (Kubernetes documentation, "Node metrics data"), and of GPUs
//! from node agents. Pure; [`crate::kubelets`] reads.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};
use wharf_telemetry::exposition::samples;

use crate::gpus::{GpuUse, Holder};
use crate::metric::quantity;

/// What something has used up and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    /// Seconds of a CPU since it started.
    cpu: Option<f64>,
    /// Bytes of its working set.
    memory: Option<f64>,
}

/// A reading of a kubelet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    node: Counted,
    containers: BTreeMap<Holder, Counted>,
}

/// CPUs and memory in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Use {
    /// CPUs.
    pub(crate) cpu: f64,
    /// Bytes.
    pub(crate) memory: f64,
}

/// What a node uses, averaged over a while.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeUse {
    pub(crate) node: Option<Use>,
    pub(crate) containers: BTreeMap<Holder, Use>,
    /// Over how long.
    pub(crate) window: Duration,
}

/// What a kubelet says.
pub(crate) fn read(text: &str) -> Reading {
    let mut reading = Reading::default();
    for sample in samples(text) {
        let of_node = sample.name.starts_with("node_");
        let cpu = matches!(sample.name, "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total");
        let memory =
            matches!(sample.name, "node_memory_working_set_bytes" | "container_memory_working_set_bytes");
        if !(cpu || memory) || !sample.value.is_finite() {
            continue;
        }
        let counted = if of_node {
            &mut reading.node
        } else {
            let mut labels = sample.labels();
            let mut label = |name: &str| labels.remove(name).unwrap_or_default();
            let holder = (label("namespace"), label("pod"), label("container"));
            reading.containers.entry(holder).or_default()
        };
        let field = if cpu { &mut counted.cpu } else { &mut counted.memory };
        *field = Some(sample.value);
    }
    reading
}

/// What was used between two readings, `window` apart. What started again or was not there before is left out until the next.
pub(crate) fn between(before: &Reading, after: &Reading, window: Duration) -> NodeUse {
    let seconds = window.as_secs_f64();
    let used = |before: &Counted, after: &Counted| {
        let cpu = (after.cpu? - before.cpu?) / seconds;
        (seconds > 0.0 && cpu >= 0.0).then_some(Use { cpu, memory: after.memory? })
    };
    let of = |(holder, after): (&Holder, &Counted)| {
        Some((holder.clone(), used(before.containers.get(holder)?, after)?))
    };
    NodeUse {
        node: used(&before.node, &after.node),
        containers: after.containers.iter().filter_map(of).collect(),
        window,
    }
}

/// `PodMetrics` of each pod that has any, in the order of their names.
pub(crate) fn pods<'a>(
    nodes: impl Iterator<Item = (&'a NodeUse, &'a HashMap<Holder, GpuUse>)>,
    timestamp: &str,
) -> BTreeMap<(String, String), Value> {
    let mut pods: BTreeMap<(String, String), Value> = BTreeMap::new();
    for (node, gpus) in nodes {
        for (holder, used) in &node.containers {
            let (namespace, pod, container) = holder;
            let mut usage = json!({"cpu": cpu(used.cpu), "memory": kibibytes(used.memory)});
            if let Some(gpu) = gpus.get(holder) {
                usage["nvidia.com/gpu"] = quantity(gpu.gpus()).into();
            }
            let metrics = pods.entry((namespace.clone(), pod.clone())).or_insert_with(|| {
                json!({
                    "metadata": {"name": pod, "namespace": namespace, "creationTimestamp": timestamp},
                    "timestamp": timestamp, "window": seconds(node.window), "containers": [],
                })
            });
            if let Some(containers) = metrics["containers"].as_array_mut() {
                containers.push(json!({"name": container, "usage": usage}));
            }
        }
    }
    pods
}

/// `NodeMetrics` of a node.
pub(crate) fn node(
    name: &str,
    used: &NodeUse,
    gpus: &HashMap<Holder, GpuUse>,
    timestamp: &str,
) -> Option<Value> {
    let of = used.node?;
    let mut usage = json!({"cpu": cpu(of.cpu), "memory": kibibytes(of.memory)});
    if !gpus.is_empty() {
        let all = gpus.values().fold(GpuUse::default(), |sum, gpu| sum.and(*gpu));
        usage["nvidia.com/gpu"] = quantity(all.gpus()).into();
    }
    Some(json!({
        "metadata": {"name": name, "creationTimestamp": timestamp},
        "timestamp": timestamp, "window": seconds(used.window), "usage": usage,
    }))
}

/// As metrics-server writes them.
fn cpu(cpus: f64) -> String {
    format!("{:.0}n", cpus * 1e9)
}

fn kibibytes(bytes: f64) -> String {
    format!("{:.0}Ki", bytes / 1024.0)
}

fn seconds(window: Duration) -> String {
    format!("{:.3}s", window.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cpu: f64) -> String {
        format!(
            "# HELP x y\nnode_cpu_usage_seconds_total {cpu} 1700000\nnode_memory_working_set_bytes 2048\n\
             container_cpu_usage_seconds_total{{container=\"server\",namespace=\"demo\",pod=\"a\"}} {cpu} 1700000\n\
             container_memory_working_set_bytes{{container=\"server\",namespace=\"demo\",pod=\"a\"}} 1048576 1700000\n\
             container_start_time_seconds{{container=\"server\",namespace=\"demo\",pod=\"a\"}} 5\n"
        )
    }

    #[test]
    fn cpu_is_what_was_used_between_two_readings() {
        let used = between(&read(&text(10.0)), &read(&text(25.0)), Duration::from_secs(10));
        assert_eq!(used.node, Some(Use { cpu: 1.5, memory: 2048.0 }));
        let holder = ("demo".to_owned(), "a".to_owned(), "server".to_owned());
        assert_eq!(used.containers[&holder], Use { cpu: 1.5, memory: 1_048_576.0 });
        let restarted = between(&read(&text(10.0)), &read(&text(1.0)), Duration::from_secs(10));
        assert!(restarted.containers.is_empty(), "it started again in between");
        assert!(
            between(&Reading::default(), &read(&text(1.0)), Duration::from_secs(1)).containers.is_empty()
        );
    }

    #[test]
    fn a_pod_says_how_many_gpus_it_keeps_busy() {
        let used = between(&read(&text(10.0)), &read(&text(15.0)), Duration::from_secs(10));
        let gpus = crate::gpus::by_container(
            "DCGM_FI_DEV_GPU_UTIL{container=\"server\",namespace=\"demo\",pod=\"a\"} 75\n",
        );
        let all = pods([(&used, &gpus)].into_iter(), "2026-01-01T00:00:00Z");
        let metrics = &all[&("demo".to_owned(), "a".to_owned())];
        let usage = json!({"cpu": "500000000n", "memory": "1024Ki", "nvidia.com/gpu": "750m"});
        assert_eq!(metrics["containers"], json!([{"name": "server", "usage": usage}]));
        assert_eq!(metrics["window"], "10.000s");
        let node = node("n", &used, &gpus, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(node["usage"], json!({"cpu": "500000000n", "memory": "2Ki", "nvidia.com/gpu": "750m"}));
    }
}
