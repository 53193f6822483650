//! Requests that are broken, too large, too slow or not allowed: each gets its error, and others go on.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf_api::config::{ByteSize, Secret};

use super::support::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

async fn refused(server: &Running, path: &str, body: Value, status: u16, code: Value, param: Value) {
    let (got, error) = server.ask(path, body).await;
    let error = &error["error"];
    assert_eq!((got, &error["code"], &error["param"]), (status, &code, &param), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert!(error["type"].is_string());
}

#[tokio::test]
async fn wrong_requests_get_errors_that_name_the_field() {
    let server = start().await;
    let none = Value::Null;
    refused(&server, CHAT, chat(json!({"max_tokens": -5})), 400, none.clone(), json!("max_tokens")).await;
    refused(&server, CHAT, chat(json!({"temperature": "hot"})), 400, none.clone(), json!("temperature"))
        .await;
    refused(&server, CHAT, json!({}), 400, none.clone(), json!("messages")).await;
    let long = "word ".repeat(2000);
    let exceeded = json!("context_length_exceeded");
    let messages = json!({"messages": [{"role": "user", "content": long}]});
    refused(&server, CHAT, messages, 400, exceeded.clone(), json!("messages")).await;
    refused(&server, TEXT, completion(json!({"prompt": long})), 400, exceeded.clone(), json!("prompt")).await;
    refused(&server, TEXT, completion(json!({"max_tokens": 9999})), 400, exceeded, json!("prompt")).await;
    refused(&server, TEXT, completion(json!({"prompt": [999999]})), 400, none.clone(), json!("prompt")).await;
    refused(&server, TEXT, completion(json!({"prompt": ""})), 400, none.clone(), json!("prompt")).await;
    let bias = completion(json!({"logit_bias": {"999999": 1}}));
    refused(&server, TEXT, bias, 400, none.clone(), json!("logit_bias")).await;
    let stop = completion(json!({"stop_token_ids": [999999]}));
    refused(&server, TEXT, stop, 400, none, json!("stop_token_ids")).await;
    let many = completion(json!({"stop_token_ids": vec![0; 1 << 20], "n": 128}));
    refused(&server, TEXT, many, 400, Value::Null, json!("stop_token_ids")).await;
    let format = chat(json!({"response_format": {"type": "json_schema"}}));
    refused(&server, CHAT, format, 400, json!("unsupported"), json!("response_format")).await;
    assert_eq!(server.engine.snapshot().running, 0);
}

#[tokio::test]
async fn broken_bytes_get_errors_and_the_server_goes_on() {
    let server = start().await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: Vec<(&[u8], &str)> = vec![
        (b"{\"messages\": [", "invalid_json"),
        (b"", "invalid_json"),
        (b"\xff\xfe", "invalid_utf8"),
        (b"{\"model\": \"\xc3\x28\"}", "invalid_utf8"),
        (deep.as_bytes(), "invalid_json"),
        (b"[1, 2]", "invalid_json"),
        (b"{} {}", "invalid_json"),
    ];
    for path in [CHAT, TEXT, "/tokenize", "/detokenize"] {
        for (body, code) in &bodies {
            let request = server.client.post(server.url(path)).body(body.to_vec());
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 400);
            let error: Value = response.json().await.unwrap();
            let found = error["error"]["code"].as_str();
            // The first thing that is wrong may be the missing field.
            assert!(found == Some(*code) || found.is_none(), "{path} {error}");
        }
    }
    server.ok(CHAT, chat(json!({}))).await;
}

#[tokio::test]
async fn unknown_paths_and_methods_get_json_errors() {
    let server = start().await;
    let response = server.get("/nowhere").await;
    assert_eq!(response.status(), 404);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["code"], "not_found");
    let response = server.get(CHAT).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "method_not_allowed");
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_by_announced_and_by_real_size() {
    let server = start().await;
    let announced = server.client.post(server.url(CHAT)).body(vec![b' '; 100 << 20]).send().await.unwrap();
    assert_eq!(announced.status(), 413);
    let error: Value = announced.json().await.unwrap();
    assert_eq!(error["error"]["code"], "request_too_large");
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
    let chunked =
        server.client.post(server.url(CHAT)).body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(chunked.status(), 413);
    server.ok(CHAT, chat(json!({}))).await;
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_too_much_is_told_at_once() {
    let server = start().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100000000\r\n\r\n"
    );
    let answer = raw(server.at.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("request_too_large"), "{answer}");
}

#[tokio::test]
async fn slow_clients_are_cut_off_while_others_are_served() {
    let mut config = config();
    config.header_timeout_seconds = 0.3;
    config.body_timeout_seconds = 0.3;
    let server = start_with(config, engine_config()).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{\"a");
    let silent = raw(server.at.http, b"");
    let half_a_header = raw(server.at.http, b"GET /health HTTP/1.1\r\nhos");
    let half_a_preface = raw(server.at.http, b"PRI * HTT");
    let half_a_body = raw(server.at.http, head.as_bytes());
    let other = server.ok(CHAT, chat(json!({})));
    let (silent, header, preface, body, _) =
        tokio::join!(silent, half_a_header, half_a_preface, half_a_body, other);
    assert_eq!((silent.as_str(), preface.as_str()), ("", ""));
    assert!(header.is_empty() || header.contains(" 408 "), "{header}");
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("request_timeout"), "{body}");
}

#[tokio::test]
async fn keys_are_required_except_for_probes() {
    let mut config = config();
    config.api_key = Some(Secret::new("sk-test".to_owned()));
    let server = start_with(config, engine_config()).await;
    for path in ["/health", "/ready", "/metrics", "/version", "/ping"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
    for path in ["/v1/models", "/load", "/nowhere"] {
        let response = server.get(path).await;
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "invalid_api_key");
    }
    let with = |key: &str| server.client.get(server.url("/v1/models")).bearer_auth(key).send();
    assert_eq!(with("sk-test").await.unwrap().status(), 200);
    assert_eq!(with("sk-tes").await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_full_queue_answers_429_with_retry_after() {
    let engine = wharf_engine::EngineConfig { max_running: 1, max_waiting: 2, ..engine_config() };
    let server = start_with(config(), engine).await;
    server.gate.close();
    let body = completion(json!({}));
    let mut asked = Vec::new();
    let mut refused = None;
    // One may run and two wait; which of them the engine has taken up already is its affair.
    while refused.is_none() {
        let waiting = server.engine.snapshot();
        let request = server.client.post(server.url(TEXT)).json(&body);
        let sent = tokio::spawn(request.send());
        until(|| async {
            let now = server.engine.snapshot();
            sent.is_finished() || now.running + now.waiting > waiting.running + waiting.waiting
        })
        .await;
        match sent.is_finished() {
            true => refused = Some(sent.await.unwrap().unwrap()),
            false => asked.push(sent),
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "queue_full");
    assert!((2..=4).contains(&asked.len()), "{}", asked.len());
    // What was refused has not been aborted.
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(!metrics.contains("finished_reason=\"abort\""), "{metrics}");
    server.gate.release();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_request_that_can_never_fit_the_queue_is_told_so_and_not_to_try_again() {
    let mut config = config();
    config.max_waiting = 7;
    let server = start_with(config, engine_config()).await;
    let prompts = json!(["a", "b"]);
    let eight = completion(json!({"prompt": prompts, "n": 4}));
    refused(&server, TEXT, eight, 400, Value::Null, json!("n")).await;
    refused(&server, CHAT, chat(json!({"n": 8})), 400, Value::Null, json!("n")).await;
    server.ok(TEXT, completion(json!({"prompt": prompts, "n": 3}))).await;
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let mut config = config();
    config.max_connections = 3;
    config.max_body_bytes = ByteSize(2048);
    let server = start_with(config, engine_config()).await;
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = TcpStream::connect(server.at.http).await.unwrap();
        stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        match &start {
            b"HTTP/1.1 200" => held.push(stream),
            _ => break format!("{}{}", String::from_utf8_lossy(&start), read_all(&mut stream).await),
        }
    };
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head} but {}", body.len());
    assert!(serde_json::from_str::<Value>(body).is_ok(), "{body}");
    assert!(held.len() <= 3);
    // The metrics port is not limited.
    let response =
        raw(server.at.metrics, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}
