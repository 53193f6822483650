//! What the cluster says is what is served.

use serde_json::json;

use crate::support::{World, engine, until};

#[tokio::test]
async fn a_service_is_found_by_model_and_by_host_and_goes_when_it_is_deleted() {
    let world = World::start(&[]).await;
    let engine = engine("e0").await;
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engine);
    world.ready("demo/assistant", 1).await;
    assert_eq!(world.ask("anywhere", "fake-model", "").await.0, 200);
    for host in ["assistant", "assistant.demo", "assistant.demo.svc", "assistant.demo.svc.cluster.local:80"] {
        let (status, answer) = world.ask(host, "fake-model", "").await;
        assert_eq!((status, answer["system_fingerprint"].as_str()), (200, Some("e0")), "{host}");
    }
    world.cluster.delete("LLMService", "demo/assistant");
    until("it is gone", || world.handle.demand().services.is_empty()).await;
    assert_eq!(world.ask("assistant", "fake-model", "").await.0, 404);
}

#[tokio::test]
async fn services_of_the_same_name_in_two_namespaces_have_their_own_pods_and_hosts() {
    let world = World::start(&[]).await;
    let engines = [engine("e0").await, engine("e1").await];
    for (namespace, engine) in [("demo", &engines[0]), ("other", &engines[1])] {
        world.service(namespace, "assistant", json!({}));
        world.pod(namespace, "assistant", "assistant-1", "blue", engine);
    }
    world.ready("demo/assistant", 1).await;
    world.ready("other/assistant", 1).await;
    for (host, name) in [("assistant.demo", "e0"), ("assistant.other.svc", "e1")] {
        let (status, answer) = world.ask(host, "fake-model", "").await;
        assert_eq!((status, answer["system_fingerprint"].as_str()), (200, Some(name)), "{host}");
    }
}

#[tokio::test]
async fn a_gateway_of_one_namespace_knows_nothing_of_others() {
    let world = World::start(&["demo"]).await;
    world.service("other", "secret", json!({}));
    world.service("demo", "assistant", json!({}));
    until("the one is found", || !world.handle.demand().services.is_empty()).await;
    let known: Vec<String> = world.handle.demand().services.into_keys().collect();
    assert_eq!(known, ["demo/assistant"]);
}

#[tokio::test]
async fn traffic_follows_the_status_and_is_acknowledged_when_it_is_in_force() {
    let world = World::start(&[]).await;
    let engines = [engine("blue").await, engine("green").await];
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-b", "blue", &engines[0]);
    world.pod("demo", "assistant", "assistant-g", "green", &engines[1]);
    world.ready("demo/assistant", 2).await;
    for (colour, engine, generation) in [("blue", 0, 1), ("green", 1, 2)] {
        let traffic = json!([{"colour": colour, "weight": 100, "generation": generation}]);
        world.status("assistant", json!({"traffic": traffic}));
        loop {
            let report = world.acknowledged().await;
            if serde_json::to_value(&report.services["demo/assistant"]).unwrap() == traffic {
                assert_eq!(report.gateway, "local");
                break;
            }
            tokio::task::yield_now().await;
        }
        engines.iter().for_each(|engine| engine.forget());
        for _ in 0..5 {
            assert_eq!(world.ask("assistant", "fake-model", "").await.0, 200);
        }
        assert_eq!(engines[engine].stats().received, 5, "all go to {colour}");
    }
}

#[tokio::test]
async fn a_pod_that_is_terminated_gets_nothing_new_and_one_that_is_gone_is_forgotten() {
    let world = World::start(&[]).await;
    let engines = [engine("e0").await, engine("e1").await];
    world.service("demo", "assistant", json!({}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engines[0]);
    world.pod("demo", "assistant", "assistant-2", "blue", &engines[1]);
    world.ready("demo/assistant", 2).await;
    world.terminate("demo/assistant-1");
    world.ready("demo/assistant", 1).await;
    assert_eq!(world.endpoints("demo/assistant").len(), 2, "it is still there");
    for _ in 0..5 {
        world.ask("assistant", "fake-model", "").await;
    }
    assert_eq!((engines[0].stats().received, engines[1].stats().received), (0, 5));
}

#[tokio::test]
async fn keys_come_from_the_secret_that_the_service_names_and_from_no_other() {
    let world = World::start(&[]).await;
    let engine = engine("e0").await;
    world.service("demo", "assistant", json!({"access": {"apiKeys": {"secretName": "assistant-keys"}}}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engine);
    world.ready("demo/assistant", 1).await;
    assert_eq!(
        world.ask("assistant", "fake-model", "alpha").await.0,
        401,
        "without a Secret nobody may call"
    );
    let secret = |name: &str, key: &str| {
        let digest = wharf_access::keys::KeyRecord::of_secret(key, "x").sha256();
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "demo"},
            "stringData": {"one": format!("sha256:{digest} x")},
        })
    };
    world.cluster.seed(secret("other-keys", "omega"));
    world.cluster.seed(secret("assistant-keys", "alpha"));
    while world.ask("assistant", "fake-model", "alpha").await.0 != 200 {}
    assert_eq!(world.ask("assistant", "fake-model", "omega").await.0, 401);
    assert_eq!(world.ask("assistant", "fake-model", "").await.0, 401);
    world.cluster.seed(secret("assistant-keys", "beta"));
    while world.ask("assistant", "fake-model", "beta").await.0 != 200 {}
    assert_eq!(world.ask("assistant", "fake-model", "alpha").await.0, 401, "the old key is out");
    let secrets =
        world.cluster.calls().into_iter().filter(|call| call.kind == "Secret" && call.verb != "patch");
    let paths: Vec<String> = secrets.map(|call| call.path).collect();
    assert!(!paths.is_empty() && paths.iter().all(|path| path.contains("assistant-keys")), "{paths:?}");
    world.cluster.delete("Secret", "demo/assistant-keys");
    while world.ask("assistant", "fake-model", "beta").await.0 != 401 {}
}

#[tokio::test]
async fn limits_hold_and_a_service_that_has_failed_is_not_waited_for() {
    let world = World::start(&[]).await;
    let engine = engine("e0").await;
    world.service("demo", "assistant", json!({"access": {"limits": {"requestsPerMinute": 2}}}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engine);
    world.ready("demo/assistant", 1).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(world.ask("assistant", "fake-model", "").await.0);
    }
    assert_eq!(statuses, [200, 200, 429]);
    world.service("demo", "broken", json!({}));
    world.status(
        "broken",
        json!({"conditions": [{
            "type": "Failed", "status": "True", "reason": "NoSuchModel", "message": "there is no such model",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}),
    );
    until("it is found", || world.handle.demand().services.contains_key("demo/broken")).await;
    let (status, answer) = world.ask("broken", "fake-model", "").await;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 503 && message.contains("there is no such model"), "{status} {message}");
}
