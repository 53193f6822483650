//! What `wharf scale`, `rollout`, `ps`, `logs` and `down` ask for.

use serde_json::json;
use wharf_local::{Folder, Order, Reply, RolloutCommand};

use crate::support::Running;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_waits_is_promoted_and_undone_by_hand() {
    let pause = json!({"rollout": {"pause": true, "keepOldFor": "10m"}});
    let up = Running::start(json!({}), pause.clone()).await;
    up.until_phase("Promoted").await;
    let second = up.model("second", &json!({}));
    up.write(&second, pause);
    up.until("waiting", |facts| facts.rollout.as_ref().is_some_and(|r| r.waits_for_promotion)).await;
    assert!(up.chat().await.1.starts_with("assistant-blue"));
    let reply = up.steer(RolloutCommand::Promote).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    up.until("green serves", |facts| {
        facts.versions.iter().any(|version| version.colour == "green" && version.weight == 100)
    })
    .await;
    assert!(up.chat().await.1.starts_with("assistant-green"));
    // Promoted to the end, and then back.
    up.steer(RolloutCommand::Promote).await;
    up.until("promotion", |facts| {
        facts.rollout.as_ref().is_some_and(|r| r.phase == "Promoted" && r.generation == 2)
    })
    .await;
    let reply = up.steer(RolloutCommand::Undo).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    up.until("blue serves", |facts| {
        facts.versions.iter().any(|version| version.colour == "blue" && version.weight == 100)
    })
    .await;
    assert!(up.chat().await.1.starts_with("assistant-blue"));
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_makes_no_sense_is_refused_in_words() {
    let up = Running::start(json!({}), json!({})).await;
    up.until_phase("Promoted").await;
    let reply = up.steer(RolloutCommand::Undo).await;
    assert!(matches!(&reply, Reply::Refused(why) if !why.is_empty()), "{reply:?}");
    let reply = up.order(Order::Scale { service: "nobody".to_owned(), replicas: 1 }).await;
    assert!(matches!(&reply, Reply::Refused(why) if why.contains("assistant")), "{reply:?}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_scaled_by_hand_where_nobody_else_decides() {
    let up = Running::start(json!({}), json!({"scaling": {"mode": "none"}})).await;
    up.until_ready(1).await;
    up.order(Order::Scale { service: "assistant".to_owned(), replicas: 3 }).await;
    up.until_ready(3).await;
    up.order(Order::Scale { service: "assistant".to_owned(), replicas: 1 }).await;
    let facts = up.until_ready(1).await;
    // The oldest has the most cached.
    assert_eq!(facts.replicas[0].name, "assistant-blue-1");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_replicas_says_whether_its_last_one_still_answers_and_what_would_start_it() {
    let slow = json!({"tokens": 40, "itl_ms": 20});
    let up = Running::start(slow, json!({"scaling": {"mode": "none"}})).await;
    up.until_ready(1).await;
    let (client, url) = (up.client.clone(), up.url("/v1/chat/completions"));
    let chat = tokio::spawn(async move {
        let body = json!({"model": "assistant", "messages": [{"role": "user", "content": "hello"}]});
        client.post(url).json(&body).send().await.unwrap().status().as_u16()
    });
    up.until("the request", |_| up.gateway.in_flight() == 1).await;
    up.order(Order::Scale { service: "assistant".to_owned(), replicas: 0 }).await;
    let idle = |facts: &wharf_api::console::ServiceFacts| facts.phase == "Idle";
    let facts = up.until("no replica that takes requests", idle).await;
    assert_eq!(facts.replicas.iter().map(|r| r.state.as_str()).collect::<Vec<_>>(), ["draining"]);
    assert_eq!(facts.message, "its last replica lets its requests end; `wharf scale` starts it");
    assert_eq!(chat.await.unwrap(), 200);
    let facts = up.until("nothing", |facts| facts.replicas.is_empty()).await;
    assert_eq!(
        (facts.phase.as_str(), facts.message.as_str()),
        ("Idle", "no replica is asked for; `wharf scale` starts it")
    );
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_found_by_service_and_by_replica() {
    let up = Running::start(json!({}), json!({})).await;
    up.until_ready(1).await;
    for name in ["assistant", "assistant-blue-1"] {
        let Reply::Log(path) = up.order(Order::Log { replica: name.to_owned() }).await else {
            panic!("{name}")
        };
        assert!(std::fs::read_to_string(path).unwrap().contains("listening on"));
    }
    let reply = up.order(Order::Log { replica: "../lock".to_owned() }).await;
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_ends_everything() {
    let up = Running::start(json!({}), json!({})).await;
    let facts = up.until_ready(1).await;
    assert!(matches!(up.order(Order::Down).await, Reply::Done(_)));
    let root = up.stop().await;
    assert!(!crate::support::lives(facts.replicas[0].pid.unwrap()));
    assert!(!Folder::is_taken(&root.path().join("state")));
}
