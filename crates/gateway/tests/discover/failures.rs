//! The API server fails; the gateway goes on with what it knows and catches up.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use wharf_fakes::cluster::Injected;

use crate::support::{World, engine};

#[tokio::test]
async fn while_the_api_is_down_requests_are_answered_and_afterwards_changes_are_caught_up() {
    let world = World::start(&[]).await;
    let engines = [engine("e0").await, engine("e1").await];
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engines[0]);
    world.ready("demo/assistant", 1).await;
    world.cluster.go_down().await;
    for _ in 0..20 {
        assert_eq!(world.ask("assistant", "fake-model", "").await.0, 200);
        sleep(Duration::from_millis(5)).await;
    }
    world.pod("demo", "assistant", "assistant-2", "blue", &engines[1]);
    world.cluster.come_back().await.unwrap();
    world.ready("demo/assistant", 2).await;
}

#[tokio::test]
async fn a_gateway_that_starts_before_the_api_answers_finds_everything_later() {
    let world = World::start(&[]).await;
    let engine = engine("e0").await;
    world.cluster.fail_next(3, "list", "LLMService", Injected::Status(503));
    world.cluster.fail_next(3, "list", "EndpointSlice", Injected::CutBefore);
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engine);
    world.ready("demo/assistant", 1).await;
}

#[tokio::test]
async fn watches_that_are_cut_expired_or_refused_never_empty_the_table() {
    let world = World::start(&[]).await;
    let engine = engine("e0").await;
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engine);
    world.ready("demo/assistant", 1).await;
    for round in 0..6 {
        match round % 3 {
            0 => world.cluster.cut_watches(),
            1 => {
                world.cluster.forget_history();
                world.cluster.cut_watches();
            }
            _ => {
                for kind in ["LLMService", "EndpointSlice", "Pod"] {
                    world.cluster.fail_next(2, "list", kind, Injected::Status(403));
                    world.cluster.fail_next(2, "watch", kind, Injected::Status(500));
                }
                world.cluster.forget_history();
                world.cluster.cut_watches();
            }
        }
        for _ in 0..10 {
            let endpoints = world.endpoints("demo/assistant");
            assert!(endpoints.len() == 1 && endpoints[0].1.ready, "round {round}: {endpoints:?}");
            assert_eq!(world.ask("assistant", "fake-model", "").await.0, 200);
            sleep(Duration::from_millis(2)).await;
        }
    }
    world.cluster.heal();
    let more = crate::support::engine("e1").await;
    world.pod("demo", "assistant", "assistant-2", "blue", &more);
    world.ready("demo/assistant", 2).await;
}

#[tokio::test]
async fn a_secret_that_may_not_be_read_keeps_everybody_out_of_its_service_and_holds_up_no_other() {
    let world = World::start(&[]).await;
    let engines = [engine("e0").await, engine("e1").await];
    world.cluster.fail_when(usize::MAX, Injected::Status(403), |call| call.kind == "Secret");
    world.service("demo", "closed", json!({"access": {"apiKeys": {"secretName": "keys"}}}));
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engines[0]);
    world.ready("demo/assistant", 1).await;
    let before = std::time::Instant::now();
    world.pod("demo", "assistant", "assistant-2", "blue", &engines[1]);
    world.ready("demo/assistant", 2).await;
    assert!(before.elapsed() < Duration::from_secs(4), "the Secret is waited for once, not at every change");
    assert_eq!(world.ask("closed", "fake-model", "anything").await.0, 401);
}
