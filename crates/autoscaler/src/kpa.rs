//! A policy as Knative's autoscaler (knative/serving: docs/scaling/SYSTEM.md and the defaults of config-autoscaler): concurrency over a stable
//! window of 60 s at 70% of the target, a panic window of a tenth at twice the capacity, up a thousandfold and down by half at most, zero
//! after the stable window and 30 s of grace, and an activator that wakes the service. It is here to be compared with.
//!
//! It looks at concurrency alone, or at requests per second where the policy has no target of concurrency.

use std::time::Duration;

use crate::Now;
use crate::asks::number;
use crate::decide::{Decision, Observed, floor, sentence};
use crate::history::Window;
use crate::policy::Policy;

/// How often it looks.
pub(crate) const TICK: Duration = Duration::from_secs(2);
/// Which share of a target it aims at.
const UTILISATION: f64 = 0.7;
const PANIC: f64 = 2.0;
const MAX_UP: f64 = 1000.0;
const MAX_DOWN: f64 = 2.0;
const GRACE: Duration = Duration::from_secs(30);
/// What a replica is taken to carry where the policy says nothing.
const CONCURRENCY: f64 = 100.0;

/// What it remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    began: Option<Duration>,
    panic: Option<(Duration, u32)>,
    /// Since when nothing is asked for.
    idle: Option<Duration>,
}

/// One look.
pub(crate) fn decide(state: &State, seen: &Observed, policy: &Policy, now: Now) -> Decision<State> {
    let mut state = state.clone();
    let at = now.elapsed;
    let began = *state.began.get_or_insert(at);
    let low = floor(policy, now).replicas;
    let decision = |replicas: u32, why: String, state| {
        let replicas = replicas.clamp(low, policy.max);
        Decision { replicas, reason: sentence(replicas, &why), state }
    };
    let Some(load) = &seen.load else { return decision(seen.wanted, "no metric is there".to_owned(), state) };
    let busy = load.latest.in_flight + load.latest.queued > 0.0;
    if seen.wanted == 0 {
        let woken = u32::from(busy);
        return decision(
            woken,
            if busy { "the activator holds requests" } else { "asleep" }.to_owned(),
            state,
        );
    }
    let ask = |window: &Window| match (policy.targets.concurrency, policy.targets.requests_per_second) {
        (None, Some(rate)) => window.arrivals / (rate * UTILISATION),
        (target, _) => {
            (window.gauges.in_flight + window.gauges.queued) / (target.unwrap_or(CONCURRENCY) * UTILISATION)
        }
    };
    let ready = f64::from(seen.ready.max(1));
    let limit = |asked: f64| asked.ceil().min((ready * MAX_UP).ceil()).max((ready / MAX_DOWN).floor()) as u32;
    let (stable, burst) = (limit(ask(&load.stable)), limit(ask(&load.panic)));
    if ask(&load.panic) / ready >= PANIC {
        let highest = state.panic.map_or(0, |(_, n)| n);
        state.panic = Some((at, burst.max(highest).max(seen.wanted)));
    } else if state.panic.is_some_and(|(since, _)| at >= since + policy.stable_window) {
        state.panic = None;
    }
    if let Some((_, most)) = state.panic {
        return decision(most, format!("a burst asks for {burst}, nothing is taken away"), state);
    }
    // A fresh one does not know what a whole window would say.
    if at < began + policy.stable_window && stable < seen.wanted {
        return decision(seen.wanted, "the window is not full".to_owned(), state);
    }
    state.idle = if busy || ask(&load.stable) > 0.0 { None } else { Some(state.idle.unwrap_or(at)) };
    let slept_enough = state.idle.is_some_and(|since| at >= since + GRACE);
    let replicas = if slept_enough { 0 } else { stable.max(1) };
    decision(replicas, format!("the window asks for {}", number(ask(&load.stable))), state)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::history::{Gauges, Load};
    use crate::policy::Targets;

    fn look(state: &State, wanted: u32, stable: f64, panic: f64, s: u64) -> Decision<State> {
        let window =
            |in_flight| Window { gauges: Gauges { in_flight, ..Gauges::default() }, ..Window::default() };
        let load = Load {
            stable: window(stable),
            panic: window(panic),
            latest: window(panic).gauges,
            ..Load::default()
        };
        let targets = Targets { concurrency: Some(10.0), ..Targets::default() };
        let policy = Policy { min: 0, max: 100, targets, ..Policy::default() };
        let seen = Observed { wanted, ready: wanted, starting: 0, load: Some(load) };
        decide(state, &seen, &policy, Now::after(Timestamp::UNIX_EPOCH, Duration::from_secs(s)))
    }

    #[test]
    fn it_aims_below_the_target_and_follows_bursts_at_once() {
        let mut state = look(&State::default(), 1, 7.0, 7.0, 0).state;
        assert_eq!(look(&state, 1, 14.0, 7.0, 100).replicas, 2);
        let burst = look(&state, 1, 7.0, 70.0, 100);
        assert_eq!(burst.replicas, 10);
        state = burst.state;
        assert_eq!(look(&state, 10, 7.0, 7.0, 120).replicas, 10);
        assert_eq!(look(&state, 10, 7.0, 7.0, 160).replicas, 5);
    }

    #[test]
    fn it_sleeps_after_the_grace_and_the_activator_wakes_it() {
        let state = look(&State::default(), 1, 0.0, 0.0, 0).state;
        let idle = look(&state, 1, 0.0, 0.0, 100);
        assert_eq!(idle.replicas, 1);
        let asleep = look(&idle.state, 1, 0.0, 0.0, 130);
        assert_eq!(asleep.replicas, 0);
        assert_eq!(look(&asleep.state, 0, 0.0, 3.0, 140).replicas, 1);
    }
}
