//! What happens around every request on the API ports: request id, API key, its line in the log, count, panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Request, Version};
use tracing::Instrument;
use tracing::field::Empty;
use wharf_access::Moment;
use wharf_api::ApiError;
use wharf_telemetry::log::milliseconds;
use wharf_telemetry::metrics::server as table;
use wharf_telemetry::trace::{Context, Trace};

use crate::ids::request_id;
use crate::respond::Failure;
use crate::router::{OPEN_PATHS, endpoint};
use crate::spans;
use crate::state::{App, Phase};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// nginx's code for a client that closed the connection, for the log only: nobody is sent it.
pub(crate) const CLIENT_LEFT: u16 = 499;

/// Whether somebody follows the answer to its end and tells log and trace then. Clones are the same request's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    is_followed: Arc<AtomicBool>,
    trace: Trace,
}

impl Followed {
    /// That of a request.
    pub(crate) fn of(request: &Request<Body>) -> Followed {
        request.extensions().get::<Followed>().cloned().unwrap_or_default()
    }

    /// From now on the caller tells the end, to this trace too.
    pub(crate) fn take_over(&self) -> Trace {
        self.is_followed.store(true, Ordering::Relaxed);
        self.trace.clone()
    }
}

/// Tells the log how a request ended when it is dropped, unless somebody follows its answer.
struct Ending {
    followed: Followed,
    span: tracing::Span,
    /// Its name in traces.
    path: &'static str,
    is_probe: bool,
    started: Instant,
    status: u16,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.followed.is_followed.load(Ordering::Relaxed) {
            return;
        }
        if self.followed.trace.is_kept() && !self.is_probe {
            self.followed.trace.end(spans::ended(self.path, self.status), []);
        }
        let (status, duration_ms) = (self.status, milliseconds(self.started.elapsed()));
        self.span.in_scope(|| {
            if self.is_probe {
                // Probes come every few seconds and would drown the rest.
                tracing::debug!(status, duration_ms, "request ended");
            } else {
                tracing::info!(status, duration_ms, "request ended");
            }
        });
    }
}

pub(crate) async fn around(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes));
    let version = request.version();
    let path = endpoint(request.uri().path());
    let trace = app.tracer.begin(request.headers().get(TRACEPARENT).map(HeaderValue::as_bytes));
    let span = tracing::info_span!(
        "request",
        request_id = id,
        trace_id = trace.context().map(Context::trace_hex),
        span_id = trace.context().map(Context::span_hex),
        tenant = Empty,
        method = %request.method(),
        path
    );
    let followed = Followed { trace, ..Followed::default() };
    request.extensions_mut().insert(followed.clone());
    let is_probe = OPEN_PATHS.contains(&path);
    let mut ending = Ending { followed, span: span.clone(), path, is_probe, started, status: CLIENT_LEFT };

    let mut response = answer(&app, request, next).instrument(span).await;

    let status = response.status().as_u16();
    app.metrics.add(&table::HTTP_REQUESTS, &[path, &status.to_string()], 1.0);
    ending.status = status;
    drop(ending);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    // HTTP/2 has no such header; its connections are told to go away when the drain ends.
    if app.phase() == Phase::Draining && version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(app: &App, request: Request<Body>, next: Next) -> Response {
    if !OPEN_PATHS.contains(&request.uri().path()) {
        let caller = app.keys.check(request.headers(), Moment::now());
        let allowed = caller.and_then(|caller| {
            tracing::Span::current().record("tenant", &*caller.name);
            caller.may_use(&app.model_name)
        });
        if let Err(denied) = allowed {
            return Failure(denied.into()).into_response();
        }
    }
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a request handler panicked");
            Failure(ApiError::Internal(
                "the request could not be answered; the server's log tells why".to_owned(),
            ))
            .into_response()
        }
    }
}
