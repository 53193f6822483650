//! Loading, draining, ending.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use wharf_server::{ServeError, Server};

use super::support::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[tokio::test]
async fn probes_fail_while_the_model_loads() {
    let server = Server::bind(config()).await.unwrap();
    let at = server.addresses();
    let (finish, loaded) = oneshot::channel();
    let (stop, told) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        async move {
            loaded.await.unwrap();
            Ok(tiny(&Gate::open(), engine_config()))
        },
        async move { told.await.unwrap() },
    ));
    let client = reqwest::Client::new();
    for port in [at.http, at.metrics] {
        for path in ["/health", "/ready"] {
            let response = client.get(format!("http://{port}{path}")).send().await.unwrap();
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
        }
    }
    let early =
        client.post(format!("http://{}{TEXT}", at.http)).json(&completion(json!({}))).send().await.unwrap();
    assert_eq!(early.status(), 503);
    finish.send(()).unwrap();
    until(|| async { client.get(format!("http://{}/ready", at.http)).send().await.unwrap().status() == 200 })
        .await;
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_model_that_does_not_load_ends_the_server_with_its_error() {
    let server = Server::bind(config()).await.unwrap();
    let failed = server.serve(async { Err("no such file".into()) }, std::future::pending()).await;
    let Err(ServeError::Load(cause)) = failed else { panic!("{failed:?}") };
    assert_eq!(cause.to_string(), "no such file");
}

#[tokio::test]
async fn stopping_while_loading_is_no_error() {
    let server = Server::bind(config()).await.unwrap();
    server.serve(std::future::pending(), async {}).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let first = Server::bind(config()).await.unwrap();
    let mut second = config();
    second.port = first.addresses().http.port();
    let Err(error) = Server::bind(second).await.map(drop) else { panic!("the port is taken") };
    assert!(error.to_string().contains(&first.addresses().http.port().to_string()), "{error}");
}

#[tokio::test]
async fn a_drain_lets_16_streams_finish_and_refuses_new_requests() {
    let mut server = start().await;
    server.gate.close();
    let mut streams = Vec::new();
    for i in 0..16 {
        let prompt = format!("the end {i}");
        let body =
            completion(json!({"prompt": prompt, "stream": true, "max_tokens": 50, "ignore_eos": true}));
        let response = server.post(TEXT, &body).await;
        assert_eq!(response.status(), 200);
        streams.push(tokio::spawn(response.text()));
    }
    server.shut_down();
    until(|| async { server.get("/ready").await.status() == 503 }).await;
    assert_eq!(server.get("/health").await.status(), 200);
    let refused = server.post(TEXT, &completion(json!({}))).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["connection"], "close");
    assert!(refused.headers().contains_key("retry-after"));
    assert!(!server.done.is_finished());
    server.gate.release();
    for stream in streams {
        let events = events_of(&stream.await.unwrap().unwrap());
        assert_eq!(events.last().unwrap(), "[DONE]");
        let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "length");
    }
    tokio::time::timeout(PATIENCE, server.done).await.unwrap().unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(server.at.http).await.is_err());
}

#[tokio::test]
async fn after_the_grace_period_streams_end_with_an_error_event() {
    let mut config = config();
    config.drain_grace_seconds = 0.1;
    let mut server = start_with(config, engine_config()).await;
    server.gate.close();
    let stream = server.post(TEXT, &completion(json!({"stream": true}))).await;
    let whole = {
        let request = server.client.post(server.url(TEXT)).json(&completion(json!({})));
        tokio::spawn(request.send())
    };
    until(|| async { server.engine.snapshot().running + server.engine.snapshot().waiting == 2 }).await;
    server.shut_down();
    let events = events_of(&stream.text().await.unwrap());
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "unavailable", "{events:?}");
    assert_eq!(whole.await.unwrap().unwrap().status(), 503);
    server.gate.release();
    tokio::time::timeout(PATIENCE, server.done).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_waits_for_an_answer_that_is_not_yet_written() {
    let mut server = start().await;
    let more = json!({"n": 60, "max_tokens": 80, "ignore_eos": true, "logprobs": true, "top_logprobs": 20});
    let body = chat(more).to_string();
    // Little fits on the way, so most of the answer stays in the server while the client does not read.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(server.at.http).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    client.readable().await.unwrap();
    server.shut_down();
    // Longer than connections get to end once the drain is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!server.done.is_finished());
    let answer = read_all(&mut client).await;
    let (_, json) = answer.split_once("\r\n\r\n").unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["choices"][59]["finish_reason"], "length");
    tokio::time::timeout(PATIENCE, server.done).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn two_servers_do_not_disturb_each_other() {
    let mut first = start().await;
    let second = Arc::new(start().await);
    let answers = tokio::spawn({
        let second = Arc::clone(&second);
        async move {
            for _ in 0..10 {
                second.ok(TEXT, completion(json!({}))).await;
            }
        }
    });
    first.ok(TEXT, completion(json!({}))).await;
    first.shut_down();
    first.done.await.unwrap().unwrap();
    answers.await.unwrap();
}
