//! What happens around every request on the API ports: request id, API key, access log, count, panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Request, Version};
use tracing::Instrument;
use wharf_access::Moment;
use wharf_api::ApiError;
use wharf_telemetry::metrics::server as table;

use crate::ids::request_id;
use crate::respond::Failure;
use crate::router::{OPEN_PATHS, endpoint};
use crate::state::{App, Phase};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) async fn around(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes));
    let version = request.version();
    let path = endpoint(request.uri().path());
    let method = request.method().clone();
    let span = tracing::info_span!("request", request_id = %id);

    let mut response = answer(&app, request, next).instrument(span.clone()).await;

    let status = response.status().as_u16();
    app.metrics.add(&table::HTTP_REQUESTS, &[path, &status.to_string()], 1.0);
    span.in_scope(|| {
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if OPEN_PATHS.contains(&path) {
            // Probes come every few seconds and would drown the rest.
            tracing::debug!(%method, path, status, ms, "response");
        } else {
            tracing::info!(%method, path, status, ms, "response");
        }
    });
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
        if let Err(denied) = caller.and_then(|caller| caller.may_use(&app.model_name)) {
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
