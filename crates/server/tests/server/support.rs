//! A server with a tiny model, an engine whose steps a test can hold back, and clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wharf_api::ServeConfig;
use wharf_engine::cpu::{CpuBackend, CpuOptions};
use wharf_engine::{Backend, BackendError, Chunk, EngineConfig, EngineHandle, Logits, Speculation};
use wharf_model::open::Source;
use wharf_model::{ChatTemplate, Model, Tokenizer};
use wharf_server::{Addresses, Loaded, ServeError, Server};
use wharf_telemetry::trace::Tracer;
use wharf_testkit::TinyModel;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How many steps the engine may take; tests hold it back to see a state that would pass too quickly.
#[derive(Clone)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Clone, Copy)]
struct GateState {
    open: bool,
    panic: bool,
}

impl Gate {
    pub(crate) fn open() -> Gate {
        Gate(Arc::new((Mutex::new(GateState { open: true, panic: false }), Condvar::new())))
    }

    fn change(&self, state: GateState) {
        *self.0.0.lock().unwrap() = state;
        self.0.1.notify_all();
    }

    /// The engine stops before its next step.
    pub(crate) fn close(&self) {
        self.change(GateState { open: false, panic: false });
    }

    /// The engine goes on.
    pub(crate) fn release(&self) {
        self.change(GateState { open: true, panic: false });
    }

    /// The engine panics in its next step.
    pub(crate) fn explode(&self) {
        self.change(GateState { open: true, panic: true });
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        while !state.open {
            state = self.0.1.wait(state).unwrap();
        }
        let panic = state.panic;
        drop(state);
        assert!(!panic, "the test asked for a panic");
    }
}

struct Gated {
    inner: CpuBackend,
    gate: Gate,
}

impl Backend for Gated {
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }
    fn kv_blocks(&self) -> usize {
        self.inner.kv_blocks()
    }
    fn max_batch_tokens(&self) -> usize {
        self.inner.max_batch_tokens()
    }
    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        self.gate.pass();
        self.inner.forward(chunks, logits)
    }
}

/// A tiny model in an engine.
pub(crate) fn tiny(gate: &Gate, engine: EngineConfig) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    TinyModel::default().write(&path).unwrap();
    let model = Model::open(&path).unwrap();
    let Source::Gguf(metadata) = &model.source else { panic!("a GGUF file") };
    let tokenizer = Tokenizer::from_gguf(metadata).unwrap();
    let chat_template = ChatTemplate::from_gguf(metadata).unwrap();
    let defaults = model.generation.clone();
    let options = CpuOptions { threads: 1, kv_tokens: 16 * 512, ..CpuOptions::default() };
    let inner = CpuBackend::load(model, &options, &mut |_, _| {}).unwrap();
    let backend = Gated { inner, gate: gate.clone() };
    let engine = wharf_engine::start(Box::new(backend), engine).unwrap();
    Loaded::new(engine, tokenizer, chat_template, defaults)
}

pub(crate) fn engine_config() -> EngineConfig {
    EngineConfig {
        max_model_len: 512,
        max_running: 32,
        max_batch_tokens: 256,
        prefill_tokens_while_decoding: 64,
        inter_token_latency_target: None,
        max_waiting: 64,
        prefix_caching: true,
        speculation: Speculation::Off,
    }
}

/// Any free ports, on the loopback interface.
pub(crate) fn config() -> ServeConfig {
    ServeConfig {
        host: "127.0.0.1".to_owned(),
        port: 0,
        https_port: 0,
        metrics_port: 0,
        model_name: Some("tiny".to_owned()),
        temperature: Some(0.0),
        ..ServeConfig::default()
    }
}

pub(crate) struct Running {
    pub(crate) at: Addresses,
    pub(crate) gate: Gate,
    pub(crate) engine: EngineHandle,
    shutdown: Option<oneshot::Sender<()>>,
    pub(crate) done: JoinHandle<Result<(), ServeError>>,
    pub(crate) client: reqwest::Client,
}

/// A running server with the given configuration.
pub(crate) async fn start_with(config: ServeConfig, engine: EngineConfig) -> Running {
    start_traced(config, engine, Tracer::default()).await
}

/// The same, with traces.
pub(crate) async fn start_traced(config: ServeConfig, engine: EngineConfig, tracer: Tracer) -> Running {
    let gate = Gate::open();
    let loaded = tiny(&gate, engine);
    let engine = loaded.engine.clone();
    let server = Server::bind_traced(config, tracer).await.unwrap();
    let at = server.addresses();
    let (shutdown, told) = oneshot::channel();
    let done = tokio::spawn(server.serve(async move { Ok(loaded) }, async move {
        let _ = told.await;
    }));
    let running =
        Running { at, gate, engine, shutdown: Some(shutdown), done, client: reqwest::Client::new() };
    until(|| async { running.get("/ready").await.status() == 200 }).await;
    running
}

pub(crate) async fn start() -> Running {
    start_with(config(), engine_config()).await
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at.http)
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    /// Status and JSON.
    pub(crate) async fn ask(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.post(path, &body).await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// JSON of an answer that must be 200.
    pub(crate) async fn ok(&self, path: &str, body: Value) -> Value {
        let (status, json) = self.ask(path, body).await;
        assert_eq!(status, 200, "{json}");
        json
    }

    /// The events of a stream.
    pub(crate) async fn events(&self, path: &str, body: Value) -> Vec<String> {
        let response = self.post(path, &body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        events_of(&response.text().await.unwrap())
    }

    /// Tells the server to drain.
    pub(crate) fn shut_down(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
    }
}

pub(crate) fn events_of(text: &str) -> Vec<String> {
    text.split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap_or(event).to_owned())
        .collect()
}

/// Waits for a condition that must come true.
pub(crate) async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition comes true");
}

/// A raw HTTP/1.1 exchange: sends `bytes`, returns what comes until the server closes.
pub(crate) async fn raw(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_all(&mut stream).await
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the server closes")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A chat request with one user message; further fields are merged in.
pub(crate) fn chat(more: Value) -> Value {
    merged(json!({"messages": [{"role": "user", "content": "the other one"}], "max_tokens": 12}), more)
}

/// A completion request; further fields are merged in.
pub(crate) fn completion(more: Value) -> Value {
    merged(json!({"prompt": "in the end", "max_tokens": 12}), more)
}

fn merged(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}
