//! Kubernetes' own autoscaler scales a service by our metrics. It is part of a real controller manager; without one, what it asks is what one
//! once asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::sleep;
use wharf_fakes::actors::{self, Fate, PORT_ANNOTATION};
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_metrics_api::Api;
use wharf_operator::{HttpProbe, NoGateways, Operator};

use crate::support::{SOON, World};

/// Requests that the load of a test sends each second, about.
const PER_SECOND: u64 = 20;

/// Asks an engine again and again while it is told to.
fn load(engine: &FakeEngine) -> Arc<AtomicBool> {
    let on = Arc::new(AtomicBool::new(true));
    let (url, told) = (format!("{}/v1/completions", engine.url()), Arc::clone(&on));
    tokio::spawn(async move {
        let client = reqwest::Client::new();
        while told.load(Ordering::Relaxed) {
            let body = json!({"model": "fake-model", "prompt": "x", "max_tokens": 1});
            client.post(&url).json(&body).send().await.unwrap().error_for_status().unwrap();
            sleep(Duration::from_millis(1000 / PER_SECOND)).await;
        }
    });
    on
}

fn operator(world: &World) -> Operator {
    let probe =
        HttpProbe::finding(|pod, _| Some(format!("127.0.0.1:{}", pod.annotations().get(PORT_ANNOTATION)?)));
    let mut operator = Operator::new(world.cluster.client(), wharf_operator::Options::default());
    operator.gateways = Some(Arc::new(NoGateways));
    operator.probe = Some(Arc::new(probe.unwrap()));
    operator
}

fn replicas(count: u64) -> impl Fn(Option<&Value>) -> bool {
    move |service| {
        service.is_some_and(|it| it["status"]["readyReplicas"] == count && it["spec"]["replicas"] == count)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_grows_and_shrinks_with_its_requests_per_second() {
    let world = World::start(&[Api::Custom]).await;
    if !world.cluster.start_controllers() {
        eprintln!("SKIPPED: there is no kube-controller-manager, whose autoscaler this is about");
        return;
    }
    let engine = FakeEngine::start(EngineConfig::default()).await.unwrap();
    let mut address = engine.address();
    address.set_ip("10.1.2.3".parse().unwrap());
    let _kubelet = actors::kubelet(&world.cluster.client(), move |_| Fate::runs(address));
    let operator = operator(&world);
    let operator = tokio::spawn(async move { wharf_operator::run(operator).await.unwrap() });

    let at_once = json!({"stabilizationWindowSeconds": 0});
    let spec = json!({
        "model": {"source": "pvc://models/one", "name": "fake-model"}, "rollout": {"warmup": {"prompts": 0}},
        "scaling": {
            "mode": "hpa", "min": 1, "max": 3, "target": {"requestsPerSecond": 2}, "behavior": {"scaleDown": at_once},
        },
    });
    let metadata = json!({"name": "assistant", "namespace": "demo"});
    let service =
        json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": spec});
    world.cluster.seed(service).await;
    let await_service = async |count| {
        let reached =
            world.cluster.await_object("LLMService", "demo/assistant", 2 * SOON, replicas(count)).await;
        let hpa = world.cluster.get("HorizontalPodAutoscaler", "demo/assistant").unwrap_or_default();
        assert!(reached.is_ok(), "there are never {count} replicas: {:#}", hpa["status"]);
    };
    await_service(1).await;

    // Every pod is this engine, so each is asked for as much as all.
    let on = load(&engine);
    await_service(3).await;
    let hpa = world.cluster.get("HorizontalPodAutoscaler", "demo/assistant").unwrap();
    let conditions = hpa["status"]["conditions"].as_array().unwrap();
    let active = conditions.iter().find(|condition| condition["type"] == "ScalingActive").unwrap();
    assert_eq!(
        (&active["status"], &active["reason"]),
        (&"True".into(), &"ValidMetricFound".into()),
        "{hpa:#}"
    );
    assert_eq!(hpa["status"]["currentMetrics"][0]["pods"]["metric"]["name"], "requests_per_second");

    on.store(false, Ordering::Relaxed);
    await_service(1).await;
    operator.abort();
}

/// What an API server and the autoscaler of a controller manager asked, and what they took for an answer: see `kubernetes` in it.
const RECORDED: &str = include_str!("recorded.json");

/// Whether an answer has the fields of another, and lists of things that do.
fn is_like(answer: &Value, known: &Value) -> bool {
    match (answer, known) {
        (Value::Object(answer), Value::Object(known)) => {
            answer.len() == known.len()
                && known
                    .iter()
                    .all(|(key, known)| answer.get(key).is_some_and(|answer| is_like(answer, known)))
        }
        (Value::Array(answer), Value::Array(known)) => known
            .first()
            .is_none_or(|known| !answer.is_empty() && answer.iter().all(|answer| is_like(answer, known))),
        _ => std::mem::discriminant(answer) == std::mem::discriminant(known),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_autoscaler_asks_is_answered_as_it_was() {
    let world = World::start(&[Api::Custom]).await;
    let Some(memory) = world.cluster.in_memory("be asked what another one asked") else { return };
    memory.on_review(|_, _| json!({"allowed": true}));
    let engine = FakeEngine::start(EngineConfig::default()).await.unwrap();
    world.pod("a", engine.address()).await;
    let pods = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/demo/pods/*/requests_per_second";
    world.get_until(pods, |list| list["items"][0].is_object()).await;

    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let asked = recorded["asked"].as_array().unwrap();
    assert_eq!(asked.len(), 6);
    for exchange in asked {
        let headers = exchange["headers"].as_object().unwrap();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let path = exchange["path"].as_str().unwrap();
        let (status, answer) = world.ask(path, true, &headers).await;
        assert_eq!(status, 200, "{path}: {answer}");
        assert!(
            is_like(&answer, &exchange["answer"]),
            "{path}: {answer:#} is not like {:#}",
            exchange["answer"]
        );
        let kind = |answer: &Value| (answer["kind"].clone(), answer["apiVersion"].clone());
        assert_eq!(kind(&answer), kind(&exchange["answer"]), "{path}");
    }
}
