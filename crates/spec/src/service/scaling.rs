//! How the number of replicas follows demand.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{Duration, Percent, Quantity};

/// How the number of replicas follows demand.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.max) || (has(self.min) ? self.min : 1) <= self.max", "message": "min must not exceed max"}
]))]
pub struct Scaling {
    /// Who decides: Wharf's own autoscaler, a HorizontalPodAutoscaler, KEDA, or nobody.
    pub mode: ScalingMode,
    /// Fewest replicas. 0 lets the service go to sleep when nobody calls, and wakes it when somebody does (`native` and `keda`).
    #[schemars(range(min = 0, max = 10000))]
    pub min: u32,
    /// Most replicas; as many as `min`, and at least one, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max: Option<u32>,
    /// How much each replica should carry.
    pub target: Targets,
    /// How long nobody must have called before the service goes to zero.
    pub idle_after: Duration,
    /// How fast replicas come and go, as in `autoscaling/v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<HorizontalPodAutoscalerBehavior>,
    /// Times at which at least so many replicas run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub schedules: Vec<Schedule>,
}

impl Default for Scaling {
    fn default() -> Self {
        Scaling {
            mode: ScalingMode::Native,
            min: 1,
            max: None,
            target: Targets::default(),
            idle_after: Duration::parse("5m").expect("a duration"),
            behavior: None,
            schedules: Vec::new(),
        }
    }
}

impl Scaling {
    /// Most replicas.
    pub fn most(&self) -> u32 {
        self.max.unwrap_or(self.min).max(self.min).max(1)
    }
}

/// Who decides how many replicas there are.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScalingMode {
    /// Wharf's own autoscaler.
    #[default]
    Native,
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// KEDA.
    Keda,
    /// Nobody: `replicas` stays as it is written.
    None,
}

/// How much each replica should carry. The largest number of replicas that any of them asks for is taken.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Targets {
    /// Requests at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// Requests a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<Quantity>,
    /// Requests that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub queue: Option<u32>,
    /// Share of the KV cache in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<Percent>,
    /// Tokens of prompts and answers that are being worked on, as the gateway estimates them (`native`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_in_flight: Option<u32>,
    /// Utilisation of the GPUs, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub gpu: Option<u32>,
    /// CPU in use, in percent of what is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub cpu: Option<u32>,
    /// Memory in use, in percent of what is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub memory: Option<u32>,
    /// Time to first token that 95% of requests should not exceed.
    #[serde(rename = "ttftP95", skip_serializing_if = "Option::is_none")]
    pub ttft_p95: Option<Duration>,
}

/// A time at which at least so many replicas run.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// When it begins, as five fields of cron: minute, hour, day of month, month, day of week.
    #[schemars(regex(pattern = r"^\S+\s+\S+\s+\S+\s+\S+\s+\S+$"))]
    pub start: String,
    /// When it ends, likewise.
    #[schemars(regex(pattern = r"^\S+\s+\S+\s+\S+\s+\S+\s+\S+$"))]
    pub end: String,
    /// Time zone of both, as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Fewest replicas in between.
    #[schemars(range(min = 1, max = 10000))]
    pub min: u32,
}

fn utc() -> String {
    "Etc/UTC".to_owned()
}
