//! What a HorizontalPodAutoscaler would decide, after the documentation of Kubernetes ("Horizontal Pod Autoscaling", algorithm details, and
//! `behavior` of `autoscaling/v2`): `ceil(current · metric / target)` every 15 s, per target, the largest wins. It is here to be compared
//! with, and to tell users of `mode: hpa` what to expect.
//!
//! A pods metric is averaged over ready replicas. Replicas that are not ready are taken to use nothing where the mean asks for more, and all
//! of their target where it asks for fewer; if that turns the direction round, nothing changes. A metric that nobody reports blocks scaling
//! down only. It never sleeps: without `HPAScaleToZero`, min is at least 1.

use std::time::Duration;

use crate::Now;
use crate::asks::number;
use crate::changes::Changes;
use crate::decide::{Decision, Observed, floor, sentence};
use crate::extreme::Largest;
use crate::history::Window;
use crate::policy::{Policy, Targets};

/// How often the controller looks.
pub(crate) const SYNC: Duration = Duration::from_secs(15);

/// What the controller remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    wanted: Option<u32>,
    down: Largest,
    up: Largest,
    changes: Changes,
}

struct Metric {
    what: &'static str,
    target: fn(&Targets) -> Option<f64>,
    total: fn(&Window) -> Option<f64>,
    /// One number for all replicas (`External`, `AverageValue`), or a mean over ready ones (`Pods`).
    external: bool,
}

const METRICS: [Metric; 5] = [
    Metric {
        what: "requests at a time",
        target: |t| t.concurrency,
        total: |w| Some(w.gauges.in_flight + w.gauges.queued),
        external: true,
    },
    Metric {
        what: "requests/s",
        target: |t| t.requests_per_second,
        total: |w| Some(w.arrivals),
        external: false,
    },
    Metric {
        what: "waiting requests",
        target: |t| t.queue,
        total: |w| Some(w.gauges.queued + w.gauges.waiting),
        external: true,
    },
    Metric {
        what: "KV caches full",
        target: |t| t.kv_cache,
        total: |w| (w.gauges.endpoints > 0.0).then_some(w.gauges.kv_cache),
        external: false,
    },
    Metric {
        what: "tokens in flight",
        target: |t| t.tokens_in_flight,
        total: |w| Some(w.gauges.tokens_in_flight),
        external: false,
    },
];

/// One sync of the controller.
pub(crate) fn decide(state: &State, seen: &Observed, policy: &Policy, now: Now) -> Decision<State> {
    let mut state = state.clone();
    let at = now.elapsed;
    let by = i64::from(seen.wanted) - i64::from(state.wanted.unwrap_or(seen.wanted));
    state.changes.push(at, by, [&policy.up, &policy.down]);
    if state.wanted.replace(seen.wanted).is_none() {
        state.down.push(at, i64::from(seen.wanted), policy.down.stabilization);
    }
    let low = floor(policy, now).replicas.max(1);
    let high = policy.max.max(low);
    let (asked, mut why) = desired(seen, policy);
    let asked = asked.clamp(low, high);
    state.down.push(at, i64::from(asked), policy.down.stabilization);
    state.up.push(at, -i64::from(asked), policy.up.stabilization);
    let window = |w: &Largest| w.get().and_then(|n| u32::try_from(n.abs()).ok()).unwrap_or(asked);
    let replicas = if asked > seen.wanted {
        let stable = window(&state.up).max(seen.wanted);
        stable.min(state.changes.most(at, seen.wanted, &policy.up))
    } else {
        let stable = window(&state.down).min(seen.wanted);
        stable.max(state.changes.fewest(at, seen.wanted, &policy.down))
    };
    if replicas != asked {
        why = format!("{why} ask for {asked}, held by behavior");
    }
    let replicas = replicas.clamp(low, high);
    Decision { replicas, reason: sentence(replicas, &why), state }
}

fn desired(seen: &Observed, policy: &Policy) -> (u32, String) {
    let targets = policy.targets.effective();
    let (mut most, mut missing) = (None::<(u32, String)>, false);
    for metric in &METRICS {
        let Some(target) = (metric.target)(&targets) else { continue };
        let total = seen.load.as_ref().and_then(|load| (metric.total)(&load.panic));
        let Some(total) = total else {
            missing = true;
            continue;
        };
        let replicas = match metric.external {
            true => external(total, target, seen.wanted, policy),
            false => pods(total, target, seen, policy),
        };
        if most.as_ref().is_none_or(|(n, _)| replicas > *n) {
            most = Some((replicas, format!("{} {} at {} each", number(total), metric.what, number(target))));
        }
    }
    match most {
        None => (seen.wanted, "no metric is there".to_owned()),
        Some((n, _)) if missing && n < seen.wanted => (seen.wanted, "a metric is missing".to_owned()),
        Some(found) => found,
    }
}

/// Whether a ratio is as good as 1. Each direction may have a tolerance of its own.
fn is_near(ratio: f64, policy: &Policy) -> bool {
    (ratio - 1.0).abs() <= policy.tolerance(ratio > 1.0) + 1e-9
}

fn external(total: f64, target: f64, wanted: u32, policy: &Policy) -> u32 {
    let ratio = total / (target * f64::from(wanted.max(1)));
    if is_near(ratio, policy) { wanted } else { (total / target - 1e-9).ceil() as u32 }
}

fn pods(total: f64, target: f64, seen: &Observed, policy: &Policy) -> u32 {
    let (ready, starting) = (f64::from(seen.ready), f64::from(seen.starting));
    if seen.ready == 0 {
        return seen.wanted;
    }
    let ratio = total / ready / target;
    let up = ratio > 1.0;
    if seen.starting == 0 {
        return if is_near(ratio, policy) { seen.wanted } else { (ratio * ready - 1e-9).ceil() as u32 };
    }
    let assumed = if up { 0.0 } else { starting };
    let again = (total / target + assumed) / (ready + starting);
    let turned = (again > 1.0) != up;
    if is_near(again, policy) || turned {
        seen.wanted
    } else {
        (again * (ready + starting) - 1e-9).ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::history::{Gauges, Load};

    fn at(s: u64) -> Now {
        Now::after(Timestamp::UNIX_EPOCH, Duration::from_secs(s))
    }

    fn seen(wanted: u32, ready: u32, starting: u32, arrivals: f64) -> Observed {
        let panic = Window { arrivals, ..Window::default() };
        Observed { wanted, ready, starting, load: Some(Load { panic, ..Load::default() }) }
    }

    fn policy() -> Policy {
        let targets = Targets { requests_per_second: Some(10.0), ..Targets::default() };
        Policy { min: 1, max: 20, targets, ..Policy::default() }
    }

    fn replicas(seen: &Observed) -> u32 {
        decide(&State::default(), seen, &policy(), at(0)).replicas
    }

    #[test]
    fn the_documented_ratio_and_its_tolerance() {
        assert_eq!(replicas(&seen(3, 3, 0, 60.0)), 6);
        assert_eq!(replicas(&seen(3, 3, 0, 33.0)), 3);
        assert_eq!(replicas(&seen(3, 3, 0, 33.1)), 4);
        assert_eq!(replicas(&seen(3, 3, 0, 900.0)), 7);
    }

    #[test]
    fn each_direction_may_have_a_tolerance_of_its_own() {
        let mut policy = policy();
        (policy.up.tolerance, policy.down.stabilization) = (Some(0.01), Duration::ZERO);
        let replicas =
            |arrivals| decide(&State::default(), &seen(10, 10, 0, arrivals), &policy, at(0)).replicas;
        assert_eq!([95.0, 100.5, 102.0].map(replicas), [10, 10, 11]);
    }

    #[test]
    fn replicas_that_start_dampen_both_ways() {
        // 2 ready at twice the target, 2 starting: counted as idle, the ratio is 1.
        assert_eq!(replicas(&seen(4, 2, 2, 40.0)), 4);
        assert_eq!(replicas(&seen(4, 2, 2, 60.0)), 6);
    }

    #[test]
    fn going_down_waits_for_the_window_and_a_missing_metric_blocks_it() {
        let policy = policy();
        let first = decide(&State::default(), &seen(8, 8, 0, 10.0), &policy, at(0));
        assert_eq!(first.replicas, 8);
        let early = decide(&first.state, &seen(8, 8, 0, 10.0), &policy, at(299));
        assert_eq!(early.replicas, 8);
        let late = decide(&early.state, &seen(8, 8, 0, 10.0), &policy, at(315));
        assert_eq!(late.replicas, 1);
        let both = Policy { targets: Targets { kv_cache: Some(0.8), ..policy.targets }, ..policy };
        let missing = decide(&early.state, &seen(8, 8, 0, 10.0), &both, at(315));
        assert_eq!(missing.replicas, 8);
        assert_eq!(decide(&State::default(), &seen(4, 4, 0, 80.0), &both, at(0)).replicas, 8);
    }

    #[test]
    fn external_averages_count_the_gateways_queue() {
        let targets = Targets { queue: Some(5.0), ..Targets::default() };
        let gauges = Gauges { queued: 21.0, ..Gauges::default() };
        let panic = Window { gauges, ..Window::default() };
        let seen =
            Observed { wanted: 2, ready: 2, starting: 0, load: Some(Load { panic, ..Load::default() }) };
        let decision = decide(&State::default(), &seen, &Policy { targets, ..policy() }, at(0));
        assert_eq!(decision.reason, "5 replicas: 21 waiting requests at 5 each");
    }
}
