//! Decisions as facts: moments in the life of a service, and what any input must keep.

use expect_test::{Expect, expect};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::Schedule;
use crate::history::{Gauges, Window};
use crate::policy::{Amount, Limit, Rules, Select, Targets};

/// Monday, 00:00 UTC.
const MONDAY: &str = "2026-01-05T00:00:00Z";

fn at(s: f64) -> Now {
    Now::after(MONDAY.parse::<Timestamp>().unwrap(), Duration::from_secs_f64(s))
}

fn policy(min: u32, max: u32) -> Policy {
    Policy {
        min,
        max,
        targets: Targets { concurrency: Some(8.0), ..Targets::default() },
        ..Policy::default()
    }
}

fn gauges(in_flight: f64, queued: f64) -> Gauges {
    Gauges { in_flight, queued, ..Gauges::default() }
}

/// The same load over every window.
fn steady(in_flight: f64, queued: f64) -> Load {
    let window = Window { gauges: gauges(in_flight, queued), ..Window::default() };
    Load { latest: window.gauges, stable: window, panic: window, ..Load::default() }
}

fn seen(wanted: u32, load: Load) -> Observed {
    Observed { wanted, ready: wanted, starting: 0, load: Some(load) }
}

/// A service that lives through moments one after the other; replicas are ready at once.
struct Life {
    state: State,
    policy: Policy,
    wanted: u32,
}

impl Life {
    fn new(policy: Policy, wanted: u32) -> Life {
        Life { state: State::default(), policy, wanted }
    }

    fn see(&mut self, s: f64, seen: &Observed) -> String {
        let Decision { replicas, reason, state } = decide(&self.state, seen, &self.policy, at(s));
        self.state = state;
        self.wanted = replicas;
        reason
    }

    fn at(&mut self, s: f64, load: Load) -> String {
        self.see(s, &seen(self.wanted, load))
    }
}

fn check(reasons: &[String], expected: Expect) {
    expected.assert_eq(&(reasons.join("\n") + "\n"));
}

#[test]
fn it_follows_load_up_at_once_and_down_when_the_window_is_over() {
    let mut life = Life::new(policy(1, 20), 2);
    let reasons = [
        life.at(0.0, steady(16.0, 0.0)),
        life.at(10.0, steady(24.0, 2.0)),
        life.at(20.0, steady(26.0, 0.0)),
        life.at(30.0, steady(3.0, 0.0)),
        life.at(319.0, steady(3.0, 0.0)),
        life.at(331.0, steady(3.0, 0.0)),
    ];
    check(
        &reasons,
        expect![[r#"
        2 replicas: 16 requests at a time at 8 each
        4 replicas: 26 requests at a time at 8 each
        4 replicas: 26 requests at a time at 8 each
        4 replicas: 3 requests at a time at 8 each ask for 1; 4 were asked for within the last 300 s
        4 replicas: 3 requests at a time at 8 each ask for 1; 4 were asked for within the last 300 s
        1 replica: 3 requests at a time at 8 each
    "#]],
    );
}

#[test]
fn a_burst_is_followed_before_the_long_window_knows_and_nothing_goes_meanwhile() {
    let mut life = Life::new(policy(1, 20), 2);
    life.policy.down.stabilization = Duration::ZERO;
    let burst = Load { panic: steady(40.0, 0.0).panic, ..steady(14.0, 0.0) };
    let reasons = [
        life.at(0.0, steady(14.0, 0.0)),
        life.at(1.0, burst),
        life.at(30.0, Load { latest: Gauges::default(), ..steady(1.0, 0.0) }),
        life.at(60.0, Load { latest: Gauges::default(), ..steady(1.0, 0.0) }),
        life.at(61.0, Load { latest: Gauges::default(), ..steady(1.0, 0.0) }),
    ];
    check(
        &reasons,
        expect![[r#"
            2 replicas: 14 requests at a time at 8 each
            5 replicas: a burst of 40 requests at a time at 8 each over 6 s
            5 replicas: 1 requests at a time at 8 each ask for 1; nothing is taken away so soon after a burst
            5 replicas: 1 requests at a time at 8 each ask for 1; nothing is taken away so soon after a burst
            1 replica: 1 requests at a time at 8 each
        "#]],
    );
}

#[test]
fn bursts_that_replicas_could_carry_keep_them() {
    let mut life = Life::new(policy(1, 20), 6);
    let short = Load { panic: steady(38.0, 0.0).panic, ..steady(3.0, 0.0) };
    let quiet = Load { latest: Gauges::default(), ..steady(3.0, 0.0) };
    life.at(0.0, short);
    life.at(200.0, short);
    let kept = life.at(499.0, quiet);
    assert_eq!(
        kept,
        "5 replicas: 3 requests at a time at 8 each ask for 1; 5 were asked for within the last 300 s"
    );
    life.at(500.0, quiet);
    assert_eq!(life.wanted, 1);
}

#[test]
fn a_service_sleeps_when_nobody_calls_and_wakes_once_for_a_herd() {
    let mut life = Life::new(policy(0, 5), 1);
    let waking = |queued| Observed { wanted: 1, ready: 0, starting: 1, load: Some(steady(0.0, queued)) };
    let reasons = [
        life.at(0.0, steady(1.0, 0.0)),
        life.at(299.0, steady(0.0, 0.0)),
        life.at(300.0, steady(0.0, 0.0)),
        life.at(4000.0, steady(0.0, 0.0)),
        life.at(4000.5, Load { latest: gauges(0.0, 1.0), ..Load::default() }),
        life.see(4000.6, &waking(2.0)),
        life.see(4010.0, &waking(15.0)),
        life.at(4020.0, steady(8.0, 0.0)),
    ];
    check(
        &reasons,
        expect![[r#"
            1 replica: 1 requests at a time at 8 each
            1 replica: awake until nobody called for 300 s
            0 replicas: nobody called for 300 s
            0 replicas: asleep until somebody calls
            1 replica: 1 requests wait for a sleeping service
            1 replica: 2 requests at a time at 8 each
            1 replica: 15 requests at a time at 8 each; replicas for them are starting
            1 replica: 8 requests at a time at 8 each
        "#]],
    );
}

#[test]
fn who_left_before_the_line_was_written_has_called_too() {
    let mut life = Life::new(policy(0, 5), 0);
    life.at(0.0, Load { arrived: 7, ..Load::default() });
    assert_eq!(life.wanted, 0);
    let reason = life.at(1.0, Load { arrived: 8, ..Load::default() });
    assert_eq!(reason, "1 replica: somebody called a sleeping service");
}

#[test]
fn a_herd_that_needs_more_wakes_more_at_once() {
    let load = Load { latest: gauges(0.0, 30.0), panic: steady(0.0, 30.0).panic, ..Load::default() };
    let decision = decide(&State::default(), &seen(0, load), &policy(0, 9), at(0.0));
    assert_eq!(decision.reason, "4 replicas: a burst of 30 requests at a time at 8 each over 6 s");
}

#[test]
fn a_fresh_start_takes_nothing_away_before_its_windows_are_full() {
    let mut life = Life::new(policy(0, 20), 7);
    for s in 0..300 {
        life.at(f64::from(s), steady(1.0, 0.0));
        assert_eq!(life.wanted, 7, "at {s}");
    }
    life.at(300.0, steady(1.0, 0.0));
    assert_eq!(life.wanted, 1);
    // Nor does it put a service to sleep, of whose calls it knows nothing.
    let mut life = Life::new(policy(0, 20), 1);
    life.at(0.0, steady(0.0, 0.0));
    life.at(299.0, steady(0.0, 0.0));
    assert_eq!(life.wanted, 1);
}

#[test]
fn nothing_is_taken_away_in_the_dark() {
    let dark = Observed { wanted: 4, ready: 4, starting: 0, load: None };
    let mut life = Life::new(policy(0, 20), 4);
    life.see(0.0, &dark);
    let reason = life.see(10_000.0, &dark);
    assert_eq!(reason, "4 replicas: no gateway reports; nothing is taken away");
    // A target without a number blocks the way down, not the way up.
    let mut life = Life::new(policy(1, 20), 4);
    life.policy.targets.kv_cache = Some(0.8);
    let reasons = [
        life.at(0.0, steady(1.0, 0.0)),
        life.at(1000.0, steady(1.0, 0.0)),
        life.at(1001.0, steady(56.0, 0.0)),
    ];
    check(
        &reasons,
        expect![[r#"
            4 replicas: nobody reports KV caches full; nothing is taken away
            4 replicas: nobody reports KV caches full; nothing is taken away
            7 replicas: 56 requests at a time at 8 each
        "#]],
    );
}

#[test]
fn bounds_and_schedules_hold_whatever_is_asked() {
    let mut life = Life::new(policy(2, 6), 2);
    life.policy.schedules.push(Schedule::new("0 8 * * *", "0 9 * * *", "Etc/UTC", 4).unwrap());
    let hour = 3600.0;
    let reasons = [
        life.at(7.0 * hour, steady(0.0, 0.0)),
        life.at(8.0 * hour, steady(0.0, 0.0)),
        life.at(8.5 * hour, steady(400.0, 0.0)),
        life.at(9.5 * hour, steady(0.0, 0.0)),
    ];
    check(
        &reasons,
        expect![[r#"
            2 replicas: min is 2
            4 replicas: a schedule keeps 4
            6 replicas: 400 requests at a time at 8 each ask for 50; max is 6
            2 replicas: min is 2
        "#]],
    );
}

#[test]
fn each_direction_may_ignore_differences_of_its_own_size() {
    let wanted = |policy: &Policy, in_flight| {
        let mut life = Life::new(policy.clone(), 10);
        life.at(0.0, steady(80.0, 0.0));
        life.at(1000.0, steady(in_flight, 0.0));
        life.wanted
    };
    let even = policy(1, 100);
    let mut eager = even.clone();
    (eager.up.tolerance, eager.down.tolerance) = (Some(0.01), Some(0.3));
    // 9% more and 25% less than ten replicas carry.
    assert_eq!([87.0, 60.0].map(|load| wanted(&even, load)), [10, 8]);
    assert_eq!([87.0, 60.0].map(|load| wanted(&eager, load)), [11, 10]);
}

#[test]
fn limits_of_speed_hold_both_ways() {
    let mut life = Life::new(policy(1, 100), 2);
    life.policy.down = Rules {
        stabilization: Duration::ZERO,
        select: Select::Max,
        limits: vec![Limit { most: Amount::Replicas(1), every: Duration::from_secs(60) }],
        tolerance: None,
    };
    let up = life.at(0.0, steady(400.0, 0.0));
    life.at(1.0, steady(400.0, 0.0));
    life.at(15.0, steady(400.0, 0.0));
    assert_eq!(
        (up.as_str(), life.wanted),
        (
            "6 replicas: 400 requests at a time at 8 each ask for 50; no number further is within the limits of speed",
            6
        )
    );
    life.at(16.0, steady(96.0, 0.0));
    assert_eq!(life.wanted, 12);
    life.at(17.0, steady(96.0, 0.0));
    life.at(100.0, steady(8.0, 0.0));
    life.at(130.0, steady(8.0, 0.0));
    assert_eq!(life.wanted, 11);
}

#[test]
fn requests_in_flight_keep_their_replicas() {
    let mut life = Life::new(policy(1, 20), 4);
    life.at(0.0, steady(30.0, 0.0));
    // The windows have forgotten, but the requests are still there.
    let reason = life.at(1000.0, Load { latest: gauges(20.0, 0.0), ..steady(1.0, 0.0) });
    assert_eq!(reason, "3 replicas: 20 requests in flight need 3");
}

#[test]
fn slow_first_tokens_add_a_step_once_the_last_one_had_its_effect() {
    let mut life = Life::new(policy(1, 20), 2);
    life.policy.targets.ttft_p95 = Some(Duration::from_secs(2));
    let slow = Load { ttft_p95: Some(Duration::from_secs(5)), ..steady(1.0, 0.0) };
    let numbers: Vec<u32> = [0.0, 59.0, 60.0, 61.0, 100.0, 125.0]
        .into_iter()
        .map(|s| {
            life.at(s, slow);
            life.wanted
        })
        .collect();
    assert_eq!(numbers, [2, 2, 3, 3, 3, 4]);
}

#[test]
fn a_small_difference_is_none() {
    let ask = |in_flight| {
        decide(&State::default(), &seen(10, steady(in_flight, 0.0)), &policy(1, 20), at(0.0)).replicas
    };
    assert_eq!([80.0, 87.9, 88.5].map(ask), [10, 10, 12]);
}

#[test]
fn a_replica_is_kept_warm_where_that_is_cheaper() {
    let mut life = Life::new(policy(0, 5), 1);
    life.policy.idle_after = Duration::from_secs(30);
    life.policy.warm_floor = WarmFloor::Learned { waiting_price: 5.0 };
    let mut arrived = 0;
    let mut reasons = Vec::new();
    // Ten requests every two minutes; a start takes 20 s.
    for round in 0..6 {
        let s = f64::from(round) * 120.0;
        arrived += 10;
        let called = Load { arrived, ..steady(4.0, 0.0) };
        let quiet = Load { arrived, ..Load::default() };
        let asleep = life.wanted == 0;
        life.at(s, called);
        if asleep {
            life.see(s, &Observed { wanted: 1, ready: 0, starting: 1, load: Some(called) });
        }
        for later in [20.0, 62.0, 90.0] {
            reasons.push(life.at(s + later, quiet));
        }
    }
    check(
        &[reasons[1].clone(), reasons[2].clone(), reasons[17].clone()],
        expect![[r#"
            0 replicas: nobody called for 62 s
            0 replicas: asleep until somebody calls
            1 replica: kept warm: waking would let requests wait for 280 s together, worth 1400 replica-seconds; sleeping would save 30
        "#]],
    );
}

fn any_load() -> impl Strategy<Value = Load> {
    let number = || prop_oneof![Just(0.0), 0.0..500.0];
    (number(), number(), number(), number(), number(), 0u64..100).prop_map(|(a, b, c, d, rate, arrived)| {
        Load {
            latest: gauges(a, b),
            stable: Window { gauges: gauges(c, d), arrivals: rate, answers: rate / 2.0 },
            panic: Window { gauges: gauges(a, b), arrivals: rate, answers: rate / 2.0 },
            arrived,
            ..Load::default()
        }
    })
}

fn any_seen() -> impl Strategy<Value = Observed> {
    (0u32..30, 0u32..30, prop::option::weighted(0.9, any_load())).prop_map(|(wanted, ready, load)| {
        let ready = ready.min(wanted);
        Observed { wanted, ready, starting: wanted - ready, load }
    })
}

proptest! {
    #[test]
    fn replicas_lie_within_the_bounds(min in 0u32..5, more in 1u32..20, looks in prop::collection::vec((any_seen(), 0.0..400.0), 1..20)) {
        let policy = Policy { warm_floor: WarmFloor::Learned { waiting_price: 3.0 }, ..policy(min, min + more) };
        let mut life = Life::new(policy, 0);
        let mut s = 0.0;
        for (seen, later) in looks {
            s += later;
            life.see(s, &seen);
            prop_assert!(life.wanted >= min && life.wanted <= min + more);
        }
    }

    #[test]
    fn more_demand_never_means_fewer_replicas(seen in any_seen(), more in 0.0..100.0, where_ in 0usize..8) {
        let Some(load) = seen.load else { return Ok(()) };
        let mut higher = load;
        let gauge = [
            &mut higher.latest.in_flight, &mut higher.latest.queued, &mut higher.stable.gauges.in_flight,
            &mut higher.stable.gauges.queued, &mut higher.panic.gauges.in_flight, &mut higher.panic.gauges.queued,
            &mut higher.stable.arrivals, &mut higher.panic.arrivals,
        ];
        *gauge.into_iter().nth(where_).unwrap() += more;
        let replicas = |load| decide(&State::default(), &Observed { load: Some(load), ..seen }, &policy(0, 100), at(0.0)).replicas;
        prop_assert!(replicas(higher) >= replicas(load));
    }
}
