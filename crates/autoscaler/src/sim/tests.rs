//! What any simulated world must keep, and what a report looks like.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::WarmFloor;

fn scenario(traffic: Traffic, minutes: u64) -> Scenario {
    Scenario { traffic, duration: Duration::from_secs(minutes * 60), ..Scenario::default() }
}

fn outcome<'a>(report: &'a Report, policy: &str) -> &'a Outcome {
    report.outcomes.iter().find(|o| o.policy == policy).unwrap()
}

fn assert_conserved(report: &Report) {
    for o in &report.outcomes {
        assert_eq!(o.arrived, o.answered + o.lost() + o.open, "{}", o.policy);
        assert_eq!(o.arrived, report.requests, "{}", o.policy);
    }
}

/// An hour of bursty code requests under every policy.
fn code() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(|| simulate(&scenario(Traffic::AzureCode { scale: 2.0 }, 60)).unwrap())
}

#[test]
fn every_request_is_answered_lost_or_open() {
    assert_conserved(code());
    let mut tight =
        scenario(Traffic::Bursty { calm_rps: 1.0, burst_rps: 80.0, calm_s: 60.0, burst_s: 20.0 }, 20);
    tight.gateway.queue = 20;
    tight.gateway.deadline = Duration::from_millis(500);
    let report = simulate(&tight).unwrap();
    assert_conserved(&report);
    let native = outcome(&report, "native");
    assert!(native.refused > 0 && native.timed_out > 0 && native.largest_queue == 20, "{}", report.table());
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let short = scenario(Traffic::AzureCode { scale: 2.0 }, 10);
    let (one, two) = (simulate(&short).unwrap(), simulate(&short).unwrap());
    assert!(one == two, "{}\n{}", one.table(), two.table());
    let other = simulate(&Scenario { seed: 2, ..short }).unwrap();
    assert!(one.requests != other.requests);
}

#[test]
fn constant_load_does_not_flap() {
    for rps in [2.0, 11.0, 25.0] {
        let mut steady = scenario(Traffic::Constant { rps }, 60);
        steady.compare = vec!["native".to_owned()];
        let report = simulate(&steady).unwrap();
        // The first minutes go into finding the number.
        let later = &report.outcomes[0].timeline.replicas[60..];
        let changes = later.windows(2).filter(|w| (w[0] - w[1]).abs() > 0.01).count();
        assert!(changes <= 2, "{changes} {}", report.table());
        assert_eq!(report.outcomes[0].lost(), 0);
    }
}

#[test]
fn replicas_stay_within_bounds_and_static_costs_the_most() {
    let report = code();
    let fixed = outcome(report, "static");
    assert!((fixed.replica_seconds - 12.0 * 3600.0).abs() < 12.0);
    for o in &report.outcomes {
        assert!(o.replica_seconds <= fixed.replica_seconds + 1.0);
        // Spans hold replicas that are ending, too; there are never more than asked for and those.
        assert!(o.timeline.replicas.iter().all(|n| *n >= 1.0 - 1e-9), "{}", o.policy);
    }
}

#[test]
fn a_herd_wakes_a_sleeping_service_and_none_of_it_is_lost() {
    let mut sleepy = scenario(Traffic::Herds { size: 20, every_s: 1500.0 }, 300);
    sleepy.gateway.line_every = Duration::from_secs(5);
    sleepy.policy.min = 0;
    sleepy.initial = 0;
    sleepy.policy.idle_after = Duration::from_secs(120);
    sleepy.compare = ["native", "kpa", "hpa"].map(str::to_owned).to_vec();
    let report = simulate(&sleepy).unwrap();
    assert_conserved(&report);
    let (native, hpa) = (outcome(&report, "native"), outcome(&report, "hpa"));
    assert_eq!(native.lost(), 0, "{}", report.table());
    assert!(native.replica_seconds < hpa.replica_seconds / 2.0, "{}", report.table());
    assert!(
        native.ups >= 3 && native.ups == native.downs + native.ups.abs_diff(native.downs),
        "{}",
        report.table()
    );
    // A herd waits for one start and little more.
    assert!(native.ttft_s.p50 < 120.0, "{}", report.table());
    // Whoever values waiting gets a warm replica, and says goodbye to most of the saving.
    sleepy.policy.warm_floor = WarmFloor::Learned { waiting_price: 20.0 };
    sleepy.compare.truncate(1);
    let warm = simulate(&sleepy).unwrap();
    let kept = outcome(&warm, "native");
    assert!(kept.ttft_misses < native.ttft_misses, "{}\n{}", report.table(), warm.table());
    assert!(kept.replica_seconds > native.replica_seconds, "{}\n{}", report.table(), warm.table());
}

#[test]
fn a_report_is_a_table_a_picture_and_json() {
    let report = code();
    let table = report.table();
    assert!(table.lines().count() == 7 && table.contains("native") && table.contains("ttft p50"), "{table}");
    let svg = report.svg().unwrap();
    assert!(svg.contains("Held requests") && svg.ends_with("</svg>\n"));
    assert!(&serde_json::from_str::<Report>(&report.to_json()).unwrap() == report);
}

#[test]
fn a_scenario_is_a_file_with_defaults_and_wrong_ones_say_why() {
    let text =
        r#"{"traffic": {"azure_code": {"scale": 2.0}}, "duration_s": 60, "policy": {"min": 0, "max": 3}}"#;
    let read: Scenario = serde_json::from_str(text).unwrap();
    assert_eq!((read.duration, read.policy.max), (Duration::from_secs(60), 3));
    assert_eq!(serde_json::from_str::<Scenario>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
    let error = |change: fn(&mut Scenario)| {
        let mut scenario = scenario(Traffic::Constant { rps: 1.0 }, 1);
        change(&mut scenario);
        simulate(&scenario).unwrap_err().to_string()
    };
    let unknown = "failed to find the policy best; there are native, hpa, kpa, static";
    assert_eq!(error(|s| s.compare = vec!["best".to_owned()]), unknown);
    assert_eq!(
        error(|s| s.duration = Duration::ZERO),
        "failed to simulate: the duration must be a positive number"
    );
    assert_eq!(error(|s| s.policy.max = 0), "failed to understand the policy of scenario conversation");
    let bursty = |s: &mut Scenario| {
        s.traffic = Traffic::Bursty { calm_rps: 1.0, burst_rps: 2.0, calm_s: 0.0, burst_s: 1.0 };
    };
    assert_eq!(error(bursty), "failed to simulate: calm_s must be a positive number");
    let missing = error(|s| s.traffic = Traffic::Trace { path: "no/such.csv".into() });
    assert_eq!(missing, "failed to read the trace no/such.csv");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_world_loses_count(
        seed in any::<u64>(),
        rps in 0.1..40.0,
        shape in 0.05..2.0,
        queue in 0usize..50,
        deadline in 1u64..100,
        kv_tokens in 500u64..50_000,
        max in 1u32..6,
        min in 0u32..3,
    ) {
        let mut any = scenario(Traffic::Gamma { rps, shape }, 4);
        any.seed = seed;
        any.gateway = Gateway { queue, deadline: Duration::from_secs(deadline), ..Gateway::default() };
        any.engine.kv_tokens = kv_tokens;
        any.policy.max = max;
        any.policy.min = min.min(max);
        any.policy.idle_after = Duration::from_secs(20);
        let report = simulate(&any).unwrap();
        for o in &report.outcomes {
            prop_assert_eq!(o.arrived, o.answered + o.lost() + o.open);
            prop_assert_eq!(o.arrived, report.requests);
            prop_assert!(o.ttft_misses <= o.arrived);
        }
    }
}
