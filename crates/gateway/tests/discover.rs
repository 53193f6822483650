//! A gateway that learns of its services from a Kubernetes API, which fails as it is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "discover/chart.rs"]
mod chart;
#[path = "discover/cluster.rs"]
mod cluster;
#[path = "discover/failures.rs"]
mod failures;
#[path = "discover/rights.rs"]
mod rights;
#[path = "discover/support.rs"]
mod support;
