//! A client that sends a body as slowly as it likes, and a model server that reads it only when it may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::timeout;
use wharf_gateway::config::EndpointConfig;
use wharf_gateway::{GatewayConfig, ServiceConfig};

use crate::support::{PATIENCE, Running, config};

/// Bytes of a body after which it passes while it arrives, in these tests.
pub(crate) const KEPT: usize = 64 << 10;

/// The version that the model server belongs to.
const COLOUR: &str = "blue";

/// Requests that the model server has failed, as releases are judged.
pub(crate) fn blamed(gateway: &Running) -> u64 {
    let versions = &gateway.handle.demand().services["demo/fake-model"].versions;
    versions.get(COLOUR).map_or(0, |counts| counts.failed)
}

/// The configuration of these tests for a model server at this address.
pub(crate) fn passing(address: &str) -> GatewayConfig {
    let mut service = ServiceConfig::new("demo/fake-model", Vec::<String>::new());
    service.endpoints = vec![EndpointConfig::Full(wharf_routing::Endpoint::ready(address, COLOUR))];
    let mut config = config(vec![service]);
    config.body_buffer_bytes = KEPT;
    // On a busy machine nobody is given up unless a test means it.
    config.timeouts.answer = 60.0;
    config.timeouts.first_byte = 60.0;
    config.timeouts.idle = 60.0;
    config.polling.timeout = 60.0;
    config
}

/// A body that names its model at the beginning, with a prompt of so many bytes.
pub(crate) fn model_first(bytes: usize, last: &str) -> String {
    let prompt = "x".repeat(bytes);
    format!(r#"{{"model":"fake-model","messages":[{{"role":"user","content":"{prompt}"}}]{last}}}"#)
}

/// What a model server has seen of bodies.
#[derive(Default)]
pub(crate) struct Seen {
    bytes: AtomicUsize,
    whole: AtomicUsize,
    broken: AtomicUsize,
    last: Mutex<Vec<u8>>,
}

impl Seen {
    /// Bytes of all.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Bodies that ended as they should.
    pub(crate) fn whole(&self) -> usize {
        self.whole.load(Ordering::SeqCst)
    }

    /// Bodies that broke off.
    pub(crate) fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }

    /// The last whole body.
    pub(crate) fn last(&self) -> Vec<u8> {
        self.last.lock().unwrap().clone()
    }
}

/// A model server that counts what it reads.
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) seen: Arc<Seen>,
    reads: watch::Sender<bool>,
}

impl Endpoint {
    /// One that reads from the beginning.
    pub(crate) async fn reading() -> Endpoint {
        let endpoint = Endpoint::idle().await;
        endpoint.read();
        endpoint
    }

    /// One that takes requests and reads nothing of their bodies until it is told to.
    pub(crate) async fn idle() -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, reads) = (Arc::new(Seen::default()), watch::Sender::new(false));
        let answer = {
            let (seen, reads) = (Arc::clone(&seen), reads.clone());
            move |request: Request| answer(Arc::clone(&seen), reads.subscribe(), request)
        };
        let app = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Endpoint { address, seen, reads }
    }

    /// Reads from now on.
    pub(crate) fn read(&self) {
        self.reads.send_replace(true);
    }
}

async fn answer(
    seen: Arc<Seen>,
    mut reads: watch::Receiver<bool>,
    request: Request,
) -> axum::Json<serde_json::Value> {
    if request.method() == http::Method::GET {
        return axum::Json(json!({}));
    }
    let mut ends = Ends { seen: &seen, whole: false };
    reads.wait_for(|reads| *reads).await.unwrap();
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return axum::Json(json!({})) };
        if let Ok(piece) = frame.into_data() {
            seen.bytes.fetch_add(piece.len(), Ordering::SeqCst);
            bytes.extend_from_slice(&piece);
        }
    }
    ends.whole = true;
    *seen.last.lock().unwrap() = bytes;
    axum::Json(json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}))
}

/// Counts how a body ended, also if the connection is lost.
struct Ends<'a> {
    seen: &'a Seen,
    whole: bool,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let count = if self.whole { &self.seen.whole } else { &self.seen.broken };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// A client in the middle of a request.
pub(crate) struct Client {
    pub(crate) sends: OwnedWriteHalf,
    reads: OwnedReadHalf,
}

impl Client {
    /// Sends a head; `length` is the header that says how long the body is.
    pub(crate) async fn begin(gateway: &Running, path: &str, headers: &[String]) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        // What the kernel keeps for the client is not what is measured here.
        socket.set_send_buffer_size(64 << 10).unwrap();
        let stream = socket.connect(gateway.addresses.http).await.unwrap();
        let (reads, mut sends) = stream.into_split();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n", headers.join("\r\n"));
        sends.write_all(head.as_bytes()).await.unwrap();
        Client { sends, reads }
    }

    /// Begins a chat whose body has so many bytes.
    pub(crate) async fn chat(gateway: &Running, length: usize) -> Client {
        let headers = ["content-type: application/json".to_owned(), format!("content-length: {length}")];
        Client::begin(gateway, "/v1/chat/completions", &headers).await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.sends.write_all(bytes.as_ref())).await.expect("it is taken").unwrap();
    }

    /// Sends while the answer is read, for as long as it is taken.
    pub(crate) async fn send_and_read(self, bytes: impl AsRef<[u8]>) -> (u16, String) {
        let Client { mut sends, reads } = self;
        let sending = async {
            // A gateway that has answered need not take the rest.
            let _ = sends.write_all(bytes.as_ref()).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = read_answer(reads) => answer,
            () = sending => unreachable!("it is pending"),
        }
    }

    /// The answer's status and body.
    pub(crate) async fn answer(self) -> (u16, String) {
        let Client { sends: _sends, reads } = self;
        read_answer(reads).await
    }
}

async fn read_answer(mut reads: OwnedReadHalf) -> (u16, String) {
    let mut received = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&received);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() >= length.parse().unwrap() {
                    return (head[9..12].parse().unwrap(), body.to_owned());
                }
            }
            assert!(reads.read_buf(&mut received).await.unwrap() > 0, "closed after {received:?}");
        }
    };
    timeout(PATIENCE, read).await.expect("there is an answer")
}
