//! Paths and who answers them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::Request;
use wharf_api::ApiError;

use crate::respond::Failure;
use crate::state::App;
use crate::{chat, completions, middleware, system, tokenize};

/// Paths that need no API key: probes and scrapers have none.
pub(crate) const OPEN_PATHS: &[&str] = &["/health", "/ready", "/ping", "/version", "/metrics"];

/// Every other path that is not a pattern.
const KEY_PATHS: &[&str] =
    &["/load", "/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"];

/// The endpoint of a path, for metrics and logs: a bounded set, whatever clients ask for.
pub(crate) fn endpoint(path: &str) -> &'static str {
    let known = OPEN_PATHS.iter().chain(KEY_PATHS).find(|known| **known == path);
    match known {
        Some(known) => known,
        None if path.starts_with("/v1/models/") => "/v1/models/{name}",
        None => "unknown",
    }
}

/// The API ports.
pub(crate) fn api(app: &Arc<App>) -> Router {
    observe()
        .route("/ping", get(system::health).post(system::health))
        .route("/load", get(system::load))
        .route("/v1/models", get(system::models))
        .route("/v1/models/{*name}", get(system::model))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/chat/completions", post(chat::handle))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(app), middleware::around))
        .with_state(Arc::clone(app))
}

/// The metrics port.
pub(crate) fn metrics(app: &Arc<App>) -> Router {
    observe().fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(Arc::clone(app))
}

fn observe() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(system::health))
        .route("/ready", get(system::ready))
        .route("/version", get(system::version))
        .route("/metrics", get(system::metrics))
}

async fn not_found(request: Request<Body>) -> Response {
    let (method, path) = named(&request);
    Failure(ApiError::NotFound { method, path }).into_response()
}

async fn method_not_allowed(request: Request<Body>) -> Response {
    let (method, path) = named(&request);
    Failure(ApiError::MethodNotAllowed { method, path }).into_response()
}

fn named(request: &Request<Body>) -> (String, String) {
    (request.method().to_string(), request.uri().path().chars().take(200).collect())
}
