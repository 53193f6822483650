//! Several gateways and one limit, over real sockets: what each tells the others, and what becomes of limits when one is lost or lies.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use wharf_access::Limits;
use wharf_fakes::engine::FakeEngine;
use wharf_gateway::config::PeersConfig;
use wharf_gateway::{Gateway, GatewayConfig};

use crate::support::{PATIENCE, Running, chat, config, engines, service};

const KEY: &str = "alices-secret-key";

fn secret(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, name.repeat(32)).unwrap();
    path
}

/// A gateway that serves these engines to the key, with limits for it.
fn limited(engines: &[FakeEngine], folder: &TempDir, limits: Limits) -> GatewayConfig {
    let keys = folder.path().join("keys");
    std::fs::write(&keys, format!("{KEY}\n")).unwrap();
    let mut service = service(engines);
    service.limits_per_key = limits;
    let mut config = config(vec![service]);
    config.api_keys = Some(keys);
    config
}

/// As many gateways as there are secrets, each with all side ports in its list, its own included.
fn group(config: &GatewayConfig, secrets: &[&Path]) -> Vec<Running> {
    group_at("127.0.0.1", config, secrets)
}

/// The same, with lists that have this name or address of the machine.
fn group_at(host: &str, config: &GatewayConfig, secrets: &[&Path]) -> Vec<Running> {
    // Another test may take a port between our looking and our binding.
    let mut tries = 0;
    loop {
        let sockets: Vec<_> = secrets.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        drop(sockets);
        let addresses: Vec<String> = ports.iter().map(|port| format!("{host}:{port}")).collect();
        let gateways = ports.iter().zip(secrets).map(|(&metrics_port, &secret)| {
            let peers = PeersConfig { addresses: addresses.clone(), key_file: secret.to_owned() };
            Gateway::bind(GatewayConfig { metrics_port, peers: Some(peers), ..config.clone() })
        });
        match gateways.collect::<Result<Vec<_>, _>>() {
            Ok(gateways) => return gateways.into_iter().map(Running::serve).collect(),
            Err(error) if tries == 5 => panic!("{error}"),
            Err(_) => tries += 1,
        }
    }
}

async fn ready(gateway: &Running) -> bool {
    gateway.client.get(gateway.side("/ready")).send().await.unwrap().status() == 200
}

/// Waits for what a metric says.
async fn metric_reaches(gateway: &Running, metric: &str, least: f64) {
    let reached = async {
        while gateway.metric(metric).await < least {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{metric} stays below {least}"));
}

async fn all_heard(gateways: &[Running]) {
    for gateway in gateways {
        metric_reaches(gateway, "wharf_gateway_peers{state=\"heard\"}", gateways.len() as f64 - 1.0).await;
        let ready = async { while !ready(gateway).await {} };
        timeout(PATIENCE, ready).await.expect("who has heard all others is ready");
    }
}

async fn ask(gateway: &Running, body: &Value) -> (u16, u64) {
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(KEY);
    let response = request.json(body).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["usage"]["total_tokens"].as_u64().unwrap_or(0))
}

/// Asks until nobody has let anything in for as long as a part of a limit needs to move. Requests that were let in, by gateway, and their tokens.
async fn exhaust(gateways: &[&Running], body: &Value) -> (Vec<u64>, u64) {
    let (mut counts, mut tokens, mut refused) = (vec![0; gateways.len()], 0, 0);
    while refused < 40 {
        let mut any = false;
        for (gateway, count) in gateways.iter().zip(&mut counts) {
            let (status, used) = ask(gateway, body).await;
            assert!(status == 200 || status == 429, "{status}");
            if status == 200 {
                (any, *count, tokens) = (true, *count + 1, tokens + used);
            }
        }
        refused = if any { 0 } else { refused + 1 };
        if !any {
            sleep(Duration::from_millis(50)).await;
        }
    }
    (counts, tokens)
}

fn requests(requests_per_minute: u64) -> Limits {
    Limits { requests_per_minute: Some(requests_per_minute), ..Limits::default() }
}

fn near(limit: u64, used: u64) {
    let bounds = limit * 9 / 10..=limit * 11 / 10;
    assert!(bounds.contains(&used), "{used} of {limit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_requests_holds_over_two_gateways_wherever_requests_come_in() {
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let secret = secret(&folder, "a");
    let gateways = group(&limited(&engines, &folder, requests(60)), &[&secret, &secret]);
    all_heard(&gateways).await;
    // All of it at one of them: its part follows.
    let (counts, _) = exhaust(&[&gateways[0]], &chat("hello")).await;
    near(60, counts[0]);
    let (rest, _) = exhaust(&[&gateways[0], &gateways[1]], &chat("hello")).await;
    near(60, counts[0] + rest.iter().sum::<u64>());
    assert_eq!(engines[0].stats().received as u64, counts[0] + rest.iter().sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_are_listed_by_name_are_looked_up() {
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let secret = secret(&folder, "a");
    let gateways = group_at("localhost", &limited(&engines, &folder, requests(60)), &[&secret, &secret]);
    all_heard(&gateways).await;
    let (counts, _) = exhaust(&[&gateways[1]], &chat("hello")).await;
    near(60, counts[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_tokens_holds_over_three_gateways() {
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let secret = secret(&folder, "a");
    let limits = Limits { tokens_per_minute: Some(3000), ..Limits::default() };
    let gateways = group(&limited(&engines, &folder, limits), &[&secret, &secret, &secret]);
    all_heard(&gateways).await;
    let mut body = chat("hello");
    body["max_tokens"] = json!(20);
    // All of it at one of three, which has a third to begin with; then at all of them.
    let (_, at_one) = exhaust(&[&gateways[0]], &body).await;
    near(3000, at_one);
    let (_, at_all) = exhaust(&gateways.iter().collect::<Vec<_>>(), &body).await;
    near(3000, at_one + at_all);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_a_gateway_that_was_killed_is_taken_over() {
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let secret = secret(&folder, "a");
    let mut gateways = group(&limited(&engines, &folder, requests(60)), &[&secret, &secret]);
    all_heard(&gateways).await;
    let before = 25;
    for _ in 0..before {
        assert_eq!(ask(&gateways[1], &chat("hello")).await.0, 200, "its part is large enough for that");
    }
    // What was used is known to the other one before its user ends: of two reports from now on the second was made later.
    let heard = "wharf_gateway_peer_reports_total{result=\"ok\"}";
    let so_far = gateways[0].metric(heard).await;
    metric_reaches(&gateways[0], heard, so_far + 3.0).await;
    gateways.pop().unwrap().kill().await;
    metric_reaches(&gateways[0], "wharf_gateway_peer_reports_total{result=\"unreachable\"}", 1.0).await;
    let expected = "wharf_gateway_peers{state=\"missing\"}";
    let gone = async {
        while gateways[0].metric(expected).await
            + gateways[0].metric("wharf_gateway_peers{state=\"heard\"}").await
            > 0.0
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("its lease ends");
    let (counts, _) = exhaust(&[&gateways[0]], &chat("hello")).await;
    near(60, before + counts[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_secret_neither_learns_nor_says_anything() {
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let (ours, theirs) = (secret(&folder, "a"), secret(&folder, "b"));
    let gateways = group(&limited(&engines, &folder, requests(60)), &[&ours, &theirs]);
    for gateway in &gateways {
        metric_reaches(gateway, "wharf_gateway_peer_asks_refused_total", 1.0).await;
        metric_reaches(gateway, "wharf_gateway_peer_reports_total{result=\"refused\"}", 1.0).await;
        assert_eq!(gateway.metric("wharf_gateway_peers{state=\"heard\"}").await, 0.0);
        assert_eq!(gateway.metric("wharf_gateway_peers{state=\"missing\"}").await, 1.0);
    }
    // Each keeps to its part, and together they keep the limit.
    let ready = async { while !(ready(&gateways[0]).await && ready(&gateways[1]).await) {} };
    timeout(PATIENCE, ready).await.expect("waiting for the others ends");
    let (counts, _) = exhaust(&[&gateways[0], &gateways[1]], &chat("hello")).await;
    assert_eq!(counts, [30, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_nobody_signed_is_not_believed() {
    let lie = json!({"gateway": "liar", "epoch": 1, "sequence": 9, "meters": []});
    let answer = move || std::future::ready(axum::Json(lie.clone()));
    let app = axum::Router::new().route("/wharf/v1/usage", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let liar = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let mut config = limited(&engines, &folder, requests(60));
    config.peers = Some(PeersConfig { addresses: vec![liar], key_file: secret(&folder, "a") });
    let gateway = Running::start(config);
    metric_reaches(&gateway, "wharf_gateway_peer_reports_total{result=\"forged\"}", 1.0).await;
    assert_eq!(gateway.metric("wharf_gateway_peers{state=\"heard\"}").await, 0.0);
    assert!(!ready(&gateway).await, "somebody may be there who was not heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_for_those_who_sign_and_have_no_key() {
    let (engines, folder) = (engines(1).await, tempfile::tempdir().unwrap());
    let path = secret(&folder, "a");
    let gateway = group(&limited(&engines, &folder, requests(60)), &[&path]).pop().unwrap();
    assert_eq!(ask(&gateway, &chat("hello")).await.0, 200);
    let usage = || gateway.client.get(gateway.side("/wharf/v1/usage"));
    let stranger = usage().send().await.unwrap();
    assert_eq!(stranger.status(), 401);
    let error: Value = stranger.json().await.unwrap();
    assert_eq!(error["error"]["code"], "invalid_api_key");
    let guessed = usage().header("x-wharf-nonce", "A".repeat(32)).header("x-wharf-signature", "A".repeat(43));
    assert_eq!(guessed.send().await.unwrap().status(), 401);
    assert_eq!(gateway.metric("wharf_gateway_peer_asks_refused_total").await, 2.0);
    let secret = wharf_access::shares::PeerSecret::read(&path).unwrap();
    // A report may be a moment old.
    let told = async {
        loop {
            let nonce = wharf_access::shares::PeerSecret::nonce().unwrap();
            let signed = usage().header("x-wharf-nonce", &nonce);
            let response = signed.header("x-wharf-signature", secret.sign_ask(&nonce)).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let signature = response.headers()["x-wharf-signature"].to_str().unwrap().to_owned();
            let report = response.text().await.unwrap();
            assert!(secret.reports(&nonce, report.as_bytes(), &signature));
            if report.contains("\"service\":\"demo/fake-model\"") && report.contains("\"used\":1") {
                return report;
            }
        }
    };
    let report = timeout(PATIENCE, told).await.expect("what was used is in the next report");
    assert!(report.contains("key:") && !report.contains(KEY), "{report}");
}

#[tokio::test]
async fn without_peers_there_is_no_report_and_nothing_to_wait_for() {
    let gateway = Running::start(config(vec![service(&engines(1).await)]));
    assert!(ready(&gateway).await);
    assert_eq!(gateway.client.get(gateway.side("/wharf/v1/usage")).send().await.unwrap().status(), 404);
}
