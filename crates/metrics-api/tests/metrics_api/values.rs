//! Values of pods and services are what pods, gateways and node agents say.

use serde_json::{Value, json};
use tokio::time::Instant;
use wharf_api::demand::ServiceDemand;
use wharf_fakes::engine::{Claims, EngineConfig, FakeEngine};
use wharf_metrics_api::Api;

use crate::support::{FakeGateway, TOKEN, Text, World};

const PODS: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/demo/pods";
const SERVICES: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/demo/llmservices.wharf.dev";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/demo";

/// An engine that claims to do so much.
async fn engine(running: usize, waiting: usize, kv: f64) -> FakeEngine {
    let claims = Claims { running: Some(running), waiting: Some(waiting), kv: Some(kv) };
    FakeEngine::start(EngineConfig { claims, ..EngineConfig::default() }).await.unwrap()
}

/// Name and value of each item.
fn values(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| (text(&item["describedObject"]["name"]), text(&item["value"]))).collect()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_pods_are_what_their_engines_say() {
    let world = World::start(&[Api::Custom]).await;
    let (busy, idle) = (engine(3, 2, 0.75).await, engine(0, 0, 0.0).await);
    world.pod("busy", busy.address()).await;
    world.pod("idle", idle.address()).await;
    let all = format!("{PODS}/*/requests_running?labelSelector=wharf.dev%2Fservice%3Dassistant");
    let list =
        world.get_until(&all, |list| list["items"].as_array().is_some_and(|items| items.len() == 2)).await;
    assert_eq!(list["kind"], "MetricValueList");
    assert_eq!(values(&list), [pair("busy", "3"), pair("idle", "0")]);
    assert_eq!(
        list["items"][0]["describedObject"],
        json!({"kind": "Pod", "namespace": "demo", "name": "busy", "apiVersion": "v1"})
    );

    let (_, list) = world.get(&format!("{PODS}/*/kv_cache_usage?labelSelector=replica+in+(busy)")).await;
    assert_eq!(values(&list), [pair("busy", "750m")]);
    let (_, list) = world.get(&format!("{PODS}/busy/requests_waiting")).await;
    assert_eq!(values(&list), [pair("busy", "2")], "one object has exactly one value");
    assert_eq!(world.get(&format!("{PODS}/gone/requests_waiting")).await.0, 404);
    assert_eq!(world.get(&format!("{PODS}/*/nonsense")).await.0, 404);
    assert_eq!(world.get(&format!("{PODS}/*/requests_waiting?labelSelector=a+b+c")).await.0, 400);

    busy.configure(|config| config.claims.running = Some(7));
    let (_, list) = world.get(&format!("{PODS}/busy/requests_running")).await;
    let known = values(&list)[0].1.clone();
    assert!(known == "3" || known == "7");
    world.get_until(&format!("{PODS}/busy/requests_running"), |list| list["items"][0]["value"] == "7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_question_about_a_rate_has_an_answer() {
    let world = World::start(&[Api::Custom]).await;
    let engine = FakeEngine::start(EngineConfig::default()).await.unwrap();
    world.pod("busy", engine.address()).await;
    let url = format!("http://{}/v1/completions", engine.address());
    let client = reqwest::Client::new();
    let load = tokio::spawn(async move {
        loop {
            let body = json!({"model": "fake-model", "prompt": "x", "max_tokens": 1});
            client.post(&url).json(&body).send().await.unwrap().error_for_status().unwrap();
        }
    });
    world.get_until(&format!("{PODS}/busy/requests_running"), |list| list["items"][0].is_object()).await;
    let (status, list) = world.get(&format!("{PODS}/*/requests_per_second")).await;
    load.abort();
    assert_eq!(status, 200);
    let rate = list["items"][0]["value"].as_str().unwrap();
    let rate: f64 = rate
        .strip_suffix('m')
        .map_or_else(|| rate.parse().unwrap(), |milli| milli.parse::<f64>().unwrap() / 1e3);
    assert!(rate > 1.0, "requests came one after the other: {list}");
    assert_eq!(list["items"][0]["windowSeconds"], 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_has_stopped_answering_has_no_value() {
    let world = World::start(&[Api::Custom]).await;
    let engine = engine(1, 0, 0.0).await;
    world.pod("gone", engine.address()).await;
    let path = format!("{PODS}/*/requests_running");
    world.get_until(&path, |list| list["items"][0].is_object()).await;
    let asked = Instant::now();
    engine.kill().await;
    world.get_until(&path, |list| list["items"].as_array().is_some_and(Vec::is_empty)).await;
    assert!(asked.elapsed().as_secs() < 30, "it is left out when its last word is older than five seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_services_are_summed_over_gateways() {
    let world = World::start(&[Api::Custom, Api::External]).await;
    world.service("assistant", json!({"tier": "gold"})).await;
    world.service("other", json!({})).await;
    let (one, two) = (FakeGateway::start("one").await, FakeGateway::start("two").await);
    world.component("gateway", "one", one.address).await;
    world.component("gateway", "two", two.address).await;
    one.say(
        "assistant",
        ServiceDemand { in_flight: 3, queued: 1, tokens_in_flight: 500, ..Default::default() },
    );
    two.say("assistant", ServiceDemand { in_flight: 2, ..Default::default() });
    two.say("other", ServiceDemand { in_flight: 9, ..Default::default() });

    let path = format!("{SERVICES}/assistant/requests_running");
    let list = world.get_until(&path, |list| list["items"][0]["value"] == "6").await;
    let object = json!({"kind": "LLMService", "namespace": "demo", "name": "assistant", "apiVersion": "wharf.dev/v1alpha1"});
    assert_eq!(list["items"][0]["describedObject"], object);
    let (_, list) = world.get(&format!("{SERVICES}/*/tokens_in_flight?labelSelector=tier%3Dgold")).await;
    assert_eq!(values(&list), [pair("assistant", "500")]);

    let (_, list) =
        world.get(&format!("{EXTERNAL}/wharf_requests_running?labelSelector=service%3Dother")).await;
    assert_eq!(list["kind"], "ExternalMetricValueList");
    let item = &list["items"][0];
    assert_eq!((&item["metricName"], &item["value"]), (&"wharf_requests_running".into(), &"9".into()));
    assert_eq!(item["metricLabels"], json!({"service": "other"}));
    let (_, list) = world.get(&format!("{EXTERNAL}/wharf_requests_running")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(world.get(&format!("{EXTERNAL}/requests_running")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_of_a_pod_are_what_its_nodes_agent_says() {
    let world = World::start(&[Api::Custom]).await;
    let of = "container=\"server\",namespace=\"demo\",pod=\"a\"";
    let agent = Text::serve(&format!(
        "DCGM_FI_DEV_GPU_UTIL{{gpu=\"0\",{of}}} 90\nDCGM_FI_DEV_GPU_UTIL{{gpu=\"1\",{of}}} 60\nDCGM_FI_DEV_FB_USED{{gpu=\"0\",{of}}} 1024\n"
    ))
    .await;
    world.component("node-agent", "agent", agent.address).await;
    let engine = engine(0, 0, 0.0).await;
    world.pod("a", engine.address()).await;
    world.pod("without", engine.address()).await;
    let list =
        world.get_until(&format!("{PODS}/*/gpu_utilization"), |list| list["items"][0].is_object()).await;
    assert_eq!(values(&list), [pair("a", "75")]);
    let (_, list) = world.get(&format!("{PODS}/*/gpu_memory_used")).await;
    assert_eq!(values(&list), [pair("a", &(1u64 << 30).to_string())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_is_answered() {
    let world = World::start(&[Api::Custom]).await;
    if world.cluster.in_memory("say who is who without accounts").is_none() {
        return;
    }
    let path = "/apis/custom.metrics.k8s.io/v1beta2";
    let somebody = [("X-Remote-User", "somebody")];
    assert_eq!(world.get(path).await.0, 200);
    assert_eq!(world.ask(path, true, &somebody).await.0, 403, "the cluster says that they may not");
    let hpa = [("X-Remote-User", "system:serviceaccount:kube-system:horizontal-pod-autoscaler")];
    let (status, answer) = world.ask(path, false, &hpa).await;
    assert_eq!(status, 403, "only the front proxy speaks for others");
    assert!(answer["message"].as_str().unwrap().starts_with("system:anonymous may not"), "{answer}");
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(world.ask(path, false, &[("Authorization", &bearer)]).await.0, 200);
    assert_eq!(world.ask(path, false, &[("Authorization", "Bearer wrong")]).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_lists_what_is_served() {
    let world = World::start(&[Api::Custom, Api::External]).await;
    let list = world
        .get_until("/apis/custom.metrics.k8s.io/v1beta2", |list| list["kind"] == "APIResourceList")
        .await;
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"pods/requests_per_second")
            && names.contains(&"llmservices.wharf.dev/requests_waiting")
    );
    let list = world
        .get_until("/apis/external.metrics.k8s.io/v1beta1", |list| list["kind"] == "APIResourceList")
        .await;
    assert_eq!(list["groupVersion"], "external.metrics.k8s.io/v1beta1");
    assert_eq!(world.get("/apis/metrics.k8s.io/v1beta1").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_is_none_of_ours_is_asked_of_prometheus() {
    let result = json!([{"metric": {"pod": "a", "tier": "gold"}, "value": [1.7e9, "2.5"]}]);
    let (prometheus, queries) =
        Text::prometheus(json!({"status": "success", "data": {"result": result}})).await;
    let world = World::start_with(&[Api::Custom, Api::External], &format!("http://{prometheus}/")).await;
    let engine = engine(0, 0, 0.0).await;
    world.pod("a", engine.address()).await;
    let path = format!("{PODS}/*/theirs_total?labelSelector=wharf.dev%2Fservice%3Dassistant");
    let list = world.get_until(&path, |list| list["items"][0].is_object()).await;
    assert_eq!(values(&list), [pair("a", "2500m")]);
    let asked = queries.lock().unwrap().last().unwrap().clone();
    assert!(asked.starts_with("/api/v1/query?query=sum+by+%28pod%29+%28rate%28theirs_total"), "{asked}");

    let (_, list) = world.get(&format!("{EXTERNAL}/theirs?labelSelector=tier%3Dgold")).await;
    assert_eq!(list["items"][0]["metricLabels"], json!({"pod": "a", "tier": "gold"}));
    // Our own are never asked of it.
    let before = queries.lock().unwrap().len();
    world.get(&format!("{PODS}/*/requests_running")).await;
    assert_eq!(queries.lock().unwrap().len(), before);
}
