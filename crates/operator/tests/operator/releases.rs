//! A change of what runs is a release, whatever happens to it or to the operator.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_api::demand::VersionCounts;
use wharf_fakes::actors::{self, Fate, JobFate};
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_fakes::stage::Stage;
use wharf_operator::steer::{self, SteerError};
use wharf_rollout::CommandKind;

use crate::support::{SOON, World, as_a_pod, condition, is_current, marked, spec};

async fn served_by(world: &World, colour: &str) -> Value {
    world
        .until("LLMService", "assistant", |service| {
            let settled = condition(service, "Progressing")["status"] == "False";
            settled && is_current(service) && service["status"]["colour"] == colour
        })
        .await
}

async fn is_gone(world: &World, deployment: &str) {
    let name = format!("demo/{deployment}");
    world.cluster.await_object("Deployment", &name, SOON, |deployment| deployment.is_none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_model_is_a_second_deployment_that_takes_over() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    world
        .service("assistant", &spec(json!({"model": {"source": "pvc://models/two", "name": "fake-model"}})))
        .await;
    // Both stand, and the old one serves until the new one has answered its prompts.
    world.until("Deployment", "assistant-green", |_| true).await;
    let service = served_by(&world, "green").await;
    assert_eq!(service["status"]["traffic"][0], json!({"colour": "green", "weight": 100, "generation": 2}));
    assert_eq!(service["status"]["rollout"]["phase"], "Promoted");
    is_gone(&world, "assistant-blue").await;
    let service = served_by(&world, "green").await;
    assert_eq!(condition(&service, "Ready")["status"], "True");
    assert!(!world.events("Promoted").is_empty(), "{:?}", world.cluster.list("Event"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_takes_a_change_over() {
    for strategy in ["Rolling", "Recreate", "Canary"] {
        let world = World::start().await;
        let mut first = spec(json!({"scaling": {"min": 2}}));
        first["rollout"]["strategy"] = strategy.into();
        if strategy == "Canary" {
            first["rollout"]["steps"] = json!([{"weight": "50%", "duration": "1s"}]);
        }
        world.service("assistant", &first).await;
        world.ready("assistant").await;
        let mut second = first.clone();
        second["model"]["source"] = "pvc://models/two".into();
        world.service("assistant", &second).await;
        let service = served_by(&world, "green").await;
        assert_eq!(service["status"]["rollout"]["phase"], "Promoted", "{strategy}");
        is_gone(&world, "assistant-blue").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_a_version_takes_it_back_with_every_strategy() {
    let world = World::start().await;
    world.fates.pods_with("\"unpullable\"", Fate::ImagePullError);
    world.fates.pods_with("\"unready\"", Fate::NotReady { address: as_a_pod(world.engine.address()) });
    // A tenth fails; all answers begin within 2 s, and no sooner than after 1 s.
    world.green_answers("canary", VersionCounts { answered: 45, failed: 5, ..VersionCounts::default() });
    let first_token = vec![0, 0, 0, 0, 0, 0, 0, 0, 50];
    world.green_answers("bluegreen", VersionCounts { answered: 50, failed: 0, first_token });
    let cases = [
        ("rolling", "unpullable", json!({"strategy": "Rolling", "deadline": "10m"}), "cannot be pulled"),
        ("recreate", "unready", json!({"strategy": "Recreate", "deadline": "10m"}), "0 of 1 replica ready"),
        (
            "canary",
            "failing",
            json!({"strategy": "Canary", "steps": [{"weight": "50%", "duration": "30s"}]}),
            "more than rollbackOn.errorRate 1%",
        ),
        ("bluegreen", "slow", json!({"rollbackOn": {"ttftP95": "1s"}}), "not 1 s as rollbackOn.ttftP95 says"),
    ];
    let version = |mark: &str, rollout: &Value| {
        let mut spec = marked(mark);
        spec["rollout"] = rollout.clone();
        spec
    };
    for (name, _, rollout, _) in &cases {
        world.service(name, &version("good", rollout)).await;
    }
    for (name, ..) in &cases {
        world.ready(name).await;
    }
    for (name, bad, rollout, _) in &cases {
        world.service(name, &version(bad, rollout)).await;
    }
    for (name, _, _, why) in &cases {
        let back = |service: &Value| service["status"]["rollout"]["phase"] == "RolledBack";
        let service = world.until("LLMService", name, back).await;
        let reason = condition(&service, "Stalled")["message"].as_str().unwrap().to_owned();
        assert!(reason.contains(why), "{name}: {reason}");
        let serves =
            |service: &Value| service["status"]["phase"] == "Ready" && service["status"]["colour"] == "blue";
        world.until("LLMService", name, serves).await;
        is_gone(&world, &format!("{name}-green")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_gateway_a_version_is_judged_by_what_its_replicas_count() {
    let world = World::start().await;
    let slow = EngineConfig { ttft: Duration::from_millis(120), ..EngineConfig::default() };
    let slow = FakeEngine::start(slow).await.unwrap();
    world.fates.pods_with("\"slow\"", Fate::runs(as_a_pod(slow.address())));
    let version = |mark: &str| {
        let mut spec = marked(mark);
        spec["expose"] = json!({"direct": true});
        spec["rollout"] = json!({"rollbackOn": {"ttftP95": "50ms"}});
        spec
    };
    world.service("assistant", &version("good")).await;
    world.ready("assistant").await;
    world.service("assistant", &version("slow")).await;
    let selected = |service: &Value| service["spec"]["selector"]["wharf.dev/colour"] == "green";
    world.until("Service", "assistant", selected).await;
    // A user reaches the pods past us.
    let url = format!("http://{}/v1/completions", slow.address());
    let user = tokio::spawn(async move {
        let (client, prompt) = (reqwest::Client::new(), json!({"model": "fake-model", "prompt": "Hello"}));
        loop {
            let ask = async |_| client.post(&url).json(&prompt).send().await?.error_for_status();
            futures_util::future::try_join_all((0..8).map(ask)).await.unwrap();
        }
    });
    let back = |service: &Value| service["status"]["rollout"]["phase"] == "RolledBack";
    let service = world.until("LLMService", "assistant", back).await;
    let reason = condition(&service, "Stalled")["message"].as_str().unwrap().to_owned();
    assert!(reason.contains("as rollbackOn.ttftP95 says"), "{reason}");
    let selected = |service: &Value| service["spec"]["selector"]["wharf.dev/colour"] == "blue";
    world.until("Service", "assistant", selected).await;
    user.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_crashes_is_taken_back_and_says_why() {
    let world = World::start().await;
    world.fates.pods_with("\"bad\"", Fate::CrashLoop { restarts: 4, exit_code: 1 });
    world.service("assistant", &marked("good")).await;
    world.ready("assistant").await;
    let before = world.pods();
    world.service("assistant", &marked("bad")).await;
    let back = |service: &Value| service["status"]["rollout"]["phase"] == "RolledBack";
    let service = world.until("LLMService", "assistant", back).await;
    let reason = condition(&service, "Stalled")["message"].as_str().unwrap().to_owned();
    assert!(reason.contains("exits with code 1"), "{reason}");
    assert_eq!(condition(&service, "Ready")["status"], "True", "the old version serves");
    assert_eq!(service["status"]["traffic"], json!([{"colour": "blue", "weight": 100, "generation": 1}]));
    is_gone(&world, "assistant-green").await;
    let as_before = |cluster: &Stage| cluster.list("Pod").len() == before.len();
    assert!(world.cluster.until(SOON, as_before).await);
    assert_eq!(world.pods(), before);
    assert!(
        world
            .events("RollingBack")
            .iter()
            .chain(&world.events("RolledBack"))
            .any(|note| note.contains("exits with code 1"))
    );
    // Correcting it is another release.
    world.service("assistant", &marked("better")).await;
    served_by(&world, "green").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_answer_its_first_prompts_gets_no_traffic() {
    let world = World::start().await;
    // Nobody listens there.
    world.fates.pods_with("\"mute\"", Fate::runs(as_a_pod("127.0.0.1:1".parse().unwrap())));
    world.service("assistant", &marked("good")).await;
    world.ready("assistant").await;
    world.service("assistant", &marked("mute")).await;
    let back = |service: &Value| service["status"]["rollout"]["phase"] == "RolledBack";
    let service = world.until("LLMService", "assistant", back).await;
    let reason = condition(&service, "Stalled")["message"].as_str().unwrap().to_owned();
    assert!(reason.contains("warm-up prompt"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_version_without_a_node_says_what_can_be_done() {
    let world = World::start().await;
    world.fates.pods_with("\"large\"", Fate::Unschedulable);
    world.service("assistant", &marked("good")).await;
    world.ready("assistant").await;
    world.service("assistant", &marked("large")).await;
    let said = |service: &Value| {
        condition(service, "Progressing")["message"].as_str().is_some_and(|m| m.contains("Insufficient"))
    };
    let service = world.until("LLMService", "assistant", said).await;
    let message = condition(&service, "Progressing")["message"].to_string();
    assert!(message.contains("rollout.strategy Recreate"), "{message}");
    assert_eq!(condition(&service, "Ready")["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_version_for_which_nodes_have_no_gpus_is_told_of_before_it_has_pods() {
    let world = World::without_operator().await;
    world.foresee_room().await;
    world.cluster.seed(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": actors::NODE},
        "status": {"allocatable": {"nvidia.com/gpu": "3"}, "conditions": [{"type": "Ready", "status": "True"}]},
    })).await;
    world.fates.jobs_with("\"fetch\"", JobFate::Waits);
    world.start_operator();
    let of = |source: &str| {
        spec(json!({
            "model": {"source": source, "name": "fake-model"},
            "resources": {"gpu": {"count": 1}}, "scaling": {"min": 2},
        }))
    };
    world.service("assistant", &of("pvc://models/one")).await;
    world.until("LLMService", "assistant", |service| service["status"]["readyReplicas"] == 2).await;
    world.service("assistant", &of("hf://owner/repo")).await;
    let lacks = |service: &Value| condition(service, "Room")["reason"] == "NoRoom";
    let service = world.until("LLMService", "assistant", lacks).await;
    let message = condition(&service, "Room")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("room for 1 of its replicas: 1 of 3 are free"), "{message}");
    assert!(message.contains("Recreate") && message.contains("add nodes"), "{message}");
    assert!(world.cluster.get("Deployment", "demo/assistant-green").is_none());
    // A node that grows with what waits is not kept from doing so.
    world.fates.jobs_with("\"fetch\"", JobFate::completes());
    world.nudge();
    let service = served_by(&world, "green").await;
    assert!(condition(&service, "Room").is_null(), "{service}");
    assert_eq!(world.events("NoRoom").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_again_and_again_comes_to_the_same_end() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    world
        .service("assistant", &spec(json!({"model": {"source": "pvc://models/two", "name": "fake-model"}})))
        .await;
    // Killed at every version of the status that the release passes through.
    let phase = |service: &Value| service["status"]["rollout"].to_string();
    let mut last = phase(&world.cluster.get("LLMService", "demo/assistant").unwrap());
    for _ in 0..12 {
        let service = world
            .until("LLMService", "assistant", |service| {
                phase(service) != last || service["status"]["rollout"]["phase"] == "Promoted"
            })
            .await;
        last = phase(&service);
        world.kill_operator().await;
        world.start_operator();
    }
    let service = served_by(&world, "green").await;
    assert_eq!(service["status"]["rollout"]["phase"], "Promoted");
    is_gone(&world, "assistant-blue").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_takes_a_release_back_with_an_annotation() {
    let world = World::start().await;
    world.fates.pods_with("\"slow\"", Fate::NotReady { address: as_a_pod(world.engine.address()) });
    world.service("assistant", &marked("good")).await;
    world.ready("assistant").await;
    world.service("assistant", &marked("slow")).await;
    world
        .until("LLMService", "assistant", |service| service["status"]["rollout"]["phase"] == "Warming")
        .await;
    world.cluster.seed(json!({
        "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService",
        "metadata": {"name": "assistant", "namespace": "demo", "annotations": {"wharf.dev/rollout": "abort@1"}},
        "spec": marked("slow"),
    })).await;
    let back = |service: &Value| service["status"]["rollout"]["phase"] == "RolledBack";
    let service = world.until("LLMService", "assistant", back).await;
    assert_eq!(service["status"]["rollout"]["answer"]["done"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_steers_a_release_and_reads_what_became_of_it() {
    let world = World::start().await;
    let client = world.cluster.client();
    let mut first = marked("good");
    first["rollout"]["pause"] = true.into();
    world.service("assistant", &first).await;
    world.ready("assistant").await;
    let mut second = marked("better");
    second["rollout"]["pause"] = true.into();
    world.service("assistant", &second).await;
    let waits = |service: &Value| service["status"]["rollout"]["waitsForPromotion"] == true;
    world.until("LLMService", "assistant", waits).await;
    let release = async || steer::releases(&client, Some("demo"), Some("assistant")).await.unwrap().remove(0);
    let shown = release().await;
    assert_eq!(shown.service, "demo/assistant");
    assert!(shown.rollout.unwrap().waits_for_promotion);
    let weights: Vec<(String, u32, u32)> =
        shown.versions.into_iter().map(|version| (version.colour, version.weight, version.ready)).collect();
    assert_eq!(weights, [("blue".to_owned(), 100, 1), ("green".to_owned(), 0, 1)]);

    steer::order(&client, "demo", "assistant", CommandKind::Promote, SOON).await.unwrap();
    served_by(&world, "green").await;
    steer::order(&client, "demo", "assistant", CommandKind::Undo, SOON).await.unwrap();
    served_by(&world, "blue").await;
    // There is nothing to take back any more, and that is said.
    let refused = steer::order(&client, "demo", "assistant", CommandKind::Abort, SOON).await.unwrap_err();
    assert!(matches!(refused, SteerError::Refused(_)), "{refused}");
    let nobody = steer::order(&client, "demo", "nobody", CommandKind::Abort, SOON).await.unwrap_err();
    assert!(matches!(nobody, SteerError::NotFound { .. }), "{nobody}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_somebody_deletes_comes_back_even_where_the_object_asks_for_another() {
    let world = World::start().await;
    world.fates.pods_with("\"bad\"", Fate::CrashLoop { restarts: 4, exit_code: 1 });
    world.service("assistant", &marked("good")).await;
    world.ready("assistant").await;
    world.service("assistant", &marked("bad")).await;
    world
        .until("LLMService", "assistant", |service| service["status"]["rollout"]["phase"] == "RolledBack")
        .await;
    let before = world.cluster.get("Deployment", "demo/assistant-blue").unwrap();
    world.cluster.delete("Deployment", "demo/assistant-blue");
    let anew = |deployment: &Value| deployment["metadata"]["uid"] != before["metadata"]["uid"];
    let after = world.until("Deployment", "assistant-blue", anew).await;
    assert_eq!(after["spec"]["template"]["spec"], before["spec"]["template"]["spec"]);
    world.until("LLMService", "assistant", |service| service["status"]["readyReplicas"] == 1).await;
}
