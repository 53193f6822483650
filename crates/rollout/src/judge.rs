//! Whether a version answers well enough: the statistics.
//!
//! Three things would take good releases back, and are kept from it. *Few requests*: below `minRequests` nothing is decided. *Chance*: with a
//! limit of 1%, one failure among 20 requests is 5% and says nothing, since a version that fails in 1% of cases does so in every fifth such
//! sample; so the excess must also be one that a version at its limit shows less than once in 20 samples. *Others' faults*: a broken
//! network, disk or client fails both versions; so the new one may be worse than its limit by what the old one is, in the same period or, where it
//! has no traffic left, just before. An old version that fails altogether is not worth going back to.

use wharf_api::demand::{FIRST_TOKEN_BUCKETS_MS, VersionCounts, first_token_percentile};

use crate::policy::Policy;

/// What a version did in a period.
pub type Sample = VersionCounts;

/// What is to be thought of a version.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Enough was seen, and it is within the limits.
    Good(String),
    /// Too little was seen, or what is over a limit may be chance.
    Open(String),
    /// It is worse than it may be.
    Bad(String),
}

/// An excess that a version at its limit shows more often than this may be chance.
const CHANCE: f64 = 0.05;
/// From so many on, chance no longer matters and is no longer computed.
const MANY: u64 = 10_000;
/// Buckets of times are coarse: a new version counts as slower than the old one only from this factor on.
const SLOWER: f64 = 1.25;

/// Judges the new version by its limits and beside the old one, of which there may be no sample.
pub fn judge(candidate: &Sample, active: Option<&Sample>, policy: &Policy) -> Verdict {
    let fewest = u64::from(policy.min_requests.max(1));
    let active = active.filter(|sample| requests(sample) >= fewest);
    let all = requests(candidate);
    if all < fewest {
        let spoken = match candidate.failed {
            0 => "nothing speaks against it".to_owned(),
            failed => format!("{failed} of them failed"),
        };
        return Verdict::Open(format!("only {all} of {fewest} requests were seen; {spoken}"));
    }
    match errors(candidate, active, policy) {
        Verdict::Good(errors) => match first_tokens(candidate, active, policy) {
            Some(Verdict::Good(tokens)) => Verdict::Good(format!("{errors}; {tokens}")),
            Some(worse) => worse,
            None => Verdict::Good(errors),
        },
        // A doubt about errors does not hide certainty about times.
        Verdict::Open(errors) => match first_tokens(candidate, active, policy) {
            Some(Verdict::Bad(tokens)) => Verdict::Bad(tokens),
            Some(Verdict::Good(_) | Verdict::Open(_)) | None => Verdict::Open(errors),
        },
        Verdict::Bad(errors) => Verdict::Bad(errors),
    }
}

/// Requests in a sample.
pub(crate) fn requests(sample: &Sample) -> u64 {
    sample.answered.saturating_add(sample.failed)
}

fn errors(candidate: &Sample, active: Option<&Sample>, policy: &Policy) -> Verdict {
    let rate = |sample: &Sample| sample.failed as f64 / requests(sample).max(1) as f64;
    let (failed, all) = (candidate.failed, requests(candidate));
    let old = active.map_or(0.0, rate);
    let seen = match failed {
        0 => format!("none of {all} requests failed"),
        _ => format!("{failed} of {all} requests failed ({})", percent(rate(candidate))),
    };
    let limit = percent(policy.error_rate);
    let allowed = (policy.error_rate + old).min(1.0);
    if rate(candidate) <= allowed {
        let beside = if rate(candidate) > policy.error_rate {
            format!(", but {} of the old version's do too", percent(old))
        } else {
            String::new()
        };
        return Verdict::Good(format!("{seen}{beside}"));
    }
    if !beyond_chance(failed, all, allowed) {
        return Verdict::Open(format!("{seen}, over rollbackOn.errorRate {limit} by what may be chance"));
    }
    let beside = if old > 0.0 { format!("; of the old version's, {}", percent(old)) } else { String::new() };
    Verdict::Bad(format!("{seen}, more than rollbackOn.errorRate {limit}{beside}"))
}

/// None without a limit, or without enough answers that began.
fn first_tokens(candidate: &Sample, active: Option<&Sample>, policy: &Policy) -> Option<Verdict> {
    let limit = policy.ttft_p95_ms? as f64;
    let fewest = f64::from(policy.min_requests.max(1));
    let enough = |sample: &&Sample| count(sample) >= fewest;
    let p95 = |sample: &Sample| first_token_percentile(&sample.first_token, 0.95);
    if count(candidate) < fewest {
        return None;
    }
    let seen = p95(candidate)?;
    let old = active.filter(enough).and_then(p95);
    let allowed = old.map_or(limit, |old| limit.max(old * SLOWER));
    let said = format!("95% of first tokens came within {}", seconds(seen));
    if seen <= allowed {
        return Some(Verdict::Good(said));
    }
    let limit = seconds(limit);
    // More than 5% above a time, and 95% not within it, are the same.
    let late = late(candidate, allowed);
    if !beyond_chance(late.round() as u64, count(candidate) as u64, 0.05) {
        return Some(Verdict::Open(format!("{said}, over rollbackOn.ttftP95 {limit} by what may be chance")));
    }
    let beside = old.map_or(String::new(), |old| format!("; the old version's within {}", seconds(old)));
    Some(Verdict::Bad(format!("{said}, not {limit} as rollbackOn.ttftP95 says{beside}")))
}

fn count(sample: &Sample) -> f64 {
    sample.first_token.iter().map(|n| *n as f64).sum()
}

/// How many came later than `limit` milliseconds; linear within the bucket, as percentiles are.
fn late(sample: &Sample, limit: f64) -> f64 {
    let (mut late, mut low) = (count(sample), 0.0);
    for (n, bound) in sample.first_token.iter().zip(FIRST_TOKEN_BUCKETS_MS) {
        let high = f64::from(bound);
        late -= *n as f64 * ((limit - low) / (high - low)).clamp(0.0, 1.0);
        low = high;
    }
    late.max(0.0)
}

/// Whether `hits` among `all` would come less than once in 20 samples if each came with probability `share`.
fn beyond_chance(hits: u64, all: u64, share: f64) -> bool {
    if all > MANY {
        return true;
    }
    if share >= 1.0 {
        return false;
    }
    // Terms of the binomial distribution, in logarithms: (1 - p)^n alone may be too small for a number.
    let (n, p) = (all as f64, share.max(0.0));
    let (mut term, mut below) = (n * (1.0 - p).ln(), 0.0);
    for k in 0..hits {
        below += term.exp();
        let k = k as f64;
        term += ((n - k) / (k + 1.0)).ln() + (p / (1.0 - p)).ln();
    }
    1.0 - below < CHANCE
}

/// With one digit after the point where it says something.
pub(crate) fn percent(ratio: f64) -> String {
    let rounded = (ratio * 1000.0).round() / 10.0;
    let text = if rounded == 0.0 && ratio > 0.0 { "0.1".to_owned() } else { rounded.to_string() };
    let less = if rounded == 0.0 && ratio > 0.0 { "less than " } else { "" };
    format!("{less}{text}%")
}

/// Milliseconds, as people say them.
pub(crate) fn seconds(ms: f64) -> String {
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    match ms {
        ms if ms < 1000.0 => format!("{} ms", ms.round()),
        ms if ms < 120_000.0 => format!("{} s", tenths(ms / 1000.0)),
        ms => format!("{} min", tenths(ms / 60_000.0)),
    }
}

#[cfg(test)]
mod tests;
