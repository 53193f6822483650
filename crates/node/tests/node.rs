//! The agent between a fake libnvidia-ml, a fake kubelet and an API server in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "node/exporter.rs"]
mod exporter;
#[path = "node/health.rs"]
mod health;
#[path = "node/kubelet.rs"]
mod kubelet;
#[path = "node/labels.rs"]
mod labels;
#[path = "node/nvml.rs"]
mod nvml;
#[path = "node/plugin.rs"]
mod plugin;
#[path = "node/preload.rs"]
mod preload;
#[path = "node/serving.rs"]
mod serving;
#[path = "node/support.rs"]
mod support;
#[path = "node/tuner.rs"]
mod tuner;
#[path = "node/wire.rs"]
mod wire;
