//! Changes of the file while requests come: good ones take over, bad ones are taken back by themselves.

use serde_json::{Value, json};

use crate::support::{Running, write_over};

fn all_good(statuses: &[u16]) {
    let bad = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(bad, 0, "{bad} of {} requests failed", statuses.len());
    assert!(statuses.len() > 20, "only {} requests", statuses.len());
}

/// Releases a bad model under load, and gives why it was taken back.
async fn taken_back(model: Value, spec: Value) -> String {
    let up = Running::start(json!({}), json!({})).await;
    up.until_phase("Promoted").await;
    let load = up.load(3);
    let bad = up.model("bad", &model);
    up.write(&bad, spec);
    let facts = up.until_phase("RolledBack").await;
    let rollout = facts.rollout.unwrap();
    let statuses = load.end().await;
    // What failed on the new version was answered by the old one where nothing had been sent yet.
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert!(good * 10 >= statuses.len() * 8, "{good} of {}", statuses.len());
    assert_eq!(up.chat().await.0, 200);
    let facts = up.until("one version", |facts| facts.versions.len() == 1).await;
    assert_eq!((facts.versions[0].colour.as_str(), facts.versions[0].weight), ("blue", 100));
    let told = up.events.lock().unwrap().iter().any(|event| event.contains(&rollout.reason));
    assert!(told, "no event says {:?}", rollout.reason);
    up.stop().await;
    rollout.reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_release_takes_over_without_a_failed_request() {
    let up = Running::start(json!({}), json!({})).await;
    up.until_phase("Promoted").await;
    let load = up.load(3);
    let better = up.model("better", &json!({"start_ms": 100}));
    up.write(&better, json!({}));
    let facts = up
        .until("the second generation", |facts| {
            facts.rollout.as_ref().is_some_and(|r| r.phase == "Promoted" && r.generation == 2)
        })
        .await;
    assert!(facts.events.iter().any(|event| event.message.contains("green")), "{:#?}", facts.events);
    // The old one is kept for a while, then it goes.
    let facts = up.until("the old one gone", |facts| facts.versions.len() == 1).await;
    assert_eq!((facts.versions[0].colour.as_str(), facts.versions[0].weight), ("green", 100));
    all_good(&load.end().await);
    let (_, replica, _) = up.chat().await;
    assert!(replica.starts_with("assistant-green"), "{replica}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_missing_never_gets_traffic() {
    let up = Running::start(json!({}), json!({})).await;
    up.until_phase("Promoted").await;
    let load = up.load(2);
    up.write(&up.root.path().join("nowhere.json"), json!({}));
    let facts = up.until_phase("RolledBack").await;
    let reason = facts.rollout.unwrap().reason;
    assert!(reason.contains("nowhere.json"), "{reason}");
    all_good_or_few(&load.end().await);
    up.stop().await;
}

fn all_good_or_few(statuses: &[u16]) {
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_fails_its_gate_is_taken_back_with_the_measure() {
    let optimize = json!({"model": {"optimize": {"quantize": "q8_0", "gate": {"maxKlDivergence": 0.1}}}});
    let reason = taken_back(json!({"kl": 0.5}), optimize).await;
    assert!(reason.contains("KL divergence 0.5 over 0.1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_exits_is_taken_back_with_what_it_said() {
    let reason = taken_back(json!({"exit": 1}), json!({})).await;
    assert!(reason.contains("told to exit with 1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_slow_is_taken_back_with_its_latency() {
    let limit = json!({"rollout": {"rollbackOn": {"ttftP95": "150ms"}}});
    let reason = taken_back(json!({"ttft_ms": 400}), limit).await;
    assert!(reason.contains("ttftP95"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_with_errors_is_taken_back_with_their_share() {
    let reason = taken_back(json!({"errors_after": 2}), json!({})).await;
    assert!(reason.contains("errorRate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_limits_or_scaling_restarts_nothing() {
    let up = Running::start(json!({}), json!({})).await;
    let before = up.until_ready(1).await.replicas[0].pid;
    let model = up.root.path().join("first.json");
    up.write(
        &model,
        json!({"scaling": {"min": 2, "max": 2}, "access": {"limits": {"requestsPerMinute": 1000}}}),
    );
    let facts = up.until_ready(2).await;
    assert!(facts.replicas.iter().any(|replica| replica.pid == before), "{facts:#?}");
    assert_eq!(facts.versions.len(), 1);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_changes_nothing_and_is_told() {
    let up = Running::start(json!({}), json!({})).await;
    let before = up.until_ready(1).await.replicas[0].pid;
    write_over(
        &up,
        "kind: LLMService\napiVersion: wharf.dev/v1alpha1\nmetadata: {name: assistant}\nspec: {modle: {}}\n",
    );
    let facts = up.until("the complaint", |facts| facts.message.contains("modle")).await;
    assert_eq!(facts.replicas[0].pid, before);
    assert_eq!(up.chat().await.0, 200);
    up.stop().await;
}
