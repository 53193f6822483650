//! Services are scaled by what gateways are asked for.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_api::demand::ServiceDemand;

use crate::support::{SOON, World, condition, spec};

fn scaled(scaling: Value) -> Value {
    spec(json!({"scaling": scaling, "rollout": {"warmup": {"prompts": 0}}}))
}

fn busy(in_flight: u64) -> ServiceDemand {
    ServiceDemand { in_flight, ..ServiceDemand::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_calls_sleeps_and_wakes_when_somebody_waits() {
    let world = World::start().await;
    world.service("assistant", &scaled(json!({"min": 0, "max": 2, "idleAfter": "1s"}))).await;
    world.ready("assistant").await;
    world.demand("assistant", busy(0));
    let asleep = |service: &Value| service["status"]["phase"] == "Idle" && service["spec"]["replicas"] == 0;
    let service = world.until("LLMService", "assistant", asleep).await;
    assert_eq!(condition(&service, "Ready")["reason"], "Asleep");
    let empty = |pods: &[String]| pods.is_empty();
    assert!(world.cluster.until(SOON, |_| empty(&world.pods())).await);

    world.demand("assistant", ServiceDemand { queued: 1, arrived: 1, ..ServiceDemand::default() });
    let awake = |service: &Value| service["status"]["readyReplicas"] == 1;
    let service = world.until("LLMService", "assistant", awake).await;
    assert_eq!(service["status"]["colour"], "blue", "waking is no release");
    let told = world.events("Scaled");
    assert!(told.iter().any(|note| note.starts_with("from 1 to 0: ")), "{told:?}");
    assert!(told.iter().any(|note| note.starts_with("from 0 to 1: ")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_at_once_mean_more_replicas() {
    let world = World::start().await;
    world.service("assistant", &scaled(json!({"min": 1, "max": 3, "target": {"concurrency": 2}}))).await;
    world.ready("assistant").await;
    world.demand("assistant", busy(40));
    let grown = |service: &Value| service["status"]["readyReplicas"] == 3;
    let service = world.until("LLMService", "assistant", grown).await;
    assert_eq!(service["spec"]["replicas"], 3, "no more than the most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_says_how_fast_it_answers_while_somebody_asks() {
    let world = World::without_operator().await;
    // What was measured is said for as long as this.
    *world.longest.lock().unwrap() = Duration::from_secs(1);
    world.start_operator();
    world.service("assistant", &scaled(json!({"min": 1, "max": 2}))).await;
    world.ready("assistant").await;
    // One of a hundred first tokens took more than a second.
    let first_token = vec![0, 0, 0, 99, 0, 0, 0, 0, 1];
    world.demand(
        "assistant",
        ServiceDemand { generated_tokens: 5_000, first_token, ..ServiceDemand::default() },
    );
    let says =
        |service: &Value| service["status"]["measured"]["tokensPerSecond"].as_f64().is_some_and(|n| n > 0.0);
    let service = world.until("LLMService", "assistant", says).await;
    let ttft = service["status"]["measured"]["ttftP95"].as_f64().unwrap();
    assert!(ttft > 0.05 && ttft <= 0.1, "{ttft}");
    world.until("LLMService", "assistant", |service| service["status"]["measured"].is_null()).await;
    assert!(
        world.cluster.settle(Duration::from_millis(300), SOON).await,
        "nobody asks, and nothing is written"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_somebody_else_scales_is_left_to_them() {
    let world = World::start().await;
    world.service("assistant", &scaled(json!({"mode": "none"}))).await;
    world.service("other", &scaled(json!({"min": 1, "max": 3, "target": {"concurrency": 2}}))).await;
    world.ready("assistant").await;
    world.ready("other").await;
    world.demand("assistant", busy(40));
    world.demand("other", busy(40));
    // Both were told at the same time; when the one has grown, the other would have.
    world.until("LLMService", "other", |service| service["status"]["readyReplicas"] == 3).await;
    assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
    let service = world.cluster.get("LLMService", "demo/assistant").unwrap();
    assert_eq!(service["status"]["replicas"], 1);
}
