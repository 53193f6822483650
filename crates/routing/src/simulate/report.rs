//! What a simulation found, for people and for machines.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How the policies did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// Engines at the beginning.
    pub engines: u32,
    /// Requests that came.
    pub requests: usize,
    /// Requests a second that would come if answers took no time.
    pub requests_per_second: f64,
    /// One for each policy.
    pub outcomes: Vec<Outcome>,
}

/// How one policy did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Its name.
    pub policy: String,
    /// Requests that were answered.
    pub answered: usize,
    /// Requests whose answer broke off because their engine died.
    pub broken: usize,
    /// Requests that gateways still counted as in flight at the end.
    pub left_in_flight: u64,
    /// Mean time to first token, in seconds.
    pub ttft_mean: f64,
    /// Half of them were faster.
    pub ttft_p50: f64,
    /// One in twenty was slower.
    pub ttft_p95: f64,
    /// One in a hundred was slower.
    pub ttft_p99: f64,
    /// Mean time to the last token, in seconds.
    pub latency_mean: f64,
    /// Requests a second, from the first one's arrival to the last one's end.
    pub requests_per_second: f64,
    /// Tokens of answers a second.
    pub tokens_per_second: f64,
    /// Share of all prompts' tokens that engines had cached.
    pub cached: f64,
    /// The same as gateways expected it.
    pub cached_expected: f64,
    /// Requests of the engine that got most, by the mean of those that were there all the time.
    pub imbalance: f64,
    /// Seconds that the busiest engine worked, by the mean of those that were there all the time.
    pub imbalance_busy: f64,
    /// Time to first token of each third of the requests, in order of arrival: a queue that grows, or a cache that fills.
    pub ttft_thirds: [f64; 3],
}

/// The value that a share of the ascending values does not exceed; 0 where there are none.
pub(super) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The largest by the mean; 1 where there is nothing.
pub(super) fn imbalance(values: &[f64]) -> f64 {
    let mean = mean(values);
    if mean > 0.0 { values.iter().fold(0.0, |most: f64, value| most.max(*value)) / mean } else { 1.0 }
}

impl Report {
    /// The policy of this name.
    pub fn outcome(&self, policy: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.policy == policy)
    }

    /// Everything, for machines.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers, texts and lists")
    }

    /// The numbers side by side, for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}: {} requests at {:.2}/s to {} engines, seed {}\n",
            self.scenario, self.requests, self.requests_per_second, self.engines, self.seed
        );
        let head = [
            "policy", "ttft", "p50", "p95", "p99", "latency", "req/s", "tok/s", "cached", "max/mean", "busy",
        ];
        let rows = self.outcomes.iter().map(|o| {
            [
                o.policy.clone(),
                format!("{:.3} s", o.ttft_mean),
                format!("{:.3} s", o.ttft_p50),
                format!("{:.3} s", o.ttft_p95),
                format!("{:.3} s", o.ttft_p99),
                format!("{:.2} s", o.latency_mean),
                format!("{:.2}", o.requests_per_second),
                format!("{:.0}", o.tokens_per_second),
                format!("{:.1}%", 100.0 * o.cached),
                format!("{:.2}", o.imbalance),
                format!("{:.2}", o.imbalance_busy),
            ]
        });
        let rows: Vec<[String; 11]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
                let written = match column {
                    0 => write!(text, "{cell:<width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
                written.expect("a String takes everything");
            }
            text.push('\n');
        }
        text
    }
}
