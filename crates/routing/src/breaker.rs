//! Whether an endpoint that failed may be tried again.
//!
//! Closed: requests go there. After several failures in a row it opens: nothing goes there for a while, twice as long each time. Then it is
//! half open: exactly one request is a probe, the others go elsewhere until it has ended; when that one succeeds the breaker closes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Now;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open the first time, in seconds.
    pub open_seconds: f64,
    /// How long it stays open at most, in seconds.
    pub max_open_seconds: f64,
    /// Share of a service's endpoints that may be out because of failures; the others are tried even so, since a broken answer tells
    /// more than none.
    pub max_ejected: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig { failures: 5, open_seconds: 1.0, max_open_seconds: 30.0, max_ejected: 0.5 }
    }
}

/// Of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Breaker {
    state: State,
    /// How often it has opened without closing in between.
    opened: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed { failures: u32 },
    Open { until: Now },
    Probing,
}

impl Default for State {
    fn default() -> Self {
        State::Closed { failures: 0 }
    }
}

/// Whether a request may go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Any request.
    All,
    /// One request, to see whether the endpoint works again.
    OneProbe,
    /// None before this time; none at all until a running probe has ended if it is absent.
    Nothing(Option<Now>),
}

impl Breaker {
    /// Whether a request may go there now.
    pub fn admits(&self, now: Now) -> Admits {
        match self.state {
            State::Closed { .. } => Admits::All,
            State::Open { until } if now >= until => Admits::OneProbe,
            State::Open { until } => Admits::Nothing(Some(until)),
            State::Probing => Admits::Nothing(None),
        }
    }

    /// A request is sent there; says whether it is the probe.
    pub fn sent(&mut self, now: Now) -> bool {
        let probe = self.admits(now) == Admits::OneProbe;
        if probe {
            self.state = State::Probing;
        }
        probe
    }

    /// A request has succeeded. One that was sent before the breaker opened says nothing about now.
    pub fn succeeded(&mut self, probe: bool) {
        match self.state {
            State::Closed { .. } => *self = Breaker::default(),
            State::Probing if probe => *self = Breaker::default(),
            State::Open { .. } | State::Probing => {}
        }
    }

    /// A request has failed through the endpoint's fault.
    pub fn failed(&mut self, probe: bool, now: Now, config: &BreakerConfig) {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= config.failures {
                    self.open(now, config);
                }
            }
            State::Probing if probe => self.open(now, config),
            State::Open { .. } | State::Probing => {}
        }
    }

    /// A request ended without saying anything about the endpoint: its client left, or it was refused for being too much.
    pub fn said_nothing(&mut self, probe: bool, now: Now) {
        if probe && self.state == State::Probing {
            // The next one probes instead.
            self.state = State::Open { until: now };
        }
    }

    /// Whether it has opened and not closed since.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    fn open(&mut self, now: Now, config: &BreakerConfig) {
        let seconds =
            (config.open_seconds * f64::from(self.opened.min(16)).exp2()).min(config.max_open_seconds);
        self.opened = self.opened.saturating_add(1);
        self.state = State::Open { until: now + Duration::from_secs_f64(seconds.max(0.0)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig =
        BreakerConfig { failures: 3, open_seconds: 1.0, max_open_seconds: 3.0, max_ejected: 0.5 };

    fn at(seconds: f64) -> Now {
        Duration::from_secs_f64(seconds)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert_eq!(breaker.admits(at(0.0)), Admits::All);
            breaker.failed(false, at(0.0), &CONFIG);
        }
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_and_a_success_starts_the_count_again() {
        let mut breaker = Breaker::default();
        breaker.failed(false, at(0.0), &CONFIG);
        breaker.failed(false, at(0.0), &CONFIG);
        breaker.succeeded(false);
        breaker.failed(false, at(0.0), &CONFIG);
        assert_eq!(breaker.admits(at(0.0)), Admits::All);
        assert_eq!(opened().admits(at(0.5)), Admits::Nothing(Some(at(1.0))));
    }

    #[test]
    fn half_open_admits_one_probe_and_nothing_beside_it() {
        let mut breaker = opened();
        assert_eq!(breaker.admits(at(1.0)), Admits::OneProbe);
        assert!(breaker.sent(at(1.0)));
        assert_eq!(breaker.admits(at(9.0)), Admits::Nothing(None));
        breaker.succeeded(true);
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn a_failed_probe_opens_it_for_twice_as_long_up_to_the_limit() {
        let mut breaker = opened();
        let mut waits = Vec::new();
        let mut now = at(1.0);
        for _ in 0..3 {
            assert!(breaker.sent(now));
            breaker.failed(true, now, &CONFIG);
            let Admits::Nothing(Some(until)) = breaker.admits(now) else { panic!("it is open") };
            waits.push((until - now).as_secs_f64());
            now = until;
        }
        assert_eq!(waits, [2.0, 3.0, 3.0]);
    }

    #[test]
    fn what_was_sent_before_it_opened_neither_closes_nor_prolongs_it() {
        let mut breaker = opened();
        breaker.succeeded(false);
        breaker.failed(false, at(0.9), &CONFIG);
        assert_eq!(breaker.admits(at(0.9)), Admits::Nothing(Some(at(1.0))));
    }

    #[test]
    fn a_probe_whose_client_left_lets_the_next_request_probe() {
        let mut breaker = opened();
        assert!(breaker.sent(at(1.0)));
        breaker.said_nothing(true, at(1.5));
        assert_eq!(breaker.admits(at(1.5)), Admits::OneProbe);
    }
}
