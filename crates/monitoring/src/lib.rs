//! What people see of an installation and when somebody is called: dashboards and alerts, as data.
//!
//! Every name of a metric comes from the table that registers it (`wharf_telemetry::metrics`) or, for engines of others, from [`engines`];
//! tests read every expression and refuse a metric or a label that does not exist. Nothing here talks to Prometheus or Grafana: files
//! under `deploy` are what [`rules`] and [`dashboards`] render to, and the manifests of a service have [`service::groups`].
//!
//! Labels are those that the chart's monitors give: gateway and operator keep their own (`honorLabels`), so `service` is
//! `namespace/name` there; model servers have `namespace` and `wharf_dev_service`; of the node agent, whatever is said of pods begins with
//! `exported_`.

pub mod dashboards;
pub mod engines;
mod expr;
mod objective;
mod rule;
pub mod rules;
pub mod service;

pub use rule::{Alert, Group, Rule, Severity, document};
pub use rules::Tuning;

/// Where runbooks are read, one page for each alert.
pub const RUNBOOKS: &str = "https://github.com/wharf-dev/wharf/blob/main/docs/runbooks";
/// Label of a model server's metrics that tells the service: what Prometheus makes of `wharf.dev/service`.
pub const SERVICE_LABEL: &str = "wharf_dev_service";
/// The same for the version.
pub const COLOUR_LABEL: &str = "wharf_dev_colour";
