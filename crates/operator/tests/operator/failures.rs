//! API servers that fail, objects that are wrong, and rights.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_fakes::cluster::Injected;
use wharf_operator::steer::{self, SteerError};
use wharf_rollout::CommandKind;

use crate::support::{SOON, World, condition, is_current, spec, writes};

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_object_says_what_is_wrong_and_holds_up_nobody() {
    let world = World::start().await;
    world
        .service(
            "wrong",
            &spec(
                json!({"scaling": {"min": 2}, "parallelism": {"tensor": 3}, "runtime": {"engine": "custom"}}),
            ),
        )
        .await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    let refused = |service: &Value| condition(service, "Ready")["reason"] == "InvalidSpec";
    let wrong = world.until("LLMService", "wrong", refused).await;
    let message = condition(&wrong, "Stalled")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("spec.runtime"), "{message}");
    assert!(is_current(&wrong));
    assert!(!world.events("InvalidSpec").is_empty());
    assert!(world.cluster.settle(Duration::from_millis(300), SOON).await);
    world.cluster.forget_calls();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(writes(&world.cluster.calls()), [] as [String; 0], "no storm of retries");
    // Corrected, it is served like any other.
    world.cluster.delete("LLMService", "demo/wrong");
    world.service("wrong", &spec(json!({}))).await;
    world.ready("wrong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_conflicts_and_hangs_up_is_tried_again() {
    let world = World::without_operator().await;
    let Some(cluster) = world.cluster.in_memory("fail on demand") else { return };
    for (verb, kind, how) in [
        ("patch", "LLMService/status", Injected::Status(409)),
        ("patch", "Deployment", Injected::Status(500)),
        ("patch", "Service", Injected::CutAfter),
        ("patch", "ConfigMap", Injected::Status(500)),
        ("patch", "LLMService/status", Injected::CutBefore),
        ("list", "LLMService", Injected::Status(500)),
        ("watch", "Pod", Injected::Status(410)),
        ("patch", "NetworkPolicy", Injected::Hang),
        ("patch", "Deployment", Injected::Status(429)),
    ] {
        cluster.fail_next(2, verb, kind, how);
    }
    world.start_operator();
    world.service("assistant", &spec(json!({}))).await;
    let service = world.ready("assistant").await;
    let clean = |service: &Value| condition(service, "Applied").is_null();
    assert!(clean(&world.until("LLMService", "assistant", clean).await), "{service}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_not_told_that_the_operator_wrote_first() {
    let world = World::start().await;
    let Some(cluster) = world.cluster.in_memory("fail on demand") else { return };
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    cluster.fail_next(2, "patch", "LLMService", Injected::Status(409));
    let client = world.cluster.client();
    // Nothing is under way, which only the operator can know.
    let refused = steer::order(&client, "demo", "assistant", CommandKind::Promote, SOON).await.unwrap_err();
    assert!(matches!(refused, SteerError::Refused(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_forbidden_is_told_of() {
    let world = World::without_operator().await;
    let Some(cluster) = world.cluster.in_memory("fail on demand") else { return };
    cluster.fail_next(1000, "patch", "NetworkPolicy", Injected::Status(403));
    world.start_operator();
    world.service("assistant", &spec(json!({}))).await;
    let told = |service: &Value| condition(service, "Applied")["reason"] == "Forbidden";
    let service = world.until("LLMService", "assistant", told).await;
    let message = condition(&service, "Applied")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("NetworkPolicy"), "{message}");
    cluster.heal();
    world.ready("assistant").await;
    world.until("LLMService", "assistant", |service| condition(service, "Applied").is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_the_cluster_lacks_costs_only_itself() {
    let world = World::without_operator().await;
    let Some(cluster) = world.cluster.in_memory("forget a kind") else { return };
    cluster.uninstall("monitoring.coreos.com");
    world.start_operator();
    world.service("assistant", &spec(json!({"observability": {"serviceMonitor": true}}))).await;
    world.ready("assistant").await;
    let told = |service: &Value| {
        condition(service, "Applied")["message"].as_str().is_some_and(|m| m.contains("ServiceMonitor"))
    };
    let service = world.until("LLMService", "assistant", told).await;
    assert_eq!(condition(&service, "Applied")["reason"], "KindMissing");
}
