//! What the policies are held to. Seeds here are not those that weights were chosen on.

use super::*;

fn scenario(kind: &str, engines: u32, seed: u64) -> Scenario {
    let traffic = Traffic::named().into_iter().find(|(name, _)| *name == kind).expect("a kind of traffic").1;
    Scenario {
        name: kind.to_owned(),
        engines,
        seed,
        traffic,
        requests: 350 * engines as usize,
        ..Scenario::default()
    }
}

fn outcomes(scenario: &Scenario) -> [Outcome; 3] {
    let report = simulate(scenario);
    println!("{}", report.table());
    ["roundRobin", "leastLoad", "prefix"].map(|name| report.outcome(name).expect("it was run").clone())
}

fn prefix_only(scenario: Scenario) -> Outcome {
    let compare = vec![Compared::plain(PolicyName::Prefix)];
    simulate(&Scenario { compare, ..scenario }).outcomes.remove(0)
}

/// Mean over seeds of a policy's time to first token by that of another.
fn ratio(runs: &[[Outcome; 3]], of: usize, by: usize) -> f64 {
    runs.iter().map(|run| run[of].ttft_mean / run[by].ttft_mean).sum::<f64>() / runs.len() as f64
}

const ROUND_ROBIN: usize = 0;
const LEAST_LOAD: usize = 1;
const PREFIX: usize = 2;

#[test]
fn conversations_begin_their_answers_four_times_sooner_than_with_round_robin() {
    for engines in [4, 8] {
        let [round_robin, _, prefix] = outcomes(&scenario("conversations", engines, 101));
        let ratio = prefix.ttft_mean / round_robin.ttft_mean;
        assert!(ratio <= 0.25, "{ratio} with {engines} engines");
    }
}

#[test]
fn prompts_with_nothing_in_common_lose_nothing() {
    let runs: Vec<[Outcome; 3]> =
        (101..104).map(|seed| outcomes(&scenario("independent", 4, seed))).collect();
    let (round_robin, least_load) = (ratio(&runs, PREFIX, ROUND_ROBIN), ratio(&runs, PREFIX, LEAST_LOAD));
    assert!(
        round_robin <= 1.0 && least_load <= 1.05,
        "{round_robin} of round robin, {least_load} of least load"
    );
}

#[test]
fn a_prefix_that_half_of_all_requests_share_overloads_nobody() {
    for engines in [4, 8] {
        let [round_robin, _, prefix] = outcomes(&scenario("hot prefix", engines, 102));
        assert!(prefix.imbalance <= 1.5 && prefix.imbalance_busy <= 1.5, "{}", prefix.imbalance);
        assert!(prefix.ttft_mean < round_robin.ttft_mean);
    }
}

#[test]
fn sessions_and_adapters_gain_as_well() {
    for kind in ["sessions", "adapters", "mixed"] {
        let [round_robin, least_load, prefix] = outcomes(&scenario(kind, 4, 103));
        let best = round_robin.ttft_mean.min(least_load.ttft_mean);
        assert!(prefix.ttft_mean < 0.6 * best, "{kind}: {} where {best} is possible", prefix.ttft_mean);
    }
}

#[test]
fn engines_that_join_and_leave_lose_nothing() {
    let change = |at_seconds, change| TimedChange { at_seconds, change };
    let changes = vec![
        change(20.0, Change::Joins),
        change(40.0, Change::Drains(1)),
        change(60.0, Change::Joins),
        change(70.0, Change::Drains(0)),
    ];
    for policy in [PolicyName::Prefix, PolicyName::LeastLoad, PolicyName::RoundRobin] {
        let compare = vec![Compared::plain(policy)];
        let scenario = Scenario { changes: changes.clone(), compare, ..scenario("mixed", 4, 104) };
        let report = simulate(&scenario);
        let outcome = &report.outcomes[0];
        let ended = (outcome.answered, outcome.broken, outcome.left_in_flight);
        assert_eq!(ended, (report.requests, 0, 0), "{policy:?}");
    }
}

#[test]
fn an_engine_that_dies_breaks_only_answers_that_had_begun() {
    let changes = vec![TimedChange { at_seconds: 50.0, change: Change::Dies(2) }];
    let scenario = Scenario { changes, rate: 1.2, ..scenario("independent", 4, 105) };
    let requests = simulate(&Scenario { compare: Vec::new(), ..scenario.clone() }).requests;
    let outcome = prefix_only(scenario);
    assert_eq!((outcome.answered + outcome.broken, outcome.left_in_flight), (requests, 0));
    assert!((1..=Engine::cpu().max_running as usize).contains(&outcome.broken), "{}", outcome.broken);
}

#[test]
fn a_gateway_that_starts_with_an_empty_index_recovers() {
    let undisturbed = prefix_only(scenario("conversations", 4, 106));
    let changes = vec![TimedChange { at_seconds: 100.0, change: Change::GatewaysRestart }];
    let restarted = prefix_only(Scenario { changes, ..scenario("conversations", 4, 106) });
    assert_eq!(restarted.left_in_flight, 0);
    assert_eq!(restarted.answered, undisturbed.answered);
    assert!(restarted.cached > undisturbed.cached - 0.05, "{} of {}", restarted.cached, undisturbed.cached);
    let last = restarted.ttft_thirds[2] / undisturbed.ttft_thirds[2];
    assert!(last < 1.2, "the last third waits {last} times as long");
}

#[test]
fn several_gateways_that_know_nothing_of_each_other_still_gain() {
    let [round_robin, _, prefix] = outcomes(&Scenario { gateways: 3, ..scenario("conversations", 4, 107) });
    assert!(prefix.ttft_mean < 0.75 * round_robin.ttft_mean);
    assert_eq!(prefix.left_in_flight, 0);

    // With sessions they agree where a conversation belongs.
    let mut named = Scenario { gateways: 3, ..scenario("conversations", 4, 107) };
    named.traffic.sessions = true;
    let sessions = prefix_only(named);
    assert!(sessions.ttft_mean < 0.8 * prefix.ttft_mean, "{} and {}", sessions.ttft_mean, prefix.ttft_mean);
}

#[test]
fn the_same_scenario_gives_the_same_report_and_json_brings_it_back() {
    let scenario = Scenario { requests: 200, ..scenario("mixed", 4, 1) };
    let report = simulate(&scenario);
    assert_eq!(report, simulate(&scenario));
    let back: Report = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(back.outcomes.len(), 3);
    let written = serde_json::to_string(&scenario).unwrap();
    assert_eq!(serde_json::from_str::<Scenario>(&written).unwrap(), scenario);
}

#[test]
fn a_limit_of_requests_holds_them_at_the_gateway_and_answers_all() {
    let policy = Policy { max_in_flight: Some(4), ..Policy::default() };
    let compare = vec![Compared { name: "limited".to_owned(), policy }];
    let report = simulate(&Scenario { compare, ..scenario("independent", 4, 108) });
    assert_eq!((report.outcomes[0].answered, report.outcomes[0].left_in_flight), (report.requests, 0));
}
