//! To zero and back, and back to life.

use serde_json::json;

use crate::support::{Running, lives};

fn sleeper(idle_after: &str) -> serde_json::Value {
    json!({"scaling": {"min": 0, "max": 2, "idleAfter": idle_after, "target": {"concurrency": 4},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_answers_goes_to_sleep_and_wakes_for_the_next_request() {
    let up = Running::start(json!({"start_ms": 30}), sleeper("1s")).await;
    up.until_ready(1).await;
    let (status, _, body) = up.chat().await;
    assert_eq!(status, 200, "{body}");
    let asleep = up.until("sleep", |facts| facts.phase == "Idle" && facts.replicas.is_empty()).await;
    assert_eq!(asleep.wanted, 0);
    let (status, replica, body) = up.chat().await;
    assert_eq!(status, 200, "{body}");
    // Not the first one, which has ended.
    assert_ne!(replica, "assistant-blue-1");
    let changes = up.facts().scaling.unwrap().changes;
    assert_eq!(changes.iter().map(|c| (c.from, c.to)).collect::<Vec<_>>(), [(1, 0), (0, 1)]);
    let told = up.events.lock().unwrap().iter().find(|event| event.starts_with("Scaled")).cloned();
    assert_eq!(told.as_deref(), Some("Scaled: from 1 to 0 replicas: nobody called for 1 s"));
    assert_eq!(changes[0].reason, "nobody called for 1 s");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_at_zero_are_one_wake_and_all_answered() {
    let up =
        Running::start(json!({"start_ms": 100}), json!({"scaling": {"min": 0, "max": 1, "idleAfter": "1s"}}))
            .await;
    up.until("sleep", |facts| facts.phase == "Idle").await;
    let started =
        |up: &Running| up.events.lock().unwrap().iter().filter(|e| e.starts_with("ReplicaReady")).count();
    let before = started(&up);
    let chats: Vec<_> = (0..200)
        .map(|_| {
            let (client, url) = (up.client.clone(), up.url("/v1/chat/completions"));
            tokio::spawn(async move {
                let body = json!({"model": "assistant", "messages": [{"role": "user", "content": "hello"}]});
                client.post(url).json(&body).send().await.unwrap().status().as_u16()
            })
        })
        .collect();
    for chat in chats {
        assert_eq!(chat.await.unwrap(), 200);
    }
    assert_eq!(started(&up) - before, 1);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_is_started_again_and_nothing_else_is_lost() {
    let up = Running::start(json!({}), json!({"scaling": {"min": 2, "max": 2}})).await;
    let facts = up.until_ready(2).await;
    let load = up.load(4);
    let pid = facts.replicas[0].pid.unwrap();
    let member = crate::support::group(pid).into_iter().find(|process| *process != pid).unwrap();
    // The engine itself, not what stands in between.
    std::process::Command::new("kill").args(["-9", &member.to_string()]).status().unwrap();
    up.until("its end", |facts| facts.events.iter().any(|e| e.reason == "ReplicaExited")).await;
    up.until("another", |facts| {
        facts.replicas.len() == 2
            && facts.replicas.iter().all(|replica| replica.state == "ready" && replica.pid != Some(pid))
    })
    .await;
    let statuses = load.end().await;
    let good = statuses.iter().filter(|status| **status == 200).count();
    // Only what was being answered by it may have broken off: at most one request of each stream.
    assert!(statuses.len() - good <= 4, "{statuses:?}");
    assert!(good > 10, "{statuses:?}");
    assert!(!lives(pid));
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_version_that_cannot_start_says_why_and_requests_are_told() {
    let up = Running::start(json!({"exit": 1}), json!({})).await;
    let facts = up.until("failure", |facts| facts.phase == "Failed").await;
    assert!(facts.message.contains("told to exit with 1"), "{}", facts.message);
    let (status, _, body) = up.chat().await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("told to exit with 1"), "{body}");
    // Mended, it serves.
    let good = up.model("good", &json!({}));
    up.write(&good, json!({}));
    up.until_ready(1).await;
    assert_eq!(up.chat().await.0, 200);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_says_how_long_the_model_was_made_and_how_long_a_replica_waited() {
    let spec = json!({"model": {"optimize": {"quantize": "q8_0"}}});
    let up = Running::start(json!({"make_ms": 300, "start_ms": 50}), spec).await;
    let facts =
        up.until("the cold start", |facts| facts.cold_start.is_some_and(|cold| cold.warm > 0.0)).await;
    let cold = facts.cold_start.unwrap();
    assert!(cold.fetch >= 0.3 && cold.load >= 0.05, "{cold:?}");
    assert!(cold.schedule < cold.fetch, "{cold:?}");
    // The next replica has the model, and waits for the pause after the one that ended.
    let pid = facts.replicas[0].pid.unwrap();
    let member = crate::support::group(pid).into_iter().find(|process| *process != pid).unwrap();
    std::process::Command::new("kill").args(["-9", &member.to_string()]).status().unwrap();
    let again =
        up.until("another", |facts| facts.cold_start.is_some_and(|new| new != cold && new.fetch == 0.0));
    let cold = again.await.cold_start.unwrap();
    assert!(cold.schedule >= 0.2 && cold.load >= 0.05, "{cold:?}");
    up.stop().await;
}
