//! What the past says: how long a start takes, what a replica answers, how long a service sleeps, and who waits when it wakes. It decides
//! nothing but whether sleeping pays.
//!
//! Sleeping saves the replica-seconds until the next call. Waking costs the seconds that requests wait for the start. One replica stays
//! while
//!
//! ```text
//! price · E[waiting seconds of a herd] > E[seconds until the next call | idle for t already]
//! ```
//!
//! * The waiting seconds of a herd are ∫ n(s) ds over one start from the first call on, n(s) being the requests that came until s: what a
//!   sleeping service would have let wait. Calls that found a warm replica count too, so learning goes on while the floor is held.
//! * The expectation of the right side is the mean of (gap - t) over the remembered gaps that were longer than t. When none was, the next
//!   call is expected after as long again, so a floor is not held for ever for calls that no longer come.
//! * Both sides are means of the last 32 samples, and at least 3 are needed: a service is not kept warm on a hunch.

use std::collections::VecDeque;
use std::time::Duration;

/// How many samples are remembered: old habits should fade.
const SAMPLES: usize = 32;
/// Fewer say nothing.
const FEWEST: usize = 3;
/// How long a start takes, as long as none was seen.
const UNKNOWN_START: Duration = Duration::from_secs(60);
/// Starts whose begin is remembered.
const MOST_STARTS: usize = 256;

/// The last few numbers.
#[derive(Clone, Debug, Default, PartialEq)]
struct Samples(VecDeque<f64>);

impl Samples {
    fn push(&mut self, value: f64) {
        self.0.push_back(value);
        if self.0.len() > SAMPLES {
            self.0.pop_front();
        }
    }

    fn mean(&self) -> Option<f64> {
        (self.0.len() >= FEWEST).then(|| self.0.iter().sum::<f64>() / self.0.len() as f64)
    }

    fn quantile(&self, q: f64) -> Option<f64> {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        sorted.get((q * last as f64).round() as usize).copied()
    }
}

/// What the past says of sleeping.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Learned {
    /// Replicas that were there at the last look, and how many of them were ready.
    last: Option<(u32, u32)>,
    /// When the replicas that start began to.
    began: VecDeque<Duration>,
    starts: Samples,
    /// Pauses between calls that were longer than the time after which the service sleeps, whole.
    gaps: Samples,
    herds: Samples,
    herd: Option<Herd>,
    /// Requests a second that a loaded replica answered, and when the last sample was taken.
    answers: Samples,
    answers_at: Duration,
}

/// Calls after a pause, up to one start after the first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Herd {
    until: Duration,
    looked: Duration,
    came: u64,
    waited: f64,
}

/// Whether to keep one replica, with the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Worth {
    pub(crate) keep: bool,
    /// Seconds that the requests of a herd wait together.
    pub(crate) waiting: f64,
    /// Seconds that the service would sleep.
    pub(crate) asleep: f64,
}

impl Learned {
    /// Replicas at a moment: who became ready has started.
    pub(crate) fn replicas(&mut self, now: Duration, ready: u32, starting: u32) {
        let there = ready + starting;
        if let Some((was_there, was_ready)) = self.last {
            for _ in 0..there.saturating_sub(was_there).min(MOST_STARTS as u32) {
                self.began.push_back(now);
            }
            for _ in 0..ready.saturating_sub(was_ready) {
                if let Some(began) = self.began.pop_front() {
                    self.starts.push((now - began).as_secs_f64());
                }
            }
        }
        // What went before it was ready was the youngest.
        self.began.truncate((starting as usize).min(MOST_STARTS));
        self.last = Some((there, ready));
    }

    /// A pause in calls ended.
    pub(crate) fn woken(&mut self, now: Duration, gap: Duration) {
        self.gaps.push(gap.as_secs_f64());
        self.herd = Some(Herd { until: now + self.start(0.5), looked: now, came: 0, waited: 0.0 });
    }

    /// So many requests came since the last look.
    pub(crate) fn came(&mut self, now: Duration, requests: u64) {
        let Some(herd) = &mut self.herd else { return };
        let until = now.min(herd.until);
        herd.waited += herd.came as f64 * until.saturating_sub(herd.looked).as_secs_f64();
        herd.looked = until;
        herd.came += requests;
        if now >= herd.until {
            self.herds.push(herd.waited);
            self.herd = None;
        }
    }

    /// A loaded replica answered so many requests a second over a window that ends now. Windows that overlap count once.
    pub(crate) fn answered(&mut self, now: Duration, window: Duration, answers: f64) {
        if self.answers.0.is_empty() || now >= self.answers_at + window {
            self.answers.push(answers);
            self.answers_at = now;
        }
    }

    /// What a loaded replica answers a second. The upper quartile: windows in which it was not loaded all the time, or long answers had
    /// just begun, say too little.
    pub(crate) fn answers(&self) -> Option<f64> {
        self.answers.mean()?;
        self.answers.quantile(0.75)
    }

    /// How long a start takes, at most, in a share `q` of the cases.
    pub(crate) fn start(&self, q: f64) -> Duration {
        self.starts.quantile(q).map_or(UNKNOWN_START, Duration::from_secs_f64)
    }

    /// Whether sleeping would cost more than it saves, after `idle` without a call. `None`: too little is known.
    pub(crate) fn worth(&self, price: f64, idle: Duration) -> Option<Worth> {
        let waiting = self.herds.mean()?;
        self.gaps.mean()?;
        let idle = idle.as_secs_f64();
        let (mut sum, mut n) = (0.0, 0);
        for gap in self.gaps.0.iter().filter(|gap| **gap > idle) {
            sum += gap - idle;
            n += 1;
        }
        let asleep = if n > 0 { sum / f64::from(n) } else { idle };
        Some(Worth { keep: price * waiting > asleep, waiting, asleep })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn starts_are_measured_from_appearing_to_ready() {
        let mut learned = Learned::default();
        assert_eq!(learned.start(0.5), UNKNOWN_START);
        // One was already starting when we came: nobody knows since when.
        learned.replicas(S(0), 0, 1);
        learned.replicas(S(5), 1, 0);
        assert_eq!(learned.start(0.5), UNKNOWN_START);
        learned.replicas(S(10), 1, 2);
        learned.replicas(S(30), 2, 1);
        learned.replicas(S(50), 3, 0);
        assert_eq!((learned.start(0.0), learned.start(1.0)), (S(20), S(40)));
        // A start that is given up teaches nothing.
        learned.replicas(S(60), 3, 1);
        learned.replicas(S(70), 3, 0);
        learned.replicas(S(80), 3, 1);
        learned.replicas(S(90), 4, 0);
        assert_eq!(learned.start(0.0), S(10));
    }

    /// A service with starts of 20 s, called by `herd` requests at once every `gap` seconds.
    fn lived(herd: u64, gap: u64) -> Learned {
        let mut learned = Learned::default();
        let mut now = 0;
        for _ in 0..10 {
            learned.replicas(S(now), 0, 0);
            learned.replicas(S(now), 0, 1);
            learned.woken(S(now), S(gap));
            learned.came(S(now), herd);
            learned.replicas(S(now + 20), 1, 0);
            learned.came(S(now + 120), 0);
            now += gap;
        }
        learned
    }

    #[test]
    fn a_replica_stays_where_waiting_costs_more_than_sleeping_saves() {
        // Ten wait 20 s each: 200 s of waiting against 600 - 300 s of sleep.
        let worth = lived(10, 600).worth(1.0, S(300)).unwrap();
        assert_eq!((worth.keep, worth.asleep), (false, 300.0));
        assert!((worth.waiting - 200.0).abs() < 300.0);
        assert!(lived(10, 600).worth(2.0, S(300)).unwrap().keep);
        assert!(lived(100, 600).worth(1.0, S(300)).unwrap().keep);
        assert!(!lived(10, 36_000).worth(2.0, S(300)).unwrap().keep);
    }

    #[test]
    fn a_floor_is_let_go_when_calls_no_longer_come() {
        let learned = lived(10, 600);
        assert!(learned.worth(2.0, S(300)).unwrap().keep);
        // Longer than any pause so far.
        assert!(!learned.worth(2.0, S(700)).unwrap().keep);
    }

    #[test]
    fn nothing_is_kept_warm_on_a_hunch() {
        let mut learned = Learned::default();
        learned.woken(S(0), S(400));
        learned.came(S(0), 1000);
        learned.came(S(100), 0);
        assert_eq!(learned.worth(1000.0, S(300)), None);
    }
}
