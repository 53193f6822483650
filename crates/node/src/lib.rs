//! What makes the GPUs of a node usable: kubelet is told of them, the node is labelled, metrics are exported, and, where it is asked for, GPUs are
//! tuned.
//!
//! [`run()`] looks at the GPUs through NVML, which is opened at run time, and publishes what it finds; every other part follows that. What is
//! decided is decided by pure functions of data: what is offered ([`resources`]), what is healthy ([`health`]), what is preferred ([`prefer`]), what
//! a container gets ([`allocate`]), how a node is labelled ([`labels`]), what is told of models ([`serving`]), what is set ([`tuner`]). A node without a driver or without GPUs is no
//! failure: the status says what is missing, and it is looked for again.
//!
//! `unsafe` is in `nvml::raw` alone, where NVML is called. The cluster is written to by `apply` alone.

pub mod allocate;
mod apply;
mod board;
mod config;
pub mod exporter;
mod folder;
pub mod gpu;
mod gpus;
pub mod health;
pub mod kubelet;
pub mod labels;
mod lines;
pub mod nvml;
mod owner;
mod plugin;
pub mod prefer;
mod preload;
mod rbac;
pub mod resources;
mod run;
mod serve;
pub mod serving;
mod session;
#[cfg(test)]
mod testing;
pub mod tuner;

pub use apply::MANAGER;
pub use board::{Condition, Part};
pub use config::{
    ConfigError, DeviceIds, DeviceList, ExporterConfig, GPU, HealthConfig, LabelsConfig, MIG_PREFIX,
    MigStrategy, NodeConfig, Paths, PluginConfig, Preference, Preload, Sharing, TuningConfig,
};
pub use rbac::cluster_role;
pub use run::{Agent, Node, NodeError, Offered, Report, once, run};
