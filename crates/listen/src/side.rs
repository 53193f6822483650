//! The port for kubelet and Prometheus: health, readiness, metrics. It says how a process is and changes nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wharf_telemetry::metrics::{EncodeError, Metrics};

use crate::{Limits, Listener};

/// How a process is, for whoever asks.
pub trait HowItIs: Send + Sync + 'static {
    /// Whether it does what it should, in a word or two either way.
    ///
    /// # Errors
    /// What it waits for.
    fn ready(&self) -> Result<&'static str, &'static str>;

    /// Its metrics as they are now, in Prometheus' text format.
    ///
    /// # Errors
    /// When they cannot be written.
    fn metrics(&self) -> Result<String, EncodeError>;
}

/// Serves `/health`, `/ready` and `/metrics` until `stop`.
pub async fn serve(it: Arc<impl HowItIs>, socket: TcpListener, stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&*it, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let limits =
        Limits { header_timeout: Duration::from_secs(10), max_header_bytes: 16 << 10, h2_streams: 16 };
    Listener { socket, tls: None, service, limits, connections: None }.run(stop).await;
}

/// The answer to one request.
pub fn answer(it: &impl HowItIs, method: &Method, path: &str) -> Response<Full<Bytes>> {
    match (method, path) {
        (&Method::GET, "/health") => plain(StatusCode::OK, "alive"),
        (&Method::GET, "/ready") => match it.ready() {
            Ok(how) => plain(StatusCode::OK, how),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        (&Method::GET, "/metrics") => match it.metrics() {
            Ok(text) => {
                let mut answer = Response::new(Full::from(text));
                let kind = HeaderValue::from_static(Metrics::CONTENT_TYPE);
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            Err(error) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to write metrics: {error}"))
            }
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /health, /ready and /metrics"),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{text}\n")));
    *answer.status_mut() = status;
    answer
}
