//! Services at zero: requests wait, one herd is one wake, and a queue has an end.

use std::time::Duration;

use serde_json::Value;
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::ServiceConfig;

use crate::support::{Running, chat, config, engines, service, streamed, until};

const NAME: &str = "demo/fake-model";

fn asleep() -> ServiceConfig {
    ServiceConfig::new(NAME, Vec::<String>::new())
}

fn queued(gateway: &Running) -> u64 {
    gateway.handle.demand().services[NAME].queued
}

#[tokio::test]
async fn two_hundred_requests_wait_for_one_wake_and_all_are_answered() {
    let gateway = Running::start(config(vec![asleep()]));
    let requests = (0..200).map(|n| {
        let gateway = &gateway;
        async move { gateway.ask(&chat(&format!("{n}"))).await.0 }
    });
    let wake = async {
        gateway.handle.demand_changed().await;
        until("everybody waits", || queued(&gateway) == 200).await;
        let engine = FakeEngine::start(EngineConfig::named("woken")).await.unwrap();
        gateway.handle.set_service(service(std::slice::from_ref(&engine)).into());
        engine
    };
    let (answers, engine) = futures_util::future::join(futures_util::future::join_all(requests), wake).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(engine.stats().received, 200);
    gateway.idle().await;
}

#[tokio::test]
async fn of_two_hundred_requests_a_queue_of_fifty_holds_fifty() {
    let mut config = config(vec![asleep()]);
    config.hold.queue = 50;
    let gateway = Running::start(config);
    let requests = (0..200).map(|n| {
        let gateway = &gateway;
        async move {
            let response = gateway.post(&chat(&format!("{n}"))).await;
            let retry = response.headers().contains_key("retry-after");
            (response.status().as_u16(), retry, response.json::<Value>().await.unwrap())
        }
    });
    let wake = async {
        let overflowed = || gateway.handle.demand().services[NAME].overflowed;
        until("the others are refused", || overflowed() == 150).await;
        let engine = FakeEngine::start(EngineConfig::named("woken")).await.unwrap();
        gateway.handle.set_service(service(std::slice::from_ref(&engine)).into());
        engine
    };
    let (answers, _engine) = futures_util::future::join(futures_util::future::join_all(requests), wake).await;
    let count = |status| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!((count(200), count(429)), (50, 150));
    let refused = answers.iter().find(|answer| answer.0 == 429).unwrap();
    assert_eq!((refused.1, refused.2["error"]["code"].as_str()), (true, Some("queue_full")));
}

#[tokio::test]
async fn a_service_that_cannot_start_says_why_at_once() {
    let gateway = Running::start(config(vec![asleep()]));
    let fail = async {
        until("it waits", || queued(&gateway) == 1).await;
        let mut spec = wharf_gateway::ServiceSpec::from(asleep());
        spec.trouble = Some("the model file is not there".to_owned());
        gateway.handle.set_service(spec);
    };
    let waiting = chat("hello");
    let ((status, error), ()) = futures_util::future::join(gateway.ask(&waiting), fail).await;
    assert_eq!(status, 503);
    assert!(error["error"]["message"].as_str().unwrap().contains("the model file is not there"), "{error}");
    gateway.idle().await;
}

#[tokio::test]
async fn nobody_waits_beyond_the_deadline() {
    let mut config = config(vec![asleep()]);
    config.hold.deadline = 0.1;
    let gateway = Running::start(config);
    let response = gateway.post(&chat("hello")).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    gateway.idle().await;
}

#[tokio::test]
async fn who_leaves_while_waiting_waits_no_more() {
    let gateway = Running::start(config(vec![asleep()]));
    let waiting =
        tokio::spawn(gateway.client.post(gateway.url("/v1/chat/completions")).json(&chat("x")).send());
    until("it waits", || queued(&gateway) == 1).await;
    waiting.abort();
    until("it has left", || queued(&gateway) == 0).await;
    until("it is counted", || gateway.handle.demand().services[NAME].abandoned == 1).await;
}

#[tokio::test]
async fn a_stream_that_waits_can_show_that_it_lives() {
    let mut config = config(vec![asleep()]);
    config.hold.progress = 0.05;
    let gateway = Running::start(config);
    let mut response = gateway.post(&streamed("hello")).await;
    assert_eq!(response.status(), 200);
    let comment = response.chunk().await.unwrap().unwrap();
    assert_eq!(&comment[..], b": waiting for the model\n\n");
    let engines = engines(1).await;
    gateway.handle.set_service(service(&engines).into());
    let text = response.text().await.unwrap();
    assert!(text.contains("\"content\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    gateway.idle().await;
}

#[tokio::test]
async fn more_than_an_endpoint_may_have_waits_in_the_gateway() {
    let engines = engines(1).await;
    engines[0].configure(|config| config.ttft = Duration::from_millis(30));
    let mut config = config(vec![service(&engines)]);
    config.routing.max_in_flight = Some(2);
    let gateway = Running::start(config);
    let requests = (0..10).map(|n| {
        let gateway = &gateway;
        async move { gateway.ask(&chat(&format!("{n}"))).await.0 }
    });
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(engines[0].stats().most_in_flight, 2);
}
