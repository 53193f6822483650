//! How requests find their service, and what passes through.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::ServiceConfig;

use crate::support::{PATIENCE, Running, chat, config, engines, service, streamed};

#[tokio::test]
async fn an_answer_comes_through_as_the_engine_gave_it() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let (status, answer) = gateway.ask(&chat("hello")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    let received = &engines[0].generation_requests()[0];
    assert_eq!(received.json(), chat("hello"));
    assert_eq!(received.header("x-request-id").len(), 32);
    gateway.idle().await;
}

#[tokio::test]
async fn the_model_in_the_body_selects_the_service() {
    let mut services = Vec::new();
    let mut engines = Vec::new();
    for name in ["one", "two"] {
        let model = EngineConfig { model: name.to_owned(), ..EngineConfig::named(name) };
        let engine = FakeEngine::start(model).await.unwrap();
        services.push(ServiceConfig::new(format!("demo/{name}"), [engine.address().to_string()]));
        engines.push(engine);
    }
    let gateway = Running::start(config(services));
    for (name, engine) in ["one", "two"].iter().zip(&engines) {
        let (status, _) = gateway.ask(&json!({"messages": [], "model": name})).await;
        assert_eq!((status, engine.stats().received), (200, 1));
    }
    let (status, error) = gateway.ask(&json!({"messages": [], "model": "three"})).await;
    assert_eq!((status, error["error"]["code"].as_str()), (404, Some("model_not_found")));
    let models = gateway.client.get(gateway.url("/v1/models")).send().await.unwrap();
    let models: serde_json::Value = models.json().await.unwrap();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(names, ["one", "two"]);
}

#[tokio::test]
async fn a_host_selects_the_service_too() {
    let engines = engines(1).await;
    let mut hosted = service(&engines);
    hosted.hosts = vec!["assistant.demo.svc".to_owned()];
    hosted.models = vec!["other".to_owned()];
    let gateway = Running::start(config(vec![hosted]));
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).json(&chat("hello"));
    let response = request.header("host", "Assistant.demo.svc:80").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(gateway.ask(&chat("hello")).await.0, 404);
}

#[tokio::test]
async fn every_path_passes_through_and_query_strings_stay() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let body = json!({"model": "fake-model", "input": "text", "prompt": "text"});
    for path in ["/v1/embeddings?x=1", "/tokenize", "/v1/completions"] {
        let response = gateway.client.post(gateway.url(path)).json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
    }
    assert_eq!(engines[0].generation_requests()[0].path, "/v1/embeddings?x=1");
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_words() {
    let engines = engines(1).await;
    let mut config = config(vec![service(&engines)]);
    config.max_body_bytes = 10_000;
    let gateway = Running::start(config);
    let send = async |body: &str| {
        let request = gateway.client.post(gateway.url("/v1/chat/completions")).body(body.to_owned());
        let response = request.header("content-type", "application/json").send().await.unwrap();
        let status = response.status().as_u16();
        let error: serde_json::Value = response.json().await.unwrap();
        (status, error["error"]["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(send("{").await, (400, "the body ends before its JSON object does".to_owned()));
    assert_eq!(send(r#"{"model":"a","model":"b"}"#).await, (400, "model is given twice".to_owned()));
    assert_eq!(send(&"x".repeat(20_000)).await.0, 413);
    assert_eq!(engines[0].stats().received, 0);
}

#[tokio::test]
async fn a_conversation_stays_where_its_prefix_is_and_others_spread() {
    let engines = engines(4).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let mut messages = vec![json!({"role": "system", "content": "be brief. ".repeat(100)})];
    for turn in 0..5 {
        messages.push(json!({"role": "user", "content": format!("question {turn}")}));
        let (status, _) = gateway.ask(&json!({"model": "fake-model", "messages": messages})).await;
        assert_eq!(status, 200);
        messages.push(json!({"role": "assistant", "content": "an answer"}));
    }
    let served: Vec<usize> = engines.iter().map(|engine| engine.stats().received).collect();
    assert_eq!(served.iter().filter(|count| **count > 0).count(), 1, "{served:?}");
    for other in 0..12 {
        gateway.ask(&chat(&format!("{other}").repeat(300))).await;
    }
    let served: Vec<usize> = engines.iter().map(|engine| engine.stats().received).collect();
    assert!(served.iter().all(|count| *count >= 2), "{served:?}");
}

#[tokio::test]
async fn http2_clients_share_one_connection() {
    let engines = engines(2).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let requests =
        (0..20).map(|_| client.post(gateway.url("/v1/chat/completions")).json(&streamed("hi")).send());
    for response in futures_util::future::join_all(requests).await {
        let response = response.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
        assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
}

/// Sends pieces, each after a while, and reads until the gateway closes.
async fn in_pieces(gateway: &Running, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway.addresses.http).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(30)).await;
    }
    let mut answer = Vec::new();
    // A connection that is cut off may be reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the gateway closes it");
    answer
}

#[tokio::test]
async fn the_protocol_is_found_out_however_its_first_bytes_come() {
    let mut config = config(vec![service(&engines(1).await)]);
    config.timeouts.header = 0.3;
    let gateway = Running::start(config);
    let rest = b"T /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = in_pieces(&gateway, &[b"G", b"E", rest]).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    // Begins as HTTP/2's preface does, and is a method that nobody has.
    let answer =
        in_pieces(&gateway, &[b"P", b"RINT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"]).await;
    assert!(answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&answer));
    // The preface and empty settings; the answer is a frame of settings (type 4).
    let answer = in_pieces(&gateway, &[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"]).await;
    assert_eq!(answer.get(3), Some(&4), "{answer:?}");
    for nothing in [&b""[..], b"PRI * HTT"] {
        assert_eq!(in_pieces(&gateway, &[nothing]).await, b"", "who says nothing in time gets nothing");
    }
}

#[tokio::test]
async fn a_gateway_that_stops_lets_answers_end_and_takes_nothing_new() {
    let engines = engines(1).await;
    engines[0].configure(|config| config.itl = Duration::from_millis(30));
    let gateway = Running::start(config(vec![service(&engines)]));
    let mut response = gateway.post(&streamed("hello")).await;
    let first = response.chunk().await.unwrap().unwrap();
    let stopping = tokio::spawn(gateway.stop());
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    while let Some(piece) = response.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    stopping.await.unwrap();
}
