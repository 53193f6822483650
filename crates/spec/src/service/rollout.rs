//! How a change becomes a release.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{Duration, Percent};

/// How a change becomes a release, and when a release is taken back.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.steps) || self.steps.size() == 0 || (has(self.strategy) && self.strategy == 'Canary')", "message": "steps belong to the strategy Canary"}
]))]
pub struct Rollout {
    /// How the new version takes over from the old one.
    pub strategy: Strategy,
    /// Requests that a new version answers before it gets any traffic.
    pub warmup: Warmup,
    /// Shares of traffic that a canary gets, one after the other; 5%, 25% and 50% for two minutes each if absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub steps: Vec<CanaryStep>,
    /// What is taken back without asking.
    pub rollback_on: RollbackOn,
    /// How long the old version stays, ready to take over again.
    pub keep_old_for: Duration,
    /// How long a new version may take to become ready before it is taken back.
    pub deadline: Duration,
    /// Waits for `wharf rollout promote` before the new version gets all traffic.
    pub pause: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        let duration = |text| Duration::parse(text).expect("a duration");
        Rollout {
            strategy: Strategy::BlueGreen,
            warmup: Warmup::default(),
            steps: Vec::new(),
            rollback_on: RollbackOn::default(),
            keep_old_for: duration("5m"),
            deadline: duration("30m"),
            pause: false,
        }
    }
}

/// How a new version takes over from an old one.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// Both run whole; traffic goes over at once, and back as fast. Needs room for both.
    #[default]
    BlueGreen,
    /// Both run; traffic goes over in steps.
    Canary,
    /// Pods are replaced one by one.
    Rolling,
    /// The old version goes before the new one comes: the service pauses. For scarce GPUs.
    Recreate,
}

/// Requests that a new version answers before it gets any traffic.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// How many, for each replica; 0 for none.
    #[schemars(range(min = 0, max = 1000))]
    pub prompts: u32,
}

impl Default for Warmup {
    fn default() -> Self {
        Warmup { prompts: 4 }
    }
}

/// A step of a canary.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStep {
    /// Share of traffic that the new version gets.
    pub weight: Percent,
    /// For how long.
    pub duration: Duration,
}

/// What is taken back without asking.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollbackOn {
    /// Most requests that may fail.
    pub error_rate: Percent,
    /// Longest time to first token that 95% of requests may see; no limit if absent.
    #[serde(rename = "ttftP95", skip_serializing_if = "Option::is_none")]
    pub ttft_p95: Option<Duration>,
    /// Requests that must have been seen before anything is decided.
    #[schemars(range(min = 1))]
    pub min_requests: u32,
}

impl Default for RollbackOn {
    fn default() -> Self {
        RollbackOn { error_rate: Percent::parse("1%").expect("a share"), ttft_p95: None, min_requests: 20 }
    }
}
