//! The node's labels and taint, on an API server.

use serde_json::{Value, json};
use wharf_fake_nvml::Machine;
use wharf_fakes::cluster::FakeCluster;

use crate::support::{Host, until};

const NODE: &str = "gpu-node-01";

async fn cluster(labels: Value) -> FakeCluster {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.seed(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}));
    cluster
}

fn label(cluster: &FakeCluster, name: &str) -> Value {
    cluster.get("Node", NODE).unwrap()["metadata"]["labels"][name].clone()
}

#[tokio::test]
async fn a_node_gets_its_labels_and_loses_ours_when_its_gpus_go() {
    let cluster = cluster(json!({"kubernetes.io/hostname": NODE})).await;
    let host = Host::of(&Machine::of(4));
    let agent = host.start_in(Some(&cluster));
    until("the node was labelled", || label(&cluster, "capacity-gpu") == "4").await;
    assert_eq!(label(&cluster, "nvidia.com/gpu.product"), "NVIDIA-H100-80GB-HBM3");
    assert_eq!(label(&cluster, "nvidia.com/gpu.machine"), "PowerEdge-XE9680");
    assert_eq!(
        (label(&cluster, "node-type"), label(&cluster, "gpu-type")),
        (json!("gpu"), json!("nvidia-h100-80gb-hbm3"))
    );
    agent.says("labels", "Applied").await;
    host.nvml.change(|machine| machine.gpus.clear()).unwrap();
    until("our labels went", || label(&cluster, "capacity-gpu").is_null()).await;
    assert_eq!(label(&cluster, "kubernetes.io/hostname"), NODE);
}

#[tokio::test]
async fn a_driver_that_goes_takes_no_labels_with_it() {
    let cluster = cluster(json!({})).await;
    let host = Host::of(&Machine::of(1));
    let agent = host.start_in(Some(&cluster));
    agent.says("labels", "Applied").await;
    // NVML_ERROR_UNKNOWN.
    host.nvml.change(|machine| machine.errors.insert("nvmlDeviceGetCount_v2".to_owned(), 999)).unwrap();
    agent.says("gpus", "NvmlFailed").await;
    agent.says("plugin", "NothingToOffer").await;
    host.nvml.change(|machine| machine.errors.clear()).unwrap();
    agent.says("gpus", "Healthy").await;
    let writes = cluster.calls().iter().filter(|call| call.verb == "patch").count();
    assert_eq!((writes, label(&cluster, "capacity-gpu")), (1, json!("1")));
}

#[tokio::test]
async fn a_label_that_somebody_else_set_stays() {
    let cluster = cluster(json!({"node-type": "accelerated"})).await;
    let host = Host::of(&Machine::of(1));
    let agent = host.start_in(Some(&cluster));
    let why = agent.says("labels", "AppliedPartly").await;
    assert!(why.contains("node-type"), "{why}");
    assert_eq!(label(&cluster, "node-type"), "accelerated");
    assert_eq!(label(&cluster, "capacity-gpu"), "1");
}

#[tokio::test]
async fn a_node_that_is_as_it_should_be_is_written_once() {
    let cluster = cluster(json!({})).await;
    let mut host = Host::of(&Machine::of(1));
    host.config.labels.every = 0.05;
    let agent = host.start_in(Some(&cluster));
    agent.says("labels", "Applied").await;
    let version = || cluster.get("Node", NODE).unwrap()["metadata"]["resourceVersion"].clone();
    let before = version();
    agent.end().await;
    // Another agent finds it so, and looks several times.
    let calls = || cluster.calls().iter().filter(|call| call.verb == "get").count();
    let looked = calls();
    let agent = host.start_in(Some(&cluster));
    until("it looked again", || calls() > looked + 6).await;
    assert_eq!(version(), before);
    agent.end().await;
}

#[tokio::test]
async fn the_taint_comes_when_it_is_wanted_and_goes_when_not() {
    let cluster = cluster(json!({})).await;
    cluster.seed(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "spec": {"taints": [{"key": "maintenance", "effect": "NoSchedule"}]}}));
    let taints = || cluster.get("Node", NODE).unwrap()["spec"]["taints"].clone();
    let mut host = Host::of(&Machine::of(1));
    host.config.labels.taint = true;
    let agent = host.start_in(Some(&cluster));
    until("the node was tainted", || taints().as_array().is_some_and(|taints| taints.len() == 2)).await;
    assert_eq!(taints()[1], json!({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}));
    agent.end().await;
    host.config.labels.taint = false;
    let _agent = host.start_in(Some(&cluster));
    until("the taint went", || taints() == json!([{"key": "maintenance", "effect": "NoSchedule"}])).await;
}

#[tokio::test]
async fn a_node_that_the_cluster_does_not_know_is_said_to_be_so() {
    let cluster = FakeCluster::start().await.unwrap();
    let host = Host::of(&Machine::of(1));
    let agent = host.start_in(Some(&cluster));
    let why = agent.says("labels", "NoNode").await;
    assert!(why.contains(NODE), "{why}");
}

#[tokio::test]
async fn its_rights_are_enough() {
    let cluster = cluster(json!({})).await;
    let role = wharf_node::cluster_role("wharf-node-agent", false);
    let mut host = Host::of(&Machine::of(1));
    host.config.labels.taint = true;
    let agent = host.start_in(Some(&cluster));
    agent.says("labels", "Applied").await;
    for call in cluster.calls() {
        let allowed = wharf_fakes::cluster::allows(&role["rules"], &call);
        assert!(allowed, "{call:?}");
    }
}
