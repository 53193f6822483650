//! What a service did lately, from counters that are read once a second: rates, percentiles, and a quarter of an hour for charts. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use wharf_api::console::{History, Rates};
use wharf_api::demand::{FIRST_TOKEN_BUCKETS_MS, ServiceDemand};

/// Time between two samples.
pub(crate) const STEP: Duration = Duration::from_secs(1);
/// Samples that are kept for charts: a quarter of an hour, about 25 kB for each service.
const KEPT: usize = 900;
/// Rates are over this long.
const RATE: Duration = Duration::from_secs(5);
/// Percentiles and the share of failures are over this long, since a few seconds may hold few answers.
const SHARE: Duration = Duration::from_secs(30);

/// A service's counters and gauges at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// On the gateway's clock.
    at: Duration,
    arrived: u64,
    ended: u64,
    failed: u64,
    tokens: u64,
    first_token: Vec<u64>,
    ready: u32,
    in_flight: u32,
    queued: u32,
}

impl Sample {
    /// `tokens` are those of answers that have not ended, too.
    pub(crate) fn new(at: Duration, demand: &ServiceDemand, tokens: u64) -> Sample {
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let failed = demand.failed + demand.overflowed;
        Sample {
            at,
            arrived: demand.arrived,
            ended: demand.answered + failed + demand.abandoned,
            failed,
            tokens,
            first_token: demand.first_token.clone(),
            ready: small(demand.endpoints.values().filter(|endpoint| endpoint.ready).count() as u64),
            in_flight: small(demand.in_flight),
            queued: small(demand.queued),
        }
    }
}

/// One point of the charts.
#[derive(Clone, Copy, Debug)]
struct Point {
    ready: u32,
    in_flight: u32,
    queued: u32,
    requests_per_second: f32,
    tokens_per_second: f32,
    first_token_p95_ms: Option<f32>,
}

/// A service over time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    /// The latest samples, the oldest first, as far back as anything looks.
    recent: VecDeque<Sample>,
    points: VecDeque<Point>,
    end_ms: u64,
}

impl Track {
    /// Takes the next sample; `at_ms` is when, since 1970.
    pub(crate) fn take(&mut self, sample: Sample, at_ms: u64) {
        let (ready, in_flight, queued) = (sample.ready, sample.in_flight, sample.queued);
        let at = sample.at;
        self.recent.push_back(sample);
        while self.recent.front().is_some_and(|first| at.saturating_sub(first.at) > SHARE + STEP / 2) {
            self.recent.pop_front();
        }
        let rates = self.rates();
        if self.points.len() == KEPT {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            ready,
            in_flight,
            queued,
            requests_per_second: rates.requests_per_second as f32,
            tokens_per_second: rates.tokens_per_second as f32,
            first_token_p95_ms: rates.first_token_p95_ms.map(|ms| ms as f32),
        });
        self.end_ms = at_ms;
    }

    /// The last seconds.
    pub(crate) fn rates(&self) -> Rates {
        let (Some(last), Some(early), Some(earliest)) =
            (self.recent.back(), self.since(RATE), self.since(SHARE))
        else {
            return Rates::default();
        };
        let seconds = last.at.saturating_sub(early.at).as_secs_f64();
        if seconds == 0.0 {
            return Rates::default();
        }
        let grown = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let ended = grown(last.ended, earliest.ended);
        let failed = grown(last.failed, earliest.failed);
        let answers: Vec<u64> = last
            .first_token
            .iter()
            .zip(earliest.first_token.iter().chain(std::iter::repeat(&0)))
            .map(|(now, before)| now.saturating_sub(*before))
            .collect();
        Rates {
            requests_per_second: rounded(grown(last.arrived, early.arrived) / seconds),
            tokens_per_second: rounded(grown(last.tokens, early.tokens) / seconds),
            error_rate: if ended > 0.0 { rounded(failed / ended) } else { 0.0 },
            first_token_p50_ms: percentile(&answers, 0.5).map(rounded),
            first_token_p95_ms: percentile(&answers, 0.95).map(rounded),
        }
    }

    /// The last minutes.
    pub(crate) fn history(&self) -> History {
        let mut history = History {
            end_ms: self.end_ms,
            step_ms: u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX),
            ..History::default()
        };
        for point in &self.points {
            let Point {
                ready,
                in_flight,
                queued,
                requests_per_second,
                tokens_per_second,
                first_token_p95_ms,
            } = *point;
            history.ready.push(ready);
            history.in_flight.push(in_flight.into());
            history.queued.push(queued.into());
            history.requests_per_second.push(rounded(requests_per_second.into()));
            history.tokens_per_second.push(rounded(tokens_per_second.into()));
            history.first_token_p95_ms.push(first_token_p95_ms.map(|ms| rounded(ms.into())));
        }
        history
    }

    /// The oldest sample of the last so long.
    fn since(&self, long: Duration) -> Option<&Sample> {
        let last = self.recent.back()?;
        self.recent.iter().find(|sample| last.at.saturating_sub(sample.at) <= long + STEP / 2)
    }
}

/// What so large a share of the answers did not exceed, in milliseconds: evenly spread within a bucket, and the last bucket's beginning for what
/// has no end.
fn percentile(buckets: &[u64], share: f64) -> Option<f64> {
    let all: u64 = buckets.iter().sum();
    if all == 0 {
        return None;
    }
    let wanted = share * all as f64;
    let (mut below, mut begin) = (0.0, 0.0);
    for (count, end) in buckets.iter().zip(FIRST_TOKEN_BUCKETS_MS) {
        let (count, end) = (*count as f64, f64::from(end));
        if count > 0.0 && below + count >= wanted {
            return Some(begin + (end - begin) * (wanted - below) / count);
        }
        (below, begin) = (below + count, end);
    }
    Some(begin)
}

/// Three digits after the point are more than anybody reads.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two requests and twenty tokens a second, of which every tenth request fails; first tokens within 100 ms.
    fn second(number: u64) -> Sample {
        let mut first_token = vec![0; FIRST_TOKEN_BUCKETS_MS.len() + 1];
        first_token[3] = 2 * number;
        let demand = ServiceDemand {
            arrived: 2 * number,
            answered: 2 * number - number / 5,
            failed: number / 5,
            first_token,
            in_flight: number,
            ..ServiceDemand::default()
        };
        Sample::new(Duration::from_secs(number), &demand, 20 * number)
    }

    fn track(seconds: u64) -> Track {
        let mut track = Track::default();
        for number in 0..seconds {
            track.take(second(number), number * 1000);
        }
        track
    }

    #[test]
    fn rates_are_growth_over_time() {
        let rates = track(61).rates();
        assert_eq!((rates.requests_per_second, rates.tokens_per_second), (2.0, 20.0));
        assert_eq!(rates.error_rate, 0.1);
        assert_eq!((rates.first_token_p50_ms, rates.first_token_p95_ms), (Some(75.0), Some(97.5)));
    }

    #[test]
    fn one_sample_says_nothing_of_rates() {
        assert_eq!(Track::default().rates(), Rates::default());
        assert_eq!(track(1).rates(), Rates::default());
        assert_eq!(track(2).rates().requests_per_second, 2.0);
    }

    #[test]
    fn what_has_stopped_is_nothing_after_a_while() {
        let mut track = track(20);
        for number in 20..60 {
            track.take(Sample { at: Duration::from_secs(number), ..second(19) }, number * 1000);
        }
        assert_eq!(track.rates(), Rates::default());
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let history = track(1000).history();
        assert_eq!((history.ready.len(), history.in_flight.len()), (KEPT, KEPT));
        assert_eq!((history.in_flight[0], history.in_flight[KEPT - 1]), (100, 999));
        assert_eq!((history.end_ms, history.step_ms), (999_000, 1000));
        assert_eq!(history.first_token_p95_ms[KEPT - 1], Some(97.5));
        assert_eq!(track(2).history().first_token_p95_ms, [None, Some(97.5)]);
    }

    #[test]
    fn percentiles_lie_within_their_bucket() {
        let mut buckets = vec![0; FIRST_TOKEN_BUCKETS_MS.len() + 1];
        assert_eq!(percentile(&buckets, 0.5), None);
        buckets[0] = 1;
        assert_eq!(percentile(&buckets, 0.95), Some(9.5));
        buckets[FIRST_TOKEN_BUCKETS_MS.len()] = 99;
        assert_eq!(percentile(&buckets, 0.95), Some(300_000.0), "what has no end is not invented");
    }
}
