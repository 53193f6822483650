//! Services come, stay as they are, change in small ways, and go.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_fakes::actors::Fate;
use wharf_fakes::stage::Stage;

use crate::support::{POD_IP, SOON, World, condition, is_current, pod, spec, writes};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_applied_becomes_ready_with_a_url() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    let service = world.ready("assistant").await;
    let status = &service["status"];
    assert_eq!(status["url"], "http://assistant.demo.svc");
    assert_eq!(
        (&status["phase"], &status["colour"], &status["model"]),
        (&json!("Ready"), &json!("blue"), &json!("fake-model"))
    );
    assert_eq!((&status["replicas"], &status["readyReplicas"]), (&json!(1), &json!(1)));
    assert_eq!(status["traffic"], json!([{"colour": "blue", "weight": 100, "generation": 1}]));
    assert_eq!(condition(&service, "Ready")["message"], "1 replica answers requests");
    assert!(status["coldStart"]["warm"].as_f64().unwrap() > 0.0, "{}", status["coldStart"]);
    let deployment = world.cluster.get("Deployment", "demo/assistant-blue").unwrap();
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["name"], "assistant");
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["controller"], true);
    assert!(world.cluster.get("Service", "demo/assistant").is_some());
    assert!(world.engine.requests().len() >= 4, "it answered its warm-up prompts");
    for line in [
        "service_phase{phase=\"Ready\",service=\"demo/assistant\"} 1",
        "service_replicas{service=\"demo/assistant\",state=\"ready\"} 1",
        "service_replicas{service=\"demo/assistant\",state=\"wanted\"} 1",
        "service_traffic_ratio{colour=\"blue\",service=\"demo/assistant\"} 1",
        "release_phase{phase=\"Promoted\",service=\"demo/assistant\"} 1",
    ] {
        world.until_metrics(&format!("\nwharf_operator_{line}\n")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_what_is_as_it_should_be_writes_nothing() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    assert!(world.cluster.settle(Duration::from_millis(300), SOON).await);
    world.cluster.forget_calls();
    // The same object again, and every object as if it had changed.
    world.service("assistant", &spec(json!({}))).await;
    if let Stage::Memory(cluster) = &world.cluster {
        cluster.cut_watches();
    }
    // The operator looks again every 100 ms; ten looks are enough.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&world.cluster.calls()), [] as [String; 0]);
    // Nor does a new operator, which remembers nothing.
    world.kill_operator().await;
    world.start_operator();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&world.cluster.calls()), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_scaling_and_observability_starts_and_stops_no_other_pods() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    let before = world.pods();
    let changed = json!({"scaling": {"min": 2, "max": 4}, "observability": {"logs": {"format": "json"}}});
    world.service("assistant", &spec(changed)).await;
    let grown = |service: &Value| is_current(service) && service["status"]["readyReplicas"] == 2;
    let service = world.until("LLMService", "assistant", grown).await;
    assert_eq!(service["status"]["colour"], "blue");
    let after = world.pods();
    assert!(after.len() == 2 && before.iter().all(|pod| after.contains(pod)), "{before:?} {after:?}");
    assert!(world.cluster.get("Deployment", "demo/assistant-green").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_wharf_restarts_no_model() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    let deployment = || world.cluster.get("Deployment", "demo/assistant-blue").unwrap()["spec"].clone();
    let (before, pods) = (deployment(), world.pods());
    world.kill_operator().await;
    world.install_image("example.com/wharf:next");
    world.start_operator();
    // It works: a change that restarts nothing is followed.
    world.service("assistant", &spec(json!({"scaling": {"min": 2}}))).await;
    let grown = |service: &Value| is_current(service) && service["status"]["readyReplicas"] == 2;
    let service = world.until("LLMService", "assistant", grown).await;
    assert_eq!(deployment()["template"], before["template"]);
    assert!(pods.iter().all(|pod| world.pods().contains(pod)), "{pods:?} {:?}", world.pods());
    assert_ne!(service["status"]["image"], "example.com/wharf:next");
    // The next release takes the new image.
    world
        .service("assistant", &spec(json!({"model": {"source": "pvc://models/two", "name": "fake-model"}})))
        .await;
    let moved = |service: &Value| service["status"]["image"] == "example.com/wharf:next";
    world.until("LLMService", "assistant", moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deletes_or_edits_of_a_service_is_put_right() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    world.cluster.delete("Service", "demo/assistant-pods");
    world.until("Service", "assistant-pods", |service| service["spec"]["clusterIP"] == "None").await;
    world
        .cluster
        .seed(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "assistant", "namespace": "demo"}, "spec": {"maxUnavailable": 5},
        }))
        .await;
    world.until("PodDisruptionBudget", "assistant", |budget| budget["spec"]["maxUnavailable"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_wants_no_longer_goes() {
    let world = World::start().await;
    let exposed = json!({"expose": {"type": "Ingress", "host": "llm.example.com"}});
    world.service("assistant", &spec(exposed)).await;
    world.ready("assistant").await;
    assert!(world.cluster.get("Ingress", "demo/assistant").is_some());
    world.service("assistant", &spec(json!({"expose": {"type": "ClusterIP", "host": null}}))).await;
    world.cluster.await_object("Ingress", "demo/assistant", SOON, |ingress| ingress.is_none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_deleted_takes_its_children_with_it() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    world.cluster.delete("LLMService", "demo/assistant");
    let kinds = [
        "Deployment",
        "Service",
        "ConfigMap",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ServiceAccount",
        "EndpointSlice",
        "Pod",
    ];
    let gone = |cluster: &Stage| {
        kinds.iter().all(|kind| {
            let ours = |object: &Value| object["metadata"]["labels"]["wharf.dev/service"] == "assistant";
            !cluster.list(kind).iter().any(ours)
        })
    };
    assert!(world.cluster.until(SOON, gone).await);
    assert!(world.cluster.settle(Duration::from_millis(300), SOON).await);
    assert!(gone(&world.cluster), "nothing comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_reached_through_the_gateway_s_pods() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    let empty = |slice: &Value| slice["endpoints"].as_array().is_none_or(Vec::is_empty);
    world.until("EndpointSlice", "assistant-gateway", empty).await;
    let labels = json!({"app.kubernetes.io/component": "gateway"});
    let ports = json!([{"name": "http", "containerPort": 8000}]);
    let container = json!({"name": "gateway", "image": "wharf", "ports": ports});
    world.cluster.seed(pod("wharf-system", "gateway-1", &labels, container)).await;
    let pointed = |slice: &Value| {
        slice["endpoints"][0]["addresses"] == json!([POD_IP])
            && slice["endpoints"][0]["conditions"]["ready"] == true
    };
    let slice = world.until("EndpointSlice", "assistant-gateway", pointed).await;
    let of_port = |slice: &Value| -> Vec<(Value, Value)> {
        let ports = slice["ports"].as_array().unwrap().iter();
        ports.map(|port| (port["name"].clone(), port["port"].clone())).collect()
    };
    assert_eq!(of_port(&slice), [(json!("http"), json!(8000))]);
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "assistant");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_with_tls_and_addresses_of_both_families_are_reached_by_all_of_them() {
    let world = World::start().await;
    world.fates.pods_with("gateway-1", Fate::Waits);
    world.service("assistant", &spec(json!({}))).await;
    let labels = json!({"app.kubernetes.io/component": "gateway"});
    let ports = json!([{"name": "http", "containerPort": 8000}, {"name": "https", "containerPort": 8443}]);
    let container = json!({"name": "gateway", "image": "wharf", "ports": ports});
    let mut gateway = pod("wharf-system", "gateway-1", &labels, container);
    gateway["status"] = json!({
        "phase": "Running", "podIP": POD_IP, "podIPs": [{"ip": POD_IP}, {"ip": "fd00::1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    world.cluster.seed(gateway).await;
    for (name, family, address) in
        [("assistant-gateway", "IPv4", POD_IP), ("assistant-gateway-ipv6", "IPv6", "fd00::1")]
    {
        let pointed = |slice: &Value| {
            let numbers: Vec<&Value> =
                slice["ports"].as_array().into_iter().flatten().map(|port| &port["port"]).collect();
            slice["addressType"] == family
                && slice["endpoints"][0]["addresses"] == json!([address])
                && numbers == [&json!(8000), &json!(8443)]
        };
        world.until("EndpointSlice", name, pointed).await;
    }
    // When the gateway is gone, so is what only pointed at it.
    world.fates.pods_with("gateway-1", Fate::Ended { exit_code: 0 });
    world.cluster.delete("Pod", "wharf-system/gateway-1");
    world.nudge();
    world
        .cluster
        .await_object("EndpointSlice", "demo/assistant-gateway-ipv6", SOON, |slice| slice.is_none())
        .await
        .unwrap();
    let slice = world.cluster.get("EndpointSlice", "demo/assistant-gateway").unwrap();
    assert!(slice["endpoints"].as_array().is_none_or(Vec::is_empty), "{slice}");
}
