//! What a service does, told as facts.

use std::time::Duration;

use super::*;
use crate::policy::PolicyName;

fn at(seconds: f64) -> Now {
    Duration::from_secs_f64(seconds)
}

fn service(policy: PolicyName, endpoints: usize) -> Service {
    let mut service = Service::new(Policy { policy, ..Policy::default() });
    let endpoints: Vec<Endpoint> = (0..endpoints).map(|i| Endpoint::ready(format!("e{i}"), "blue")).collect();
    service.set_endpoints(&endpoints);
    service
}

fn prompt(text: &str) -> Prompt {
    Prompt::new(0, [text.as_bytes()])
}

/// A request with this prompt and nothing special.
fn plain(prompt: &Prompt) -> Request<'_> {
    let tokens = (prompt.bytes as u64).div_ceil(4);
    Request { prompt, tokens, answer_tokens: 100, adapter: None, session: None, tried: &[] }
}

fn go(service: &mut Service, request: &Request<'_>) -> String {
    let pick = service.pick(request, at(0.0)).expect("somebody can");
    service.finish(pick.ticket, Outcome::Answered, at(0.0));
    pick.address
}

#[test]
fn round_robin_goes_round() {
    let mut service = service(PolicyName::RoundRobin, 3);
    let prompt = prompt("hello");
    let went: Vec<String> = (0..6).map(|_| go(&mut service, &plain(&prompt))).collect();
    assert_eq!(went, ["e0", "e1", "e2", "e0", "e1", "e2"]);
}

#[test]
fn least_load_avoids_who_is_busy_even_with_others_requests() {
    let mut service = service(PolicyName::LeastLoad, 3);
    let prompt = prompt("hello");
    let held = service.pick(&plain(&prompt), at(0.0)).unwrap();
    assert_eq!(held.address, "e0");
    service.reported("e1", Load { running: 5, ..Load::default() }, at(0.0));
    assert_eq!(go(&mut service, &plain(&prompt)), "e2");
    assert_eq!(go(&mut service, &plain(&prompt)), "e2");
    service.finish(held.ticket, Outcome::Answered, at(0.0));
    assert_eq!(service.in_flight(), 0);
}

#[test]
fn a_conversation_goes_back_to_where_its_prefix_is() {
    let mut service = service(PolicyName::Prefix, 4);
    let first = "a long system prompt. ".repeat(40);
    let turn = prompt(&first);
    let place = go(&mut service, &plain(&turn));
    for other in 0..6 {
        let other = prompt(&format!("{other}").repeat(900));
        go(&mut service, &plain(&other));
    }
    let second = prompt(&(first + &"and what then? ".repeat(9)));
    let pick = service.pick(&plain(&second), at(0.0)).unwrap();
    assert_eq!(pick.address, place);
    assert!(pick.cached > 0.8, "{}", pick.cached);
    service.finish(pick.ticket, Outcome::Answered, at(0.0));
}

#[test]
fn a_prefix_that_everybody_shares_does_not_pile_up_on_one_endpoint() {
    let mut service = service(PolicyName::Prefix, 4);
    let shared = prompt(&"the same for all. ".repeat(50));
    let mut tickets = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let pick = service.pick(&plain(&shared), at(0.0)).unwrap();
        *counts.entry(pick.address).or_insert(0) += 1;
        tickets.push(pick.ticket);
    }
    let (least, most) = (*counts.values().min().unwrap(), *counts.values().max().unwrap());
    assert_eq!(counts.len(), 4);
    assert!(most - least <= 4, "{counts:?}");
    for ticket in tickets {
        service.finish(ticket, Outcome::Answered, at(0.0));
    }
}

#[test]
fn a_cached_prompt_is_computed_elsewhere_when_the_queue_there_costs_more() {
    let mut service = service(PolicyName::Prefix, 2);
    let long = prompt(&"x".repeat(4000));
    let place = go(&mut service, &plain(&long));
    let waiting = Load { running: 8, waiting: 30, ..Load::default() };
    service.reported(&place, waiting, at(0.0));
    assert_ne!(go(&mut service, &plain(&long)), place);
}

#[test]
fn sessions_and_adapters_attract_their_requests() {
    let mut service = service(PolicyName::Prefix, 3);
    let empty = prompt("");
    let with_session = |n: u64| Request { session: Some(n), tokens: 50, ..plain(&empty) };
    let place = go(&mut service, &with_session(1));
    go(&mut service, &plain(&empty));
    go(&mut service, &plain(&empty));
    assert_eq!(go(&mut service, &with_session(1)), place);

    service.reported("e2", Load { adapters: vec!["sql".to_owned()], ..Load::default() }, at(0.0));
    let adapter = Request { adapter: Some("sql"), ..plain(&empty) };
    assert_eq!([go(&mut service, &adapter), go(&mut service, &adapter)], ["e2", "e2"]);
}

#[test]
fn gateways_that_know_nothing_of_each_other_send_a_session_to_the_same_endpoint() {
    let empty = prompt("");
    for session in 0..20 {
        let request = Request { session: Some(session), tokens: 50, ..plain(&empty) };
        let (mut one, mut other) = (service(PolicyName::Prefix, 5), service(PolicyName::Prefix, 5));
        let place = go(&mut one, &request);
        assert_eq!(go(&mut other, &request), place);
        // Fewer endpoints move only the sessions of those that are gone.
        let fewer: Vec<Endpoint> = (0..5)
            .rev()
            .map(|i| format!("e{i}"))
            .filter(|name| *name != "e3")
            .map(|name| Endpoint::ready(name, "blue"))
            .collect();
        let mut third = Service::new(Policy::default());
        third.set_endpoints(&fewer);
        assert!(place == "e3" || go(&mut third, &request) == place);
    }
}

#[test]
fn requests_of_ours_that_have_ended_are_not_taken_for_those_of_others() {
    let mut service = service(PolicyName::LeastLoad, 2);
    let hello = prompt("hello");
    let held: Vec<Pick> =
        (0..4).map(|_| service.pick(&Request { tried: &[1], ..plain(&hello) }, at(0.0)).unwrap()).collect();
    service.reported("e0", Load { running: 4, ..Load::default() }, at(0.0));
    held.into_iter().for_each(|pick| service.finish(pick.ticket, Outcome::Answered, at(0.0)));
    let other = service.pick(&Request { tried: &[0], ..plain(&hello) }, at(0.0)).unwrap();
    assert_eq!(go(&mut service, &plain(&hello)), "e0", "it has nothing, the other has one");
    service.finish(other.ticket, Outcome::Answered, at(0.0));
}

#[test]
fn a_full_kv_cache_repels() {
    let mut service = service(PolicyName::Prefix, 2);
    service.reported("e0", Load { kv_cache: 0.98, ..Load::default() }, at(0.0));
    let prompt = prompt("hello");
    assert_eq!([go(&mut service, &plain(&prompt)), go(&mut service, &plain(&prompt))], ["e1", "e1"]);
}

#[test]
fn what_was_said_long_ago_is_not_believed() {
    let mut service = service(PolicyName::LeastLoad, 2);
    service.reported("e0", Load { running: 50, ..Load::default() }, at(0.0));
    let prompt = prompt("hello");
    let pick = service.pick(&plain(&prompt), at(60.0)).unwrap();
    assert_eq!(pick.address, "e0");
    service.finish(pick.ticket, Outcome::Answered, at(60.0));
}

#[test]
fn shares_hold_for_any_run_of_requests() {
    let mut service = service(PolicyName::RoundRobin, 0);
    service.set_endpoints(&[Endpoint::ready("old", "blue"), Endpoint::ready("new", "green")]);
    let share = |colour: &str, weight| Share { colour: colour.to_owned(), weight };
    service.set_traffic(&[share("blue", 90), share("green", 10)]);
    let prompt = prompt("hello");
    let went: Vec<String> = (0..100).map(|_| go(&mut service, &plain(&prompt))).collect();
    for run in went.chunks(10) {
        assert_eq!(run.iter().filter(|address| *address == "new").count(), 1);
    }
    service.set_traffic(&[share("blue", 0), share("green", 100)]);
    assert_eq!(go(&mut service, &plain(&prompt)), "new");
}

#[test]
fn a_growing_share_takes_sessions_over_and_never_gives_them_back() {
    let mut service = service(PolicyName::RoundRobin, 0);
    service.set_endpoints(&[Endpoint::ready("old", "blue"), Endpoint::ready("new", "green")]);
    let prompt = prompt("hello");
    let mut moved: Vec<bool> = vec![false; 200];
    for weight in [0, 10, 50, 90, 100] {
        let shares = [("blue", 100 - weight), ("green", weight)];
        service.set_traffic(&shares.map(|(colour, weight)| Share { colour: colour.to_owned(), weight }));
        let mut new = 0;
        for (session, moved) in moved.iter_mut().enumerate() {
            let session = xxhash_rust::xxh3::xxh3_64(&session.to_le_bytes());
            let is_new = go(&mut service, &Request { session: Some(session), ..plain(&prompt) }) == "new";
            assert!(is_new || !*moved, "a session went back");
            *moved |= is_new;
            new += u32::from(is_new);
        }
        assert!(new.abs_diff(2 * weight) <= 16, "{weight}% gave {new} of 200");
    }
}

#[test]
fn a_version_without_endpoints_that_can_leaves_its_share_to_the_others() {
    let mut service = service(PolicyName::RoundRobin, 0);
    let starting = Endpoint { ready: false, ..Endpoint::ready("new", "green") };
    service.set_endpoints(&[Endpoint::ready("old", "blue"), starting]);
    let share = |colour: &str, weight| Share { colour: colour.to_owned(), weight };
    service.set_traffic(&[share("blue", 0), share("green", 100)]);
    assert_eq!(go(&mut service, &plain(&prompt("hello"))), "old");
}

#[test]
fn says_why_nobody_can() {
    let prompt = prompt("hello");
    let mut service = service(PolicyName::Prefix, 0);
    assert_eq!(service.pick(&plain(&prompt), at(0.0)), Err(NoEndpoint::Nobody));

    service.set_endpoints(&[Endpoint { ready: false, ..Endpoint::ready("e0", "blue") }]);
    assert_eq!(service.pick(&plain(&prompt), at(0.0)), Err(NoEndpoint::NotReady));

    service.set_endpoints(&[Endpoint::ready("e0", "blue")]);
    service.checked("e0", false);
    assert_eq!(service.pick(&plain(&prompt), at(0.0)), Err(NoEndpoint::NotReady));
    service.checked("e0", true);

    assert_eq!(service.pick(&Request { tried: &[0], ..plain(&prompt) }, at(0.0)), Err(NoEndpoint::Tried));

    service.set_policy(Policy { max_in_flight: Some(1), ..Policy::default() });
    let held = service.pick(&plain(&prompt), at(0.0)).unwrap();
    assert_eq!(service.pick(&plain(&prompt), at(0.0)), Err(NoEndpoint::Full(None)));
    service.finish(held.ticket, Outcome::Saturated(Duration::from_secs(2)), at(1.0));
    assert_eq!(service.pick(&plain(&prompt), at(1.0)), Err(NoEndpoint::Full(Some(at(3.0)))));

    for _ in 0..5 {
        let pick = service.pick(&plain(&prompt), at(4.0)).unwrap();
        service.finish(pick.ticket, Outcome::Failed, at(4.0));
    }
    assert_eq!(service.pick(&plain(&prompt), at(4.0)), Err(NoEndpoint::Broken(Some(at(5.0)))));
}

#[test]
fn one_probe_goes_to_an_endpoint_that_failed_and_the_others_elsewhere() {
    let mut service = service(PolicyName::RoundRobin, 2);
    let prompt = prompt("hello");
    for _ in 0..5 {
        let pick = service.pick(&Request { tried: &[1], ..plain(&prompt) }, at(0.0)).unwrap();
        service.finish(pick.ticket, Outcome::Failed, at(0.0));
    }
    let picks: Vec<Pick> = (0..4).map(|_| service.pick(&plain(&prompt), at(2.0)).unwrap()).collect();
    let went: Vec<&str> = picks.iter().map(|pick| pick.address.as_str()).collect();
    assert_eq!(went.iter().filter(|address| **address == "e0").count(), 1, "{went:?}");
    for pick in picks {
        service.finish(pick.ticket, Outcome::Answered, at(2.0));
    }
    let after: Vec<String> = (0..4).map(|_| go(&mut service, &plain(&prompt))).collect();
    assert_eq!(after.iter().filter(|address| *address == "e0").count(), 2, "{after:?}");
}

#[test]
fn not_everybody_is_left_alone_at_once() {
    let mut service = service(PolicyName::RoundRobin, 2);
    let prompt = prompt("hello");
    for _ in 0..20 {
        let pick = service.pick(&plain(&prompt), at(0.0)).unwrap();
        service.finish(pick.ticket, Outcome::Failed, at(0.0));
    }
    assert!(service.pick(&plain(&prompt), at(0.0)).is_ok());
}

#[test]
fn a_request_that_ends_after_its_endpoint_is_gone_counts_nowhere() {
    let mut service = service(PolicyName::Prefix, 1);
    let prompt = prompt("hello");
    let mut old = service.pick(&plain(&prompt), at(0.0)).unwrap();
    service.set_endpoints(&[Endpoint::ready("e9", "blue")]);
    let new = service.pick(&plain(&prompt), at(0.0)).unwrap();
    assert_eq!((old.ticket.slot, new.ticket.slot), (0, 0), "the slot is used again");
    service.first_byte(&mut old.ticket);
    service.finish(old.ticket, Outcome::Failed, at(0.0));
    assert_eq!(service.in_flight(), 1);
    service.finish(new.ticket, Outcome::Answered, at(0.0));
    assert_eq!(service.in_flight(), 0);
    assert_eq!(service.endpoints(at(0.0))[0].tokens, 0);
}

#[test]
fn a_draining_endpoint_gets_nothing_new_and_keeps_what_it_has() {
    let mut service = service(PolicyName::RoundRobin, 2);
    let prompt = prompt("hello");
    let held = service.pick(&plain(&prompt), at(0.0)).unwrap();
    let draining = Endpoint { draining: true, ..Endpoint::ready("e0", "blue") };
    service.set_endpoints(&[draining, Endpoint::ready("e1", "blue")]);
    assert_eq!([go(&mut service, &plain(&prompt)), go(&mut service, &plain(&prompt))], ["e1", "e1"]);
    assert_eq!(service.endpoints(at(0.0))[0].in_flight, 1);
    service.finish(held.ticket, Outcome::Answered, at(0.0));
}

#[test]
fn tokens_are_estimated_as_those_before_were() {
    let mut service = service(PolicyName::Prefix, 1);
    assert_eq!(service.estimate(400), 100);
    for _ in 0..500 {
        service.measured(300, 100);
    }
    assert!(service.estimate(300).abs_diff(100) <= 1);
}

#[test]
fn the_ranking_is_that_of_the_picks_and_counts_nothing() {
    let mut service = service(PolicyName::LeastLoad, 3);
    let prompt = prompt("hello");
    let busy = service.pick(&plain(&prompt), at(0.0)).expect("somebody can");
    assert_eq!((busy.address.as_str(), busy.ticket.slot), ("e0", 0));
    assert_eq!(service.ranked(&plain(&prompt), at(0.0)), ["e1", "e2", "e0"]);
    assert_eq!(service.ranked(&Request { tried: &[1], ..plain(&prompt) }, at(0.0)), ["e2", "e0"]);
    assert_eq!(service.in_flight(), 1);
    service.set_endpoints(&[]);
    assert!(service.ranked(&plain(&prompt), at(0.0)).is_empty());
}

#[test]
fn a_subset_leaves_out_all_others_and_one_without_ours_is_none() {
    let mut service = service(PolicyName::RoundRobin, 3);
    assert_eq!(service.all_but(&["e1".to_owned(), "elsewhere".to_owned()]), Some(vec![0, 2]));
    assert_eq!(service.all_but(&["elsewhere".to_owned()]), None);
    assert_eq!(service.all_but(&[]), None);
    service.set_endpoints(&[Endpoint::ready("e2", "blue")]);
    assert_eq!(service.all_but(&["e2".to_owned()]).map(|slots| slots.contains(&2)), Some(false));
}
