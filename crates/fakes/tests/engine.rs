//! The fake engine over real sockets, with a client that shows what came over the wire.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wharf_fakes::engine::{EngineConfig, FakeEngine, Fault, Health, Outcome, Target};

const SOON: Duration = Duration::from_secs(20);

/// What came over the wire, and how it ended.
struct Answer {
    text: String,
    end: io::Result<()>,
}

impl Answer {
    fn status(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or("")
    }

    fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.body()).unwrap()
    }
}

async fn open(engine: &FakeEngine, path: &str, body: Option<&Value>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(engine.address()).await?;
    let body = body.map(Value::to_string);
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: fake\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

async fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap().map(drop);
    Answer { text: String::from_utf8(bytes).unwrap(), end }
}

async fn get(engine: &FakeEngine, path: &str) -> Answer {
    read(open(engine, path, None).await.unwrap()).await
}

async fn chat(engine: &FakeEngine, stream: bool) -> Answer {
    let body =
        json!({"model": "fake-model", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
    read(open(engine, "/v1/chat/completions", Some(&body)).await.unwrap()).await
}

async fn start(change: impl FnOnce(&mut EngineConfig)) -> FakeEngine {
    let mut config = EngineConfig { tokens: 3, ..EngineConfig::default() };
    change(&mut config);
    FakeEngine::start(config).await.unwrap()
}

#[tokio::test]
async fn answers_are_openais_and_are_recorded() {
    let engine = start(|_| {}).await;
    let answer = chat(&engine, false).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "w0 w1 w2 ");
    assert_eq!(answer["usage"]["total_tokens"], 5);
    let streamed = chat(&engine, true).await;
    assert!(streamed.body().contains("data: [DONE]\n\n"));
    assert!(streamed.text.contains("x-fake-engine: fake"));
    let stats = engine.until(|stats| stats.answered == 2 && stats.open_connections == 0).await;
    assert_eq!((stats.received, stats.connections, stats.in_flight), (2, 2, 0));
    assert_eq!((stats.prompt_tokens, stats.generated_tokens), (4, 6));
    assert_eq!(engine.requests()[0].json()["stream"], false);
    assert_eq!(engine.requests()[0].header("host"), "fake");
    let embedding = json!({"input": ["a", "b"]});
    let embedding = read(open(&engine, "/v1/embeddings", Some(&embedding)).await.unwrap()).await.json();
    assert_eq!(embedding["data"][1]["index"], 1);
    let tokens =
        read(open(&engine, "/tokenize", Some(&json!({"prompt": "a b"}))).await.unwrap()).await.json();
    assert_eq!(tokens["count"], 2);
    assert_eq!(get(&engine, "/v1/models").await.json()["data"][0]["id"], "fake-model");
    assert!(get(&engine, "/metrics").await.body().contains("finished_reason=\"stop\"} 3"));
}

#[tokio::test]
async fn usage_is_streamed_when_asked_for() {
    let engine = start(|config| config.block_tokens = 2).await;
    let body = json!({"prompt": "a b c", "stream": true, "stream_options": {"include_usage": true}});
    for cached in [0, 2] {
        let answer = read(open(&engine, "/v1/completions", Some(&body)).await.unwrap()).await;
        assert!(answer.body().contains(&format!("\"cached_tokens\":{cached}")), "{}", answer.body());
    }
}

#[tokio::test]
async fn requests_beyond_the_slots_wait_and_beyond_the_queue_are_refused() {
    let engine = start(|config| (config.slots, config.queue) = (1, 1)).await;
    engine.fail_next(1, Target::Generation, Fault::StallAfter(1));
    let stalled = tokio::spawn({
        let engine = engine.clone();
        async move {
            open(&engine, "/v1/completions", Some(&json!({"prompt": "a", "stream": true}))).await.unwrap()
        }
    });
    let stalled = stalled.await.unwrap();
    engine.until(|stats| stats.running == 1).await;
    let waiting = open(&engine, "/v1/completions", Some(&json!({"prompt": "a"}))).await.unwrap();
    engine.until(|stats| stats.waiting == 1).await;
    let refused = chat(&engine, false).await;
    assert_eq!(refused.status(), "429");
    assert!(refused.text.contains("retry-after: 1"));
    let metrics = get(&engine, "/metrics").await;
    assert!(metrics.body().contains("vllm:num_requests_waiting{model_name=\"fake-model\"} 1\n"));
    drop(stalled);
    assert_eq!(read(waiting).await.status(), "200");
    let stats = engine.until(|stats| stats.in_flight == 0).await;
    assert_eq!((stats.abandoned, stats.answered, stats.most_running, stats.most_in_flight), (1, 2, 1, 3));
}

#[tokio::test]
async fn each_fault_looks_on_the_wire_as_its_name_says() {
    let engine = start(|_| {}).await;
    let faulty = async |fault: Fault, stream: bool| {
        engine.fail_next(1, Target::Generation, fault);
        timeout(SOON, chat(&engine, stream)).await.unwrap()
    };
    let reset = faulty(Fault::ResetAfter(2), true).await;
    assert_eq!(reset.end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(reset.text.contains("w1 ") && !reset.text.contains("w2 "), "{}", reset.text);
    let cut = faulty(Fault::TruncateAfter(2), true).await;
    assert!(cut.end.is_ok() && cut.text.contains("w1 ") && !cut.text.ends_with("0\r\n\r\n"), "{}", cut.text);
    let half = faulty(Fault::TruncateAfter(1), false).await;
    assert!(serde_json::from_str::<Value>(half.body()).is_err() && half.body().starts_with("{\"id\""));
    let ended = faulty(Fault::EndAfter(1), true).await;
    assert!(ended.text.ends_with("0\r\n\r\n") && !ended.text.contains("[DONE]"));
    let reset = faulty(Fault::ResetBeforeHead, true).await;
    assert_eq!((reset.text.as_str(), reset.end.is_err()), ("", true));
    let closed = faulty(Fault::CloseBeforeHead, false).await;
    assert_eq!((closed.text.as_str(), closed.end.is_ok()), ("", true));
    let refused = faulty(Fault::Status { code: 503, retry_after: Some(7) }, false).await;
    assert_eq!(refused.status(), "503");
    assert!(refused.text.contains("retry-after: 7"));
    let long = faulty(Fault::WrongLength(10), false).await;
    assert!(long.text.contains(&format!("content-length: {}", long.body().len() + 10)), "{}", long.text);
    let short = faulty(Fault::WrongLength(-10), false).await;
    assert!(short.text.contains(&format!("content-length: {}", short.body().len())));
    let slow = faulty(Fault::Trickle { bytes: 40, pause: Duration::from_millis(1) }, false).await;
    assert_eq!(slow.json()["object"], "chat.completion");
    let malformed = faulty(Fault::MalformedAfter(1), true).await;
    assert!(malformed.text.contains("data: {\"choices\": [\n\n") && malformed.text.contains("[DONE]"));
    let good = chat(&engine, false).await;
    assert_eq!(good.status(), "200");
    let stats = engine.until(|stats| stats.in_flight == 0).await;
    assert_eq!((stats.cut, stats.abandoned), (6, 0));
}

#[tokio::test]
async fn probes_follow_the_health_that_is_set() {
    let engine = start(|config| config.health = Health::Flapping { good: 1, bad: 2 }).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(get(&engine, "/health").await.status().to_owned());
    }
    assert_eq!(seen, ["200", "503", "503", "200"]);
    engine.configure(|config| config.health = Health::Good);
    engine.drain();
    assert_eq!(get(&engine, "/health").await.status(), "200");
    assert_eq!(get(&engine, "/ready").await.status(), "503");
    engine.fail_next(1, Target::Probes, Fault::status(500));
    assert_eq!(get(&engine, "/health").await.status(), "500");
}

#[tokio::test]
async fn a_closed_port_refuses_and_opens_again_where_it_was() {
    let engine = start(|_| {}).await;
    engine.refuse().await;
    let refused = open(&engine, "/health", None).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    engine.heal().await.unwrap();
    assert_eq!(get(&engine, "/health").await.status(), "200");
    engine.close_new_connections();
    let stream = open(&engine, "/health", None).await;
    if let Ok(stream) = stream {
        assert_eq!(read(stream).await.text, "");
    }
}

#[tokio::test]
async fn a_killed_engine_resets_streams_and_a_stopped_one_ends_them() {
    let engine = start(|config| config.itl = Duration::from_millis(20)).await;
    engine.fail_next(1, Target::Generation, Fault::StallAfter(1));
    let stream =
        open(&engine, "/v1/completions", Some(&json!({"prompt": "a", "stream": true}))).await.unwrap();
    engine.until(|stats| stats.generated_tokens == 1).await;
    engine.kill().await;
    assert_eq!(read(stream).await.end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(engine.requests()[0].outcome, Outcome::Cut);
    engine.heal().await.unwrap();
    let stream =
        open(&engine, "/v1/completions", Some(&json!({"prompt": "a", "stream": true}))).await.unwrap();
    engine.until(|stats| stats.generated_tokens == 2).await;
    engine.stop().await;
    assert!(read(stream).await.text.contains("[DONE]"));
    assert_eq!(engine.requests()[1].outcome, Outcome::Answered { status: 200 });
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken() {
    let engine = start(|_| {}).await;
    let mut stream = TcpStream::connect(engine.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    timeout(SOON, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
}
