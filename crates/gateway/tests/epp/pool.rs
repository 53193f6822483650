//! A picker that learns of its endpoints from an InferencePool.

use std::net::SocketAddr;

use serde_json::{Value, json};
use wharf_fakes::cluster::FakeCluster;
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::discover;

use crate::support::{Running, addresses, chat, config, until};

async fn cluster() -> FakeCluster {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.install("inference.networking.k8s.io");
    cluster.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}));
    cluster
}

/// Engines with one port and an address each.
async fn engines(count: usize) -> Vec<FakeEngine> {
    let first = FakeEngine::start(EngineConfig::named("e0")).await.unwrap();
    let port = first.address().port();
    let mut engines = vec![first];
    for number in 1..count {
        let address = SocketAddr::from(([127, 0, 3, number as u8], port));
        engines.push(FakeEngine::start_at(address, EngineConfig::named(format!("e{number}"))).await.unwrap());
    }
    engines
}

fn pool(app: &str, ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
    json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": "pool", "namespace": "demo"},
        "spec": {
            "selector": {"matchLabels": {"app": app}}, "targetPorts": ports,
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    })
}

fn pod(name: &str, app: &str, engine: &FakeEngine, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "demo", "labels": {"app": app}, "finalizers": ["tests.wharf.dev/hold"]},
        "spec": {"containers": [{"name": "server", "image": "i"}]},
        "status": {"podIP": engine.address().ip().to_string(), "conditions": [{"type": "Ready", "status": ready}]},
    })
}

#[tokio::test]
async fn the_pool_s_pods_are_endpoints_while_they_are_ready_and_not_terminated() {
    let (cluster, engines) = (cluster().await, engines(3).await);
    let epp = Running::start(config(&[])).await;
    assert_eq!(epp.ask(&chat("hello")).await.1.refusal().0, 503);
    let follow = discover::pool(cluster.client(), "demo".to_owned(), "pool".to_owned(), epp.handle.clone());
    let task = tokio::spawn(follow);
    let port = engines[0].address().port();
    cluster.seed(pod("a", "llm", &engines[0], "True"));
    cluster.seed(pod("b", "llm", &engines[1], "False"));
    cluster.seed(pod("c", "other", &engines[2], "True"));
    cluster.seed(pool("llm", &[port]));
    let all = addresses(&engines);
    until("the ready one is found", || epp.ready() == all[..1]).await;
    assert_eq!(epp.ask(&chat("hello")).await.1.endpoints(), all[..1]);
    cluster.seed(pod("b", "llm", &engines[1], "True"));
    until("the other is found", || epp.ready().len() == 2).await;
    cluster.delete("Pod", "demo/a");
    until("the terminated one is left", || epp.ready() == all[1..2]).await;
    cluster.seed(pool("other", &[port]));
    until("the pool's new selector counts", || epp.ready() == all[2..3]).await;
    cluster.go_down().await;
    for round in 0..5 {
        assert_eq!(epp.ask(&chat(&format!("{round}"))).await.1.endpoints(), all[2..3]);
    }
    task.abort();
}
