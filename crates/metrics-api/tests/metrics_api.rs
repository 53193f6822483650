//! The metrics API over an API server, pods, gateways, a node agent and a kubelet of these tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "metrics_api/hpa.rs"]
mod hpa;
#[path = "metrics_api/keda.rs"]
mod keda;
#[path = "metrics_api/owners.rs"]
mod owners;
#[path = "metrics_api/resources.rs"]
mod resources;
#[path = "metrics_api/rights.rs"]
mod rights;
#[path = "metrics_api/support.rs"]
mod support;
#[path = "metrics_api/values.rs"]
mod values;
