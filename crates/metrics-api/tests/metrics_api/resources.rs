//! `metrics.k8s.io`: what pods and nodes use, GPUs included.

use serde_json::json;
use wharf_metrics_api::Api;

use crate::support::{Text, World};

fn kubelet(cpu: f64) -> String {
    format!(
        "node_cpu_usage_seconds_total {cpu}\nnode_memory_working_set_bytes 4096\n\
         container_cpu_usage_seconds_total{{container=\"server\",namespace=\"demo\",pod=\"a\"}} {cpu}\n\
         container_memory_working_set_bytes{{container=\"server\",namespace=\"demo\",pod=\"a\"}} 2048\n\
         container_cpu_usage_seconds_total{{container=\"x\",namespace=\"demo\",pod=\"unknown\"}} {cpu}\n\
         container_memory_working_set_bytes{{container=\"x\",namespace=\"demo\",pod=\"unknown\"}} 1\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_nodes_say_what_they_use() {
    let world = World::start(&[Api::Resource]).await;
    let said = Text::kubelet(&kubelet(10.0)).await;
    let addresses = json!([{"type": "InternalIP", "address": "127.0.0.1"}]);
    let port = json!({"kubeletEndpoint": {"Port": said.address.port()}});
    world
        .cluster
        .seed(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "labels": {"node-type": "gpu"}},
            "status": {"addresses": addresses, "daemonEndpoints": port},
        }))
        .await;
    let agent =
        Text::serve("DCGM_FI_DEV_GPU_UTIL{container=\"server\",namespace=\"demo\",pod=\"a\"} 50\n").await;
    world.component("node-agent", "agent", agent.address).await;
    world.pod("a", agent.address).await;

    let pods = "/apis/metrics.k8s.io/v1beta1/namespaces/demo/pods";
    let selected = format!("{pods}?labelSelector=wharf.dev%2Fservice%3Dassistant");
    let list = world.get_until(&selected, |list| list["items"][0].is_object()).await;
    assert_eq!(list["kind"], "PodMetricsList");
    assert_eq!(
        list["items"].as_array().unwrap().len(),
        1,
        "a pod that the cluster does not know has no metrics: {list}"
    );
    let usage = &list["items"][0]["containers"][0]["usage"];
    assert_eq!((&usage["memory"], &usage["nvidia.com/gpu"]), (&"2Ki".into(), &"500m".into()));
    assert_eq!(usage["cpu"], "0n", "nothing was used between two readings");

    said.say(kubelet(11.0));
    let used = |cpu: &serde_json::Value| cpu.as_str().is_some_and(|cpu| cpu != "0n");
    let pod = world.get_until(&format!("{pods}/a"), |pod| used(&pod["containers"][0]["usage"]["cpu"])).await;
    assert_eq!((&pod["kind"], &pod["metadata"]["name"]), (&"PodMetrics".into(), &"a".into()));

    let node = world
        .get_until("/apis/metrics.k8s.io/v1beta1/nodes/node-a", |node| node["kind"] == "NodeMetrics")
        .await;
    assert_eq!((&node["usage"]["memory"], &node["usage"]["nvidia.com/gpu"]), (&"4Ki".into(), &"500m".into()));
    let (_, list) = world.get("/apis/metrics.k8s.io/v1beta1/nodes?labelSelector=node-type%3Dgpu").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(world.get(&format!("{pods}/gone")).await.0, 404);
}
