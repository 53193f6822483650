//! Metrics of the models that are served on a node.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};
use wharf_fake_nvml::Machine;
use wharf_fakes::cluster::{FakeCluster, Injected, allows};
use wharf_fakes::engine::{Claims, EngineConfig, FakeEngine, Fault, Target};
use wharf_node::kubelet::pod_resources::{
    ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources,
};

use crate::kubelet::pod_resources;
use crate::support::{Host, Running, SOON};

const NODE: &str = "gpu-node-01";

/// A host whose agent tells of models, and reads them often.
fn host(machine: &Machine) -> Host {
    let mut host = Host::of(machine);
    host.config.plugin.enabled = false;
    host.config.labels.enabled = false;
    host.config.exporter.serving = true;
    host.config.exporter.serving_every = 0.1;
    host
}

async fn engine(model: &str) -> FakeEngine {
    let claims = Claims { running: Some(3), waiting: Some(2), kv: Some(0.25) };
    let config = EngineConfig { model: model.to_owned(), claims, ..EngineConfig::default() };
    FakeEngine::start(config).await.unwrap()
}

/// A pod of the service `assistant` on a node, with this engine in it.
fn seed(cluster: &FakeCluster, name: &str, (node, part, phase): (&str, &str, &str), engine: &FakeEngine) {
    let labels =
        json!({"wharf.dev/service": "assistant", "wharf.dev/colour": "blue", "wharf.dev/part": part});
    let port = json!({"name": "http", "containerPort": engine.address().port()});
    cluster.seed(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "server", "image": "x", "ports": [port]}],
        },
        "status": {"phase": phase, "podIP": engine.address().ip().to_string()},
    }));
}

const SERVES: (&str, &str, &str) = (NODE, "server", "Running");

/// The lines of models.
fn of_models(metrics: &str) -> Vec<&str> {
    metrics.lines().filter(|line| line.starts_with("wharf_model_")).collect()
}

/// Scrapes until what is said of models is as wanted.
async fn scraped(agent: &Running, wanted: impl Fn(&[&str]) -> bool) -> String {
    let mut last = String::new();
    let scraping = async {
        loop {
            last = agent.get("/metrics").await.1;
            if wanted(&of_models(&last)) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let done = timeout(SOON, scraping).await.is_ok();
    assert!(done, "{last}");
    last
}

#[tokio::test]
async fn models_of_this_node_are_told_with_their_gpus() {
    let cluster = FakeCluster::start().await.unwrap();
    let ours = engine("qwen").await;
    let others = [engine("elsewhere").await, engine("worker").await, engine("ended").await];
    seed(&cluster, "assistant-0", SERVES, &ours);
    seed(&cluster, "assistant-1", ("gpu-node-02", "server", "Running"), &others[0]);
    seed(&cluster, "assistant-2", (NODE, "worker", "Running"), &others[1]);
    seed(&cluster, "assistant-3", (NODE, "server", "Failed"), &others[2]);
    let machine = Machine::of(2);
    let host = host(&machine);
    let devices = ContainerDevices {
        resource_name: "nvidia.com/gpu".to_owned(),
        device_ids: vec![machine.gpus[1].uuid.clone()],
    };
    let held = PodResources {
        name: "assistant-0".to_owned(),
        namespace: "default".to_owned(),
        containers: vec![ContainerResources { name: "server".to_owned(), devices: vec![devices] }],
    };
    let response = ListPodResourcesResponse { pod_resources: vec![held] };
    let _kubelet = pod_resources(&host.config.paths.pod_resources, response);
    let agent = host.start_in(Some(&cluster));
    agent.says("gpus", "Healthy").await;
    let message = agent.says("serving", "Known").await;
    assert_eq!(message, "1 of 1 model servers of this node answer");
    let metrics = scraped(&agent, |lines| lines.iter().any(|line| line.contains("gpu_info"))).await;
    expect_test::expect![[r#"
        wharf_model_requests_running{namespace="default",pod="assistant-0",service="assistant",colour="blue",model_name="qwen",Hostname="gpu-node-01"} 3
        wharf_model_requests_waiting{namespace="default",pod="assistant-0",service="assistant",colour="blue",model_name="qwen",Hostname="gpu-node-01"} 2
        wharf_model_kv_cache_usage_ratio{namespace="default",pod="assistant-0",service="assistant",colour="blue",model_name="qwen",Hostname="gpu-node-01"} 0.25
        wharf_model_requests_finished_total{namespace="default",pod="assistant-0",service="assistant",colour="blue",model_name="qwen",Hostname="gpu-node-01"} 0
        wharf_model_gpu_info{UUID="GPU-00000001-0000-4000-8000-000000000001",container="server",namespace="default",pod="assistant-0",service="assistant",colour="blue",model_name="qwen",Hostname="gpu-node-01"} 1"#]]
    .assert_eq(&of_models(&metrics).join("\n"));
    assert!(metrics.contains("wharf_node_ready{part=\"serving\"} 1"), "{metrics}");
    // No part of the page names a metric twice, or has samples of one in two places.
    let types: Vec<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(types.len(), types.iter().collect::<BTreeSet<_>>().len(), "{types:?}");
    for other in &others {
        assert!(other.requests().is_empty(), "{:?}", other.config().model);
    }
    let asked: Vec<_> = cluster.calls().into_iter().filter(|call| call.kind == "Pod").collect();
    assert!(!asked.is_empty());
    for call in asked {
        assert!(call.path.contains("fieldSelector=spec.nodeName%3Dgpu-node-01"), "{}", call.path);
    }
}

#[tokio::test]
async fn a_pod_that_does_not_answer_has_no_line() {
    let cluster = FakeCluster::start().await.unwrap();
    let engines = [engine("a").await, engine("b").await];
    seed(&cluster, "a", SERVES, &engines[0]);
    seed(&cluster, "b", SERVES, &engines[1]);
    let host = host(&Machine::of(1));
    let agent = host.start_in(Some(&cluster));
    let tells = |pod: &'static str| move |line: &&str| line.contains(&format!("pod=\"{pod}\""));
    scraped(&agent, |lines| lines.iter().any(tells("a")) && lines.iter().any(tells("b"))).await;
    engines[0].fail(Target::Metrics, Fault::status(503));
    engines[1].configure(|config| config.claims.running = Some(9));
    // The other goes on.
    let goes_on = |lines: &[&str]| lines.iter().any(|line| tells("b")(line) && line.ends_with("} 9"));
    scraped(&agent, |lines| !lines.iter().any(tells("a")) && goes_on(lines)).await;
    let message = agent.says("serving", "KnownPartly").await;
    assert_eq!(message, "1 of 2 model servers of this node answer; metrics are without default/a");
    engines[0].heal().await.unwrap();
    scraped(&agent, |lines| lines.iter().any(tells("a"))).await;
    agent.says("serving", "Known").await;
}

#[tokio::test]
async fn a_pod_that_comes_or_goes_is_seen_between_two_readings() {
    let cluster = FakeCluster::start().await.unwrap();
    let mut host = host(&Machine::of(1));
    host.config.exporter.serving_every = 3600.0;
    let agent = host.start_in(Some(&cluster));
    assert_eq!(agent.says("serving", "Known").await, "no model server runs on this node");
    let engine = engine("late").await;
    seed(&cluster, "late", SERVES, &engine);
    scraped(&agent, |lines| lines.iter().any(|line| line.contains("pod=\"late\""))).await;
    cluster.delete("Pod", "late");
    scraped(&agent, |lines| lines.is_empty()).await;
    // However often the agent was scraped: a scrape waits for no model.
    assert_eq!(engine.requests().len(), 1);
}

#[tokio::test]
async fn without_a_cluster_it_says_so_and_unasked_it_looks_at_no_pod() {
    let mut host = host(&Machine::of(1));
    let agent = host.start();
    let why = agent.says("serving", "NoCluster").await;
    assert!(why.contains("without models"), "{why}");
    agent.end().await;
    let cluster = FakeCluster::start().await.unwrap();
    host.config.exporter.serving = false;
    let agent = host.start_in(Some(&cluster));
    agent.says("gpus", "Healthy").await;
    assert!(agent.status().await["conditions"]["serving"].is_null());
    agent.end().await;
    assert!(cluster.calls().iter().all(|call| call.kind != "Pod"));
}

#[tokio::test]
async fn without_the_right_it_says_so_and_goes_on_when_it_has_it() {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.fail_when(usize::MAX, Injected::Status(403), |call| call.kind == "Pod");
    let host = host(&Machine::of(1));
    let agent = host.start_in(Some(&cluster));
    let why = agent.says("serving", "ClusterUnavailable").await;
    assert!(why.contains("right to list and watch pods"), "{why}");
    cluster.heal();
    let engine = engine("a").await;
    seed(&cluster, "a", SERVES, &engine);
    scraped(&agent, |lines| !lines.is_empty()).await;
}

#[tokio::test]
async fn its_rights_are_enough_for_models_too() {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.seed(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
    let mut host = host(&Machine::of(1));
    host.config.labels.enabled = true;
    let agent = host.start_in(Some(&cluster));
    agent.says("labels", "Applied").await;
    agent.says("serving", "Known").await;
    agent.end().await;
    let role = |serving| wharf_node::cluster_role("wharf-node-agent", serving);
    let calls = cluster.calls();
    assert!(calls.iter().all(|call| allows(&role(true)["rules"], call)), "{calls:?}");
    assert!(calls.iter().any(|call| !allows(&role(false)["rules"], call)), "{calls:?}");
}
