//! Metrics, alerts and logs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{Duration, Percent};

/// Metrics, alerts and logs.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Observability {
    /// Makes a ServiceMonitor, for clusters with the Prometheus operator.
    pub service_monitor: bool,
    /// How often Prometheus reads metrics.
    pub interval: Duration,
    /// Labels of the ServiceMonitor and PrometheusRule, by which a Prometheus chooses what is its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Namespace that Prometheus runs in, to be let through the network policy.
    pub prometheus_namespace: String,
    /// Makes a PrometheusRule with alerts for this service alone, which take the place of those for all services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Alerts>,
    /// Logs of the model pods.
    pub logs: Logs,
}

impl Default for Observability {
    fn default() -> Self {
        Observability {
            service_monitor: false,
            interval: Duration::parse("30s").expect("a duration"),
            labels: BTreeMap::new(),
            prometheus_namespace: "monitoring".to_owned(),
            alerts: None,
            logs: Logs::default(),
        }
    }
}

/// What the service promises. An alert comes when so much of it is broken that what may be in 30 days will not last.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Alerts {
    /// Longest time to first token that 95% of requests may see. It is counted at the next bound of the engine's histogram, which for
    /// Wharf and vLLM are 1s, 2.5s, 5s, 7.5s, 10s and others.
    #[serde(rename = "ttftP95")]
    pub ttft_p95: Duration,
    /// Longest time between two tokens of an answer that 95% of tokens may take; counted likewise, at 50ms, 75ms, 100ms, 150ms, 200ms and
    /// others.
    #[serde(rename = "interTokenP95")]
    pub inter_token_p95: Duration,
    /// Share of requests that may fail.
    pub error_rate: Percent,
}

impl Default for Alerts {
    fn default() -> Self {
        Alerts {
            ttft_p95: Duration::parse("2s").expect("a duration"),
            inter_token_p95: Duration::parse("200ms").expect("a duration"),
            error_rate: Percent::parse("1%").expect("a share"),
        }
    }
}

/// Logs of the model pods.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logs {
    /// One JSON object or one line of text for each event.
    pub format: LogStyle,
    /// Least important events that are logged.
    pub level: LogLevel,
}

/// How a log reads.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStyle {
    /// For machines.
    #[default]
    Json,
    /// For people.
    Text,
}

/// How important an event is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something may fail.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
}

impl LogLevel {
    /// As engines take it.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}
