//! An operator on an API server in memory, with all that a cluster does by itself, and model servers that answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "operator/api.rs"]
mod api;
#[path = "operator/artifacts.rs"]
mod artifacts;
#[path = "operator/edits.rs"]
mod edits;
#[path = "operator/failures.rs"]
mod failures;
#[path = "operator/leading.rs"]
mod leading;
#[path = "operator/many.rs"]
mod many;
#[path = "operator/models.rs"]
mod models;
#[path = "operator/releases.rs"]
mod releases;
#[path = "operator/rights.rs"]
mod rights;
#[path = "operator/scaling.rs"]
mod scaling;
#[path = "operator/services.rs"]
mod services;
#[path = "operator/support.rs"]
mod support;
