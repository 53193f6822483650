//! The demand stream: what gateways tell the autoscaler, one JSON object a line.
//!
//! Each line is everything its gateway knows, so a lost line costs nothing. Counters only grow while `epoch` stays the same; a gateway that
//! starts again takes a new epoch, and its counters begin at zero. A gateway from which no line came for its lease counts for nothing: its
//! gauges are forgotten, its counters stay in the sum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the buckets of [`ServiceDemand::first_token`] end, in milliseconds; one more bucket holds what is above.
pub const FIRST_TOKEN_BUCKETS_MS: [u32; 14] =
    [10, 25, 50, 100, 200, 350, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 300_000];

/// What one gateway knows of the demand on every service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DemandReport {
    /// The gateway's name: its pod, or `local`.
    pub gateway: String,
    /// When the gateway started, in milliseconds since 1970: tells counters of different lives apart.
    pub epoch: u64,
    /// Grows by one with every line.
    pub sequence: u64,
    /// How long the line holds, in milliseconds; the next one comes well before.
    pub lease_ms: u64,
    /// By `namespace/name`.
    pub services: BTreeMap<String, ServiceDemand>,
}

/// Demand on one service, seen by one gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceDemand {
    /// Requests that came and were let in: keys and limits had no objection.
    pub arrived: u64,
    /// Requests of those that an endpoint answered to the end.
    pub answered: u64,
    /// Requests of those that failed: no endpoint, a broken answer, a deadline.
    pub failed: u64,
    /// Requests of those that were refused since the queue was full.
    pub overflowed: u64,
    /// Requests of those whose client left.
    pub abandoned: u64,
    /// Tokens of prompts that were answered.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub generated_tokens: u64,
    /// How many answers began within each of [`FIRST_TOKEN_BUCKETS_MS`] (each bucket by itself, not cumulative), and how many later.
    pub first_token: Vec<u64>,
    /// Requests that an endpoint works on.
    pub in_flight: u64,
    /// Requests that are held since no endpoint can take them.
    pub queued: u64,
    /// Tokens of the prompts that endpoints work on, estimated, and what their answers may still have.
    pub tokens_in_flight: u64,
    /// How long the oldest held request has waited, in milliseconds.
    pub oldest_wait_ms: u64,
    /// What the endpoints themselves say, as last read from their metrics.
    pub endpoints: BTreeMap<String, EndpointLoad>,
    /// How each version answered, by colour: a release is judged by it.
    pub versions: BTreeMap<String, VersionCounts>,
}

/// How the endpoints of one version answered. An attempt that failed counts here even where another endpoint saved the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionCounts {
    /// Attempts that were answered.
    pub answered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// How many answers began within each of [`FIRST_TOKEN_BUCKETS_MS`] after they were sent to the endpoint, and how many later.
    pub first_token: Vec<u64>,
}

/// Milliseconds that `share` (0 to 1) of the answers in `counts`, one number for each of [`FIRST_TOKEN_BUCKETS_MS`] and one for what is
/// above, did not exceed; linear within the bucket, and what is above counts as the last bound. None without answers.
pub fn first_token_percentile(counts: &[u64], share: f64) -> Option<f64> {
    let all = counts.iter().map(|n| *n as f64).sum::<f64>();
    if all <= 0.0 {
        return None;
    }
    let rank = share * all;
    let (mut below, mut low) = (0.0, 0.0);
    for (n, bound) in counts.iter().zip(FIRST_TOKEN_BUCKETS_MS) {
        let (n, high) = (*n as f64, f64::from(bound));
        if n > 0.0 && below + n >= rank {
            return Some(low + (high - low) * ((rank - below) / n).clamp(0.0, 1.0));
        }
        (below, low) = (below + n, high);
    }
    Some(low)
}

/// What one endpoint says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointLoad {
    /// It takes requests.
    pub ready: bool,
    /// Requests it works on.
    pub running: u32,
    /// Requests that wait in it.
    pub waiting: u32,
    /// Share of its KV cache in use, 0 to 1.
    pub kv_cache: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_within_its_bucket() {
        assert_eq!(first_token_percentile(&[], 0.95), None);
        let mut counts = [0; FIRST_TOKEN_BUCKETS_MS.len() + 1];
        assert_eq!(first_token_percentile(&counts, 0.95), None);
        counts[2] = 100;
        assert_eq!(first_token_percentile(&counts, 0.95), Some(48.75));
        counts[FIRST_TOKEN_BUCKETS_MS.len()] = 1000;
        assert_eq!(first_token_percentile(&counts, 0.95), Some(300_000.0));
    }

    #[test]
    fn a_report_of_an_older_gateway_is_still_read() {
        let line = r#"{"gateway":"g","epoch":1,"sequence":2,"lease_ms":3000,"services":{"a/b":{"arrived":7,"new":1}}}"#;
        let report: DemandReport = serde_json::from_str(line).unwrap();
        assert_eq!(report.services["a/b"], ServiceDemand { arrived: 7, ..ServiceDemand::default() });
    }
}
