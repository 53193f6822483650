//! How releases are to go: `spec.rollout` in numbers.

use std::time::Duration;

use wharf_spec::service::{CanaryStep, Rollout, Strategy};

/// How releases are to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How a new version takes over.
    pub strategy: Strategy,
    /// Prompts that each new replica answers before it gets traffic.
    pub prompts: u32,
    /// Shares that a canary gets before it gets everything.
    pub steps: Vec<Portion>,
    /// Most requests that may fail, 0 to 1.
    pub error_rate: f64,
    /// Longest time to first token of 95% of requests, in milliseconds.
    pub ttft_p95_ms: Option<u64>,
    /// Requests that must have been seen before they say anything; at least 1.
    pub min_requests: u32,
    /// How long the old version stays, in milliseconds.
    pub keep_old_for_ms: u64,
    /// How long a new version may take to become ready, in milliseconds.
    pub deadline_ms: u64,
    /// Whether somebody has to agree before the new version gets all traffic.
    pub pause: bool,
}

/// A share of traffic for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// The share, 0 to 100.
    pub weight: u32,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

/// Steps of a canary that names none.
const DEFAULT_STEPS: [u32; 3] = [5, 25, 50];
const DEFAULT_STEP_MS: u64 = 120_000;

impl From<&Rollout> for Policy {
    fn from(rollout: &Rollout) -> Policy {
        let Rollout { strategy, warmup, steps, rollback_on, keep_old_for, deadline, pause } = rollout;
        Policy {
            strategy: *strategy,
            prompts: warmup.prompts,
            steps: match steps.as_slice() {
                [] => DEFAULT_STEPS.map(|weight| Portion { weight, for_ms: DEFAULT_STEP_MS }).to_vec(),
                steps => steps.iter().map(Portion::from).collect(),
            },
            error_rate: rollback_on.error_rate.ratio(),
            ttft_p95_ms: rollback_on.ttft_p95.as_ref().map(|limit| millis(limit.get())),
            min_requests: rollback_on.min_requests.max(1),
            keep_old_for_ms: millis(keep_old_for.get()),
            deadline_ms: millis(deadline.get()),
            pause: *pause,
        }
    }
}

impl From<&CanaryStep> for Portion {
    fn from(step: &CanaryStep) -> Portion {
        let share = step.weight.ratio() * 100.0;
        // Half a percent is not nothing: shares are whole, and a step is there to be seen.
        let weight = if share > 0.0 { share.round().clamp(1.0, 100.0) as u32 } else { 0 };
        Portion { weight, for_ms: millis(step.duration.get()) }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Policy {
        Policy::from(&serde_json::from_value::<Rollout>(json).unwrap())
    }

    #[test]
    fn a_canary_without_steps_takes_three() {
        let steps = read(serde_json::json!({"strategy": "Canary"})).steps;
        let shares = steps.iter().map(|step| (step.weight, step.for_ms)).collect::<Vec<_>>();
        assert_eq!(shares, [(5, 120_000), (25, 120_000), (50, 120_000)]);
    }

    #[test]
    fn shares_are_whole_percents_and_never_more_than_everything() {
        let steps =
            ["0%", "0.2%", "12.6%", "250%"].map(|w| serde_json::json!({"weight": w, "duration": "1s"}));
        let steps = read(serde_json::json!({"strategy": "Canary", "steps": steps})).steps;
        assert_eq!(steps.iter().map(|step| step.weight).collect::<Vec<_>>(), [0, 1, 13, 100]);
    }

    #[test]
    fn limits_are_in_milliseconds_and_shares() {
        let policy =
            read(serde_json::json!({"rollbackOn": {"ttftP95": "1.5s", "errorRate": "2%", "minRequests": 0}}));
        assert_eq!((policy.ttft_p95_ms, policy.error_rate, policy.min_requests), (Some(1500), 0.02, 1));
        assert_eq!((policy.keep_old_for_ms, policy.deadline_ms), (300_000, 1_800_000));
    }
}
