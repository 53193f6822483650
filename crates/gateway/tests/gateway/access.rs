//! Keys, allow-lists and limits at the gateway's door.

use std::path::PathBuf;

use serde_json::{Value, json};
use wharf_access::Limits;

use crate::support::{Running, chat, config, engines, service};

fn keys(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("keys");
    std::fs::write(&path, text).unwrap();
    path
}

async fn with_key(gateway: &Running, key: &str, body: &Value) -> (u16, Value) {
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(key).json(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn who_has_no_key_gets_nothing_and_the_engine_never_sees_one() {
    let engines = engines(1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(vec![service(&engines)]);
    config.api_keys = Some(keys(&folder, "right-key\n"));
    let gateway = Running::start(config);
    let (status, error) = gateway.ask(&chat("hello")).await;
    assert_eq!((status, error["error"]["code"].as_str()), (401, Some("invalid_api_key")));
    assert_eq!(with_key(&gateway, "wrong-key", &chat("hello")).await.0, 401);
    assert_eq!(gateway.client.get(gateway.url("/v1/models")).send().await.unwrap().status(), 401);
    assert_eq!(engines[0].stats().received, 0);
    assert_eq!(with_key(&gateway, "right-key", &chat("hello")).await.0, 200);
    assert_eq!(engines[0].generation_requests()[0].header("authorization"), "");
}

#[tokio::test]
async fn a_key_for_some_models_neither_uses_nor_sees_the_others() {
    let engines = engines(1).await;
    let mut other = service(&engines);
    other.name = "demo/secret".to_owned();
    other.models = vec!["secret".to_owned()];
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(vec![service(&engines), other]);
    let document = "keys:\n- {name: alice, sha256: \"SHA\", models: [fake-model]}\n";
    config.api_keys = Some(keys(&folder, &document.replace("SHA", &sha256("alices-key"))));
    let gateway = Running::start(config);
    assert_eq!(with_key(&gateway, "alices-key", &chat("hello")).await.0, 200);
    let secret = json!({"model": "secret", "messages": []});
    let (status, error) = with_key(&gateway, "alices-key", &secret).await;
    assert_eq!((status, error["error"]["code"].as_str()), (403, Some("model_not_allowed")));
    let request = gateway.client.get(gateway.url("/v1/models")).bearer_auth("alices-key");
    let models: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_when_to_come_back() {
    let engines = engines(1).await;
    let mut limited = service(&engines);
    limited.limits_per_key = Limits { requests_per_minute: Some(3), ..Limits::default() };
    let gateway = Running::start(config(vec![limited]));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let response = gateway.post(&chat("hello")).await;
        statuses.push(response.status().as_u16());
        if response.status() == 200 {
            assert_eq!(response.headers()["x-ratelimit-limit-requests"], "3");
        } else {
            assert!(response.headers().contains_key("retry-after"));
        }
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(engines[0].stats().received, 3);
}

#[tokio::test]
async fn tokens_are_reserved_and_settled_by_what_was_really_used() {
    let engines = engines(1).await;
    let mut limited = service(&engines);
    limited.limits_per_key = Limits { tokens_per_minute: Some(1000), ..Limits::default() };
    let gateway = Running::start(config(vec![limited]));
    let ask = |tokens: u32| {
        let mut body = chat("hello");
        body["max_tokens"] = tokens.into();
        body
    };
    // Each asks for 900 and uses about 20: after the first has settled there is room again.
    for _ in 0..3 {
        assert_eq!(gateway.ask(&ask(900)).await.0, 200);
        gateway.idle().await;
    }
    let (status, error) = gateway.ask(&ask(2000)).await;
    assert_eq!((status, error["error"]["code"].as_str()), (429, Some("rate_limit_exceeded")));
}

fn sha256(text: &str) -> String {
    let record = wharf_access::keys::KeyRecord::of_secret(text, "x");
    record.sha256()
}
