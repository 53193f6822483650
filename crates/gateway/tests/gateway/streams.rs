//! Streams: order, usage, backpressure, and clients that leave.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::support::{PATIENCE, Running, config, engines, service, streamed, until};

#[tokio::test]
async fn tokens_come_as_they_are_made() {
    let engines = engines(1).await;
    engines[0].configure(|config| config.itl = Duration::from_millis(60));
    let gateway = Running::start(config(vec![service(&engines)]));
    let mut response = gateway.post(&streamed("hello")).await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"data: "));
    assert_eq!(engines[0].stats().answered, 0, "the first piece came before the last was made");
    drop(response);
}

#[tokio::test]
async fn usage_is_counted_and_only_shown_to_who_asked() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let (_, text) = gateway.stream(&streamed("hello")).await;
    assert!(!text.contains("\"prompt_tokens\""), "{text}");
    assert_eq!(engines[0].generation_requests()[0].json()["stream_options"]["include_usage"], true);
    gateway.idle().await;
    let demand = gateway.handle.demand().services["demo/fake-model"].clone();
    assert_eq!(demand.generated_tokens, 8);
    assert!(demand.prompt_tokens > 0);

    let mut asked = streamed("hello");
    asked["stream_options"] = json!({"include_usage": true});
    let (_, text) = gateway.stream(&asked).await;
    assert!(text.contains("\"prompt_tokens\""), "{text}");
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_engine_at_once() {
    let engines = engines(1).await;
    engines[0].configure(|config| {
        config.itl = Duration::from_millis(50);
        // Longer than anybody waits here.
        config.tokens = 2000;
    });
    let mut config = config(vec![service(&engines)]);
    // On a busy machine the gateway must not be the one that leaves.
    config.timeouts.first_byte = 60.0;
    config.timeouts.idle = 60.0;
    let gateway = Running::start(config);
    let mut response = gateway.post(&streamed("hello")).await;
    response.chunk().await.unwrap();
    drop(response);
    timeout(PATIENCE, engines[0].until(|stats| stats.abandoned == 1)).await.unwrap();
    let demand = || gateway.handle.demand().services["demo/fake-model"].clone();
    until("it is counted", || demand().abandoned == 1).await;
    gateway.idle().await;
    let demand = demand();
    assert_eq!((demand.arrived, demand.answered), (1, 0));
    assert!(demand.generated_tokens >= 1, "what was made until then counts");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_engine_back_and_nobody_else() {
    let engines = engines(1).await;
    engines[0].configure(|config| {
        config.tokens = 200_000;
        config.max_model_len = 1_000_000;
    });
    let mut config = config(vec![service(&engines)]);
    config.timeouts.first_byte = 60.0;
    config.timeouts.idle = 60.0;
    let gateway = Running::start(config);
    let stuck = gateway.post(&streamed("stuck")).await;
    assert_eq!(stuck.status(), 200);
    engines[0].configure(|config| config.tokens = 8);
    for _ in 0..20 {
        let (status, text) = gateway.stream(&streamed("other")).await;
        assert!(status == 200 && text.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(engines[0].stats().in_flight, 1, "the engine waits for the client that does not read");
    drop(stuck);
    gateway.idle().await;
}

#[tokio::test]
async fn a_thousand_streams_at_once_all_end() {
    let engines = engines(2).await;
    for engine in &engines {
        engine.configure(|config| {
            config.slots = 1000;
            config.itl = Duration::from_millis(20);
            config.tokens = 5;
        });
    }
    let mut config = config(vec![service(&engines)]);
    config.timeouts.first_byte = 60.0;
    config.timeouts.idle = 60.0;
    let gateway = Running::start(config);
    let streams = (0..1000).map(|n| {
        let gateway = &gateway;
        async move { gateway.stream(&streamed(&format!("{n}"))).await }
    });
    for (status, text) in futures_util::future::join_all(streams).await {
        assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{status} {text}");
    }
    gateway.idle().await;
}
