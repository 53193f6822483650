//! How a supervisor ends: in order, killed, and what is found afterwards.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use wharf_gateway::GatewayConfig;
use wharf_local::{Order, Reply, order};

use crate::support::{PATIENCE, Running, group, lives, service, stand_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_lets_running_requests_end_and_leaves_nothing_behind() {
    let up = Running::start(json!({"tokens": 40, "itl_ms": 20}), json!({})).await;
    let facts = up.until_ready(1).await;
    let pid = facts.replicas[0].pid.unwrap();
    assert!(group(pid).len() >= 2, "a replica is what stands in between and the engine");
    let (client, url) = (up.client.clone(), up.url("/v1/chat/completions"));
    let chat = tokio::spawn(async move {
        let body =
            json!({"model": "assistant", "stream": true, "messages": [{"role": "user", "content": "hello"}]});
        let answer = client.post(url).json(&body).send().await.unwrap();
        answer.text().await.unwrap()
    });
    up.until("the request", |_| up.gateway.in_flight() == 1).await;
    up.stop().await;
    let text = chat.await.unwrap();
    assert!(text.contains("[DONE]"), "{text}");
    assert!(!lives(pid) && group(pid).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_it_leaves_no_orphan_and_the_next_one_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("first.json");
    std::fs::write(&model, "{}").unwrap();
    std::fs::write(root.path().join("llm.yaml"), service(&model, json!({}))).unwrap();
    std::fs::create_dir(root.path().join("models")).unwrap();
    let path = |name: &str| root.path().join(name);
    let mut supervisor = Command::new(stand_in())
        .arg("up")
        .args([path("state"), path("models"), path("llm.yaml")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let pid = loop {
        if let Ok(Reply::Overview(overview)) = order(&path("state"), &Order::Overview).await
            && let Some(facts) = overview.services.first().and_then(|service| service.facts.clone())
            && let Some(replica) = facts.replicas.iter().find(|replica| replica.state == "ready")
        {
            break replica.pid.unwrap();
        }
        sleep(Duration::from_millis(10)).await;
    };
    supervisor.kill().await.unwrap();
    let began = Instant::now();
    while !group(pid).is_empty() {
        assert!(began.elapsed() < PATIENCE, "orphans: {:?}", group(pid));
        sleep(Duration::from_millis(20)).await;
    }
    // The folder is free again, and what was released is not released anew.
    let up = Running::resume(root, GatewayConfig::default()).await;
    let facts = up.until_ready(1).await;
    assert_eq!(facts.generation, 1);
    assert_eq!(up.chat().await.0, 200);
    up.stop().await;
}
