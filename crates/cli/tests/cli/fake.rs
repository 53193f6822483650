//! A fake OpenAI server: answers with a fixed text in a chosen manner and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde_json::{Value, json};

/// How the server answers.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    /// Streams `Paris`, a space, and an emoji, in pieces of three bytes.
    Streams,
    /// The same without usage.
    HidesUsage,
    /// Closes the stream in the middle without a finish reason.
    Truncates,
    /// Sends an error event in the middle.
    ErrorEvent,
    /// 401 unless the key is `secret`.
    WantsKey,
    /// 429 for every other request.
    Overloaded,
    /// 500 always.
    Broken,
    /// Sends one piece and then nothing, for ever.
    Hangs,
}

/// A running fake; it ends with the test process.
pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Value>>>,
}

#[derive(Clone)]
struct Shared {
    manner: Manner,
    models: Vec<&'static str>,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Fake {
    pub(crate) fn start(manner: Manner) -> Fake {
        Fake::with_models(manner, &["tiny"])
    }

    pub(crate) fn with_models(manner: Manner, models: &[&'static str]) -> Fake {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let shared = Shared { manner, models: models.to_vec(), requests: requests.clone() };
        let (address, started) = mpsc::channel::<SocketAddr>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address.send(listener.local_addr().unwrap()).unwrap();
                let app = Router::new()
                    .route("/v1/models", get(models_list))
                    .route("/v1/chat/completions", post(chat))
                    .with_state(shared);
                axum::serve(listener, app).await.unwrap();
            });
        });
        Fake { url: format!("http://{}", started.recv().unwrap()), requests }
    }

    /// Bodies of the chat requests so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }
}

async fn models_list(State(shared): State<Shared>) -> Response {
    let data: Vec<Value> = shared.models.iter().map(|id| json!({"id": id, "object": "model"})).collect();
    axum::Json(json!({"object": "list", "data": data})).into_response()
}

async fn chat(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let count = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len()
    };
    let authorized = headers.get(header::AUTHORIZATION).is_some_and(|v| v == "Bearer secret");
    match shared.manner {
        Manner::WantsKey if !authorized => error(StatusCode::UNAUTHORIZED, "that key is not known"),
        Manner::Overloaded if count % 2 == 0 => error(StatusCode::TOO_MANY_REQUESTS, "the queue is full"),
        Manner::Broken => error(StatusCode::INTERNAL_SERVER_ERROR, "the engine has stopped"),
        manner => events(manner, &request),
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({"error": {"message": message, "type": "fake"}}))).into_response()
}

fn events(manner: Manner, request: &Value) -> Response {
    let chunk = |delta: Value, finish: Value| {
        format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))
    };
    let text = |content: &str| chunk(json!({"content": content}), Value::Null);
    let mut parts = vec![
        ": a comment\n\n".to_owned(),
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        text("Paris"),
    ];
    match manner {
        Manner::Truncates | Manner::Hangs => {}
        Manner::ErrorEvent => {
            parts.push("event: error\ndata: {\"error\":{\"message\":\"out of memory\"}}\n\n".into())
        }
        _ => {
            parts.extend([text(" "), text("🗼"), chunk(json!({}), json!("stop"))]);
            if manner != Manner::HidesUsage && request["stream_options"]["include_usage"] == true {
                let usage = json!({"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11});
                parts.push(format!("data: {}\n\n", json!({"choices": [], "usage": usage})));
            }
            parts.push("data: [DONE]\n\n".into());
        }
    }
    let bytes = parts.concat().into_bytes();
    let pieces: Vec<Bytes> = bytes.chunks(3).map(Bytes::copy_from_slice).collect();
    let body = stream::unfold((pieces.into_iter(), manner), |(mut pieces, manner)| async move {
        match pieces.next() {
            Some(piece) => {
                // Lets the pieces leave one by one.
                tokio::task::yield_now().await;
                Some((Ok::<_, std::io::Error>(piece), (pieces, manner)))
            }
            None if manner == Manner::Hangs => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                None
            }
            None => None,
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}
