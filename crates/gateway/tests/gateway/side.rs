//! What the platform reads: metrics, health, the demand stream, the usage log.

use wharf_api::demand::DemandReport;

use crate::support::{Running, chat, config, engines, service, until};

#[tokio::test]
async fn metrics_tell_what_happened() {
    let engines = engines(2).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    for _ in 0..3 {
        gateway.ask(&chat("hello")).await;
    }
    gateway.idle().await;
    let requests = "wharf_gateway_requests_total{colour=\"\",service=\"demo/fake-model\",status=\"200\"}";
    assert_eq!(gateway.metric(requests).await, 3.0);
    let ready = "wharf_gateway_endpoints{service=\"demo/fake-model\",state=\"ready\"}";
    assert_eq!(gateway.metric(ready).await, 2.0);
}

#[tokio::test]
async fn a_service_that_is_gone_has_no_endpoints_in_metrics() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let told = async || -> bool {
        let text = gateway.client.get(gateway.side("/metrics")).send().await.unwrap().text().await.unwrap();
        text.contains("wharf_gateway_endpoints{") || text.contains("wharf_gateway_queued{")
    };
    assert!(told().await);
    gateway.handle.set_services(Vec::new());
    assert!(!told().await);
}

#[tokio::test]
async fn demand_is_told_as_soon_as_it_appears() {
    let engines = engines(0).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let mut stream = gateway.client.get(gateway.side("/wharf/v1/demand")).send().await.unwrap();
    let mut next = async || -> DemandReport {
        let line = stream.chunk().await.unwrap().unwrap();
        serde_json::from_slice(&line).unwrap()
    };
    let first = next().await;
    assert_eq!(first.services["demo/fake-model"].queued, 0);
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).json(&chat("hello")).send();
    let waiting = tokio::spawn(request);
    let mut sequence = first.sequence;
    loop {
        let report = next().await;
        assert!(report.sequence > sequence && report.epoch == first.epoch);
        sequence = report.sequence;
        if report.services["demo/fake-model"].queued == 1 {
            break;
        }
    }
    waiting.abort();
}

#[tokio::test]
async fn what_engines_say_of_themselves_is_handed_on() {
    let engines = engines(1).await;
    engines[0].configure(|config| {
        config.claims.waiting = Some(7);
        config.claims.kv = Some(0.5);
    });
    let gateway = Running::start(config(vec![service(&engines)]));
    let load = || {
        let demand = gateway.handle.demand();
        let load = demand.services["demo/fake-model"].endpoints.values().next().copied();
        load.map(|load| (load.waiting, load.kv_cache))
    };
    until("metrics are read", || load() == Some((7, 0.5))).await;
}

#[tokio::test]
async fn each_request_is_a_line_of_the_usage_log() {
    let engines = engines(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let mut config = config(vec![service(&engines)]);
    config.usage_log = Some(path.clone());
    let gateway = Running::start(config);
    gateway.ask(&chat("hello")).await;
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    until("the line is written", || lines().ends_with('\n')).await;
    let line: serde_json::Value = serde_json::from_str(lines().trim()).unwrap();
    assert_eq!((line["service"].as_str(), line["status"].as_u64()), (Some("demo/fake-model"), Some(200)));
    assert_eq!(line["completionTokens"], 8);
    assert!(!lines().contains("hello"), "prompts are nobody's business");
}
