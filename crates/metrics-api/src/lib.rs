//! What Kubernetes' autoscaler, KEDA and `kubectl top` read: the APIs `custom.metrics.k8s.io`, `external.metrics.k8s.io` and, where nobody else
//! serves it, `metrics.k8s.io`; and KEDA's external scaler.
//!
//! Values come straight from pods, gateways, node agents and kubelets, so there is no Prometheus in between whose scrape has to be waited for.
//! `metric` and `apis` are the tables of what there is; `serve` answers. Files named `secret` and `claim` write to the cluster; no others
//! do.

mod apis;
mod caller;
mod claim;
mod escape;
mod gpus;
mod guard;
mod history;
mod keys;
mod kubelets;
mod look;
mod metric;
mod prometheus;
mod rbac;
mod reference;
mod run;
mod sampler;
pub mod scaler;
mod selector;
mod serve;
mod services;
mod sources;
mod tls;
mod usage;

pub use apis::Api;
pub use claim::Home;
pub use kubelets::{KubeletAccess, KubeletError};
pub use rbac::{cluster_role, role_at_home};
pub use reference::reference_page;
pub use run::{Every, Options, Sockets, StartError, run};
