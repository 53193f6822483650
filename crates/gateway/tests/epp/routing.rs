//! Where requests are sent, and when they are refused.

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Value};
use wharf_fakes::engine::Health;

use crate::support::{POOL, Running, addresses, chat, config, engines, subset, text, until};

#[tokio::test]
async fn requests_with_the_same_beginning_go_where_it_is_cached_and_others_spread() {
    let engines = engines(3).await;
    let epp = Running::start(config(&engines)).await;
    let long = "All of them read the same long instructions first. ".repeat(60);
    let same: Vec<String> = (0..6).map(|n| chat(&format!("{long}{n}"))).collect();
    let picks = epp.picks(&same).await;
    assert!(picks.iter().all(|address| *address == picks[0]), "{picks:?}");
    let others: Vec<String> = (0..9).map(|n| chat(&format!("{n}{n}{n}").repeat(200))).collect();
    let mut spread = epp.picks(&others).await;
    spread.sort();
    spread.dedup();
    assert_eq!(spread.len(), 3);
}

#[tokio::test]
async fn the_list_names_the_picked_endpoint_first_and_each_only_once() {
    let engines = engines(4).await;
    let epp = Running::start(config(&engines)).await;
    let (_exchange, reply) = epp.ask(&chat("hello")).await;
    let mut endpoints = reply.endpoints();
    assert_eq!(endpoints.len(), 3, "the picked one and two alternatives");
    let demand = epp.handle.demand();
    assert_eq!(demand.services[POOL].in_flight, 1);
    endpoints.sort();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 3);
    assert!(endpoints.iter().all(|address| addresses(&engines).contains(address)));
}

#[tokio::test]
async fn a_subset_is_kept_to_whether_it_is_a_list_or_text() {
    let engines = engines(3).await;
    let epp = Running::start(config(&engines)).await;
    let ours = addresses(&engines);
    for round in 0..6 {
        let hint = text(&format!("{}, 10.9.9.9:1", ours[1]));
        let (_, reply) = epp.ask_with(&[], subset(hint), chat(&format!("{round}")).as_bytes()).await;
        assert_eq!(reply.endpoints(), [ours[1].clone()]);
        let values = vec![text(&ours[0]), text(&ours[2])];
        let hint = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let (_, reply) = epp.ask_with(&[], subset(hint), chat(&format!("{round}")).as_bytes()).await;
        assert!(!reply.endpoints().contains(&ours[1]));
    }
}

#[tokio::test]
async fn a_subset_without_any_of_ours_is_a_503() {
    let engines = engines(2).await;
    let epp = Running::start(config(&engines)).await;
    let (mut exchange, reply) = epp.ask_with(&[], subset(text("10.9.9.9:1")), chat("hello").as_bytes()).await;
    assert_eq!(reply.refusal().0, 503);
    assert!(exchange.hear().await.unwrap().is_none(), "nothing follows a refusal");
    let empty = subset(Value { kind: Some(Kind::ListValue(ListValue::default())) });
    assert_eq!(epp.ask_with(&[], empty, chat("hello").as_bytes()).await.1.refusal().0, 503);
}

#[tokio::test]
async fn nobody_ready_is_a_503_until_somebody_is() {
    let engines = engines(1).await;
    engines[0].configure(|config| config.health = Health::Bad);
    let epp = Running::start(config(&engines)).await;
    let ready = || epp.handle.demand().services[POOL].endpoints.values().any(|load| load.ready);
    until("the bad server is noticed", || !ready()).await;
    assert_eq!(epp.ask(&chat("hello")).await.1.refusal().0, 503);
    engines[0].configure(|config| config.health = Health::Good);
    until("the good server is noticed", ready).await;
    assert_eq!(epp.ask(&chat("hello")).await.1.endpoints(), addresses(&engines));
}

#[tokio::test]
async fn requests_beyond_the_limit_of_every_endpoint_are_a_429_until_one_has_ended() {
    let engines = engines(2).await;
    let mut config = config(&engines);
    config.routing.max_in_flight = Some(1);
    let epp = Running::start(config).await;
    let (mut first, reply) = epp.ask(&chat("a")).await;
    let place = reply.endpoints()[0].clone();
    let (_second, reply) = epp.ask(&chat("b")).await;
    assert_ne!(reply.endpoints()[0], place);
    let (_, refused) = epp.ask(&chat("c")).await;
    assert_eq!(refused.refusal().0, 429);
    first.answer(200, None, &["{}"]).await;
    assert_eq!(epp.ask(&chat("d")).await.1.endpoints()[0], place);
}

#[tokio::test]
async fn requests_are_shed_when_too_many_wait_everywhere() {
    let engines = engines(2).await;
    let mut config = config(&engines);
    config.shed_above = Some(10);
    engines[0].configure(|config| config.claims.waiting = Some(50));
    engines[1].configure(|config| config.claims.waiting = Some(0));
    let epp = Running::start(config).await;
    let waiting =
        || epp.handle.demand().services[POOL].endpoints.values().map(|load| load.waiting).sum::<u32>();
    until("the queue is noticed", || waiting() == 50).await;
    assert_eq!(epp.ask(&chat("hello")).await.1.endpoints()[0], addresses(&engines)[1]);
    engines[1].configure(|config| config.claims.waiting = Some(11));
    until("the other queue is noticed", || waiting() == 61).await;
    assert_eq!(epp.ask(&chat("hello")).await.1.refusal().0, 429);
}

#[tokio::test]
async fn an_endpoint_that_others_answer_for_is_left_alone() {
    let engines = engines(2).await;
    let mut config = config(&engines);
    config.routing.breaker.failures = 1;
    config.routing.breaker.open_seconds = 1000.0;
    let epp = Running::start(config).await;
    let (mut exchange, reply) = epp.ask(&chat("hello")).await;
    let endpoints = reply.endpoints();
    exchange.answer_head(200, &[], Some(&endpoints[1])).await;
    let loads = epp.handle.demand().services[POOL].endpoints.clone();
    assert_eq!((loads[&endpoints[0]].ready, loads[&endpoints[1]].ready), (false, true));
    assert_eq!(epp.in_flight(), 1);
    exchange.answer_piece("{}", true).await;
    until("it ends", || epp.in_flight() == 0).await;
    for round in 0..5 {
        assert_eq!(epp.ask(&chat(&format!("{round}"))).await.1.endpoints(), [endpoints[1].clone()]);
    }
}
