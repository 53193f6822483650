//! What the demand was over the last minute or so: sixty-odd buckets, whatever the number of lines.

use std::collections::VecDeque;
use std::time::Duration;

use wharf_api::demand::{FIRST_TOKEN_BUCKETS_MS, first_token_percentile};

/// Buckets of time to first token, with the one above all bounds.
pub(crate) const FIRST_TOKEN: usize = FIRST_TOKEN_BUCKETS_MS.len() + 1;
/// Into how many buckets the stable window is divided.
const BUCKETS: u32 = 60;
/// A percentile of fewer answers says little.
const FEWEST_ANSWERS: u64 = 5;

/// Over how long load is averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windows {
    /// The long window.
    pub stable: Duration,
    /// The short one, in which bursts show; at most as long.
    pub panic: Duration,
}

/// What the gateways know at a moment, or on average over a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Requests that endpoints work on.
    pub in_flight: f64,
    /// Requests that gateways hold.
    pub queued: f64,
    /// Requests that wait inside of endpoints.
    pub waiting: f64,
    /// Tokens of the prompts and answers that are worked on.
    pub tokens_in_flight: f64,
    /// Shares of KV caches in use, summed over the endpoints that take requests.
    pub kv_cache: f64,
    /// Endpoints that take requests and say how they are.
    pub endpoints: f64,
}

impl Gauges {
    fn add(&mut self, other: &Gauges, times: f64) {
        let Gauges { in_flight, queued, waiting, tokens_in_flight, kv_cache, endpoints } = other;
        self.in_flight += in_flight * times;
        self.queued += queued * times;
        self.waiting += waiting * times;
        self.tokens_in_flight += tokens_in_flight * times;
        self.kv_cache += kv_cache * times;
        self.endpoints += endpoints * times;
    }
}

/// What only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    pub(crate) arrived: u64,
    pub(crate) answered: u64,
    pub(crate) first_token: [u64; FIRST_TOKEN],
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Counters) {
        let Counters { arrived, answered, first_token } = other;
        self.arrived = self.arrived.saturating_add(*arrived);
        self.answered = self.answered.saturating_add(*answered);
        for (sum, n) in self.first_token.iter_mut().zip(first_token) {
            *sum = sum.saturating_add(*n);
        }
    }

    /// What was added since `before`; a counter that went back counts for nothing.
    pub(crate) fn since(&self, before: &Counters) -> Counters {
        let mut first_token = self.first_token;
        for (n, b) in first_token.iter_mut().zip(before.first_token) {
            *n = n.saturating_sub(b);
        }
        Counters {
            arrived: self.arrived.saturating_sub(before.arrived),
            answered: self.answered.saturating_sub(before.answered),
            first_token,
        }
    }
}

/// Load over one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Means over time.
    pub gauges: Gauges,
    /// Requests that came, a second.
    pub arrivals: f64,
    /// Requests that were answered, a second.
    pub answers: f64,
}

/// What is asked of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// At this moment.
    pub latest: Gauges,
    /// Over the long window.
    pub stable: Window,
    /// Over the short window.
    pub panic: Window,
    /// Requests that came since the beginning; it never goes back.
    pub arrived: u64,
    /// Time to first token that 95% of the answers of the long window kept; none where there were hardly any.
    pub ttft_p95: Option<Duration>,
    /// How long the oldest held request has waited.
    pub oldest_wait: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bucket {
    index: u64,
    covered: f64,
    integral: Gauges,
    counters: Counters,
}

/// Gauges integrated over time, and counters, in buckets of time.
#[derive(Clone, Debug)]
pub(crate) struct History {
    windows: Windows,
    width: Duration,
    buckets: VecDeque<Bucket>,
    last: Option<(Duration, Gauges)>,
    pub(crate) total: Counters,
}

impl History {
    pub(crate) fn new(windows: Windows) -> History {
        let width = (windows.stable / BUCKETS).max(Duration::from_millis(1));
        History { windows, width, buckets: VecDeque::new(), last: None, total: Counters::default() }
    }

    /// From `at` on the gauges are these; `None` where nobody knows.
    pub(crate) fn set(&mut self, at: Duration, gauges: Option<Gauges>) {
        self.advance(at);
        self.last = gauges.map(|g| (at, g));
    }

    pub(crate) fn count(&mut self, at: Duration, added: &Counters) {
        self.total.add(added);
        self.bucket(at).counters.add(added);
    }

    pub(crate) fn latest(&self) -> Option<Gauges> {
        self.last.map(|(_, g)| g)
    }

    /// Integrates up to `at`.
    pub(crate) fn advance(&mut self, at: Duration) {
        let Some((mut from, gauges)) = self.last else { return };
        // What is older than every window need not be walked through.
        from = from.max(at.saturating_sub(self.windows.stable + self.width));
        while from < at {
            let index = self.index(from);
            let end = at
                .min(self.width * u32::try_from(index + 1).unwrap_or(u32::MAX))
                .max(from + Duration::from_nanos(1));
            let length = (end - from).as_secs_f64();
            let bucket = self.bucket(from);
            bucket.covered += length;
            bucket.integral.add(&gauges, length);
            from = end;
        }
        self.last = Some((at.max(from), gauges));
    }

    pub(crate) fn window(&self, now: Duration, length: Duration) -> Window {
        let mut sum = Bucket::default();
        for bucket in self.recent(now, length) {
            sum.covered += bucket.covered;
            sum.integral.add(&bucket.integral, 1.0);
            sum.counters.add(&bucket.counters);
        }
        if sum.covered <= 0.0 {
            return Window { gauges: self.latest().unwrap_or_default(), ..Window::default() };
        }
        let mut gauges = Gauges::default();
        gauges.add(&sum.integral, 1.0 / sum.covered);
        // A rate of the first moments would be noise: it counts as if one tenth of the window had passed.
        let over = sum.covered.max(length.as_secs_f64() * 0.1);
        Window {
            gauges,
            arrivals: sum.counters.arrived as f64 / over,
            answers: sum.counters.answered as f64 / over,
        }
    }

    pub(crate) fn ttft_p95(&self, now: Duration) -> Option<Duration> {
        let mut sum = Counters::default();
        self.recent(now, self.windows.stable).for_each(|b| sum.add(&b.counters));
        percentile(&sum.first_token, 0.95)
    }

    pub(crate) fn windows(&self) -> Windows {
        self.windows
    }

    fn recent(&self, now: Duration, length: Duration) -> impl Iterator<Item = &Bucket> {
        let oldest = self.index(now.saturating_sub(length));
        // The bucket in which the window begins counts if the window covers most of it.
        let begins_late =
            now.saturating_sub(length).as_nanos() % self.width.as_nanos() * 2 > self.width.as_nanos();
        let oldest = oldest + u64::from(begins_late);
        self.buckets.iter().rev().take_while(move |b| b.index >= oldest)
    }

    fn index(&self, at: Duration) -> u64 {
        u64::try_from(at.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX)
    }

    fn bucket(&mut self, at: Duration) -> &mut Bucket {
        let index = self.index(at);
        if self.buckets.back().is_none_or(|b| b.index < index) {
            self.buckets.push_back(Bucket { index, ..Bucket::default() });
            while self.buckets.front().is_some_and(|b| b.index + u64::from(BUCKETS) + 2 < index) {
                self.buckets.pop_front();
            }
        }
        self.buckets.back_mut().expect("one was pushed where there was none")
    }
}

/// None of few answers.
fn percentile(counts: &[u64; FIRST_TOKEN], share: f64) -> Option<Duration> {
    let all = counts.iter().sum::<u64>();
    if all < FEWEST_ANSWERS {
        return None;
    }
    first_token_percentile(counts, share).map(|ms| Duration::from_secs_f64(ms / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { stable: Duration::from_secs(60), panic: Duration::from_secs(6) };
    const S: fn(u64) -> Duration = Duration::from_secs;

    fn queued(queued: f64) -> Option<Gauges> {
        Some(Gauges { queued, ..Gauges::default() })
    }

    #[test]
    fn a_mean_is_over_time_not_over_lines() {
        let mut history = History::new(WINDOWS);
        history.set(S(0), queued(0.0));
        history.set(S(50), queued(12.0));
        // Many lines that say the same change nothing.
        for ms in 0..100 {
            history.set(S(50) + Duration::from_millis(ms * 10), queued(12.0));
        }
        history.advance(S(60));
        assert!((history.window(S(60), S(60)).gauges.queued - 2.0).abs() < 1e-6);
        assert!((history.window(S(60), S(6)).gauges.queued - 12.0).abs() < 1e-6);
    }

    #[test]
    fn time_in_which_nobody_knew_is_not_counted() {
        let mut history = History::new(WINDOWS);
        history.set(S(0), queued(4.0));
        history.set(S(10), None);
        history.set(S(30), queued(4.0));
        history.advance(S(40));
        assert!((history.window(S(40), S(60)).gauges.queued - 4.0).abs() < 1e-6);
    }

    #[test]
    fn memory_stays_the_same_over_a_day() {
        let mut history = History::new(WINDOWS);
        for s in 0..86_400 {
            history.set(S(s), queued(s as f64));
            history.count(S(s), &Counters { arrived: 3, ..Counters::default() });
        }
        assert!(history.buckets.len() <= 64);
        history.advance(S(86_400));
        assert!((history.window(S(86_400), S(60)).arrivals - 3.0).abs() < 0.1);
        assert_eq!(history.total.arrived, 3 * 86_400);
        // A long silence is not walked through bucket by bucket.
        history.advance(S(86_400 * 3650));
        assert!(history.buckets.len() <= 64 * 2);
    }

    #[test]
    fn a_percentile_lies_within_its_bucket() {
        let mut counts = [0; FIRST_TOKEN];
        assert_eq!(percentile(&counts, 0.95), None);
        counts[2] = 100;
        assert_eq!(percentile(&counts, 0.95), Some(Duration::from_micros(48_750)));
        counts[FIRST_TOKEN - 1] = 1000;
        assert_eq!(percentile(&counts, 0.95), Some(S(300)));
    }
}
