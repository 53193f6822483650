//! Endpoints about the server itself: health, metrics, version, load, the list of models.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use wharf_api::ApiError;
use wharf_api::openai::{ModelCard, ModelList, VersionResponse};
use wharf_telemetry::metrics::Metrics;

use crate::health;
use crate::respond::{Failure, json, with_type};
use crate::state::{App, RETRY_AFTER_SECONDS};

pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    verdict(health::health(&app.vitals(Instant::now())))
}

pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    verdict(health::ready(&app.vitals(Instant::now())))
}

fn verdict(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => json(&serde_json::json!({"status": "ok"})),
        Err(reason) => Failure(ApiError::Unavailable { reason, retry_after_seconds: RETRY_AFTER_SECONDS })
            .into_response(),
    }
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let text = app.metrics_text()?;
    Ok(with_type(StatusCode::OK, Metrics::CONTENT_TYPE, Body::from(text)))
}

pub(crate) async fn version() -> Response {
    json(&VersionResponse { version: wharf_telemetry::build::VERSION })
}

pub(crate) async fn load(State(app): State<Arc<App>>) -> Response {
    json(&serde_json::json!({"server_load": app.in_flight()}))
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    Ok(json(&ModelList { object: "list", data: vec![card(&app)?] }))
}

pub(crate) async fn model(
    State(app): State<Arc<App>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Response, Failure> {
    crate::prepare::check_model(&app, Some(&name))?;
    Ok(json(&card(&app)?))
}

fn card(app: &App) -> Result<ModelCard, ApiError> {
    Ok(ModelCard {
        id: app.model_name.clone(),
        object: "model",
        created: app.created,
        owned_by: "wharf",
        max_model_len: app.serving()?.engine.max_model_len(),
    })
}
