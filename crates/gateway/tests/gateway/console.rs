//! The console: a page that anybody may load, and answers that tell a key what it may know, and never a prompt.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use wharf_api::console::{History, KeyView, Overview, ReplicaView, RequestView, ServiceFacts};
use wharf_gateway::ServiceConfig;
use wharf_gateway::console::Source;

use crate::console_access::key_file;
use crate::support::{PATIENCE, Running, chat, config, engines, service, streamed, until};

/// Text that must turn up nowhere.
const PROMPT: &str = "the-harbour-masters-secret";

/// What a runner would say.
pub(crate) struct Runner;

impl Source for Runner {
    fn facts(&self, service: &str) -> Option<ServiceFacts> {
        (service == "demo/fake-model").then(|| ServiceFacts {
            phase: "Ready".to_owned(),
            wanted: 2,
            replicas: vec![ReplicaView { name: "blue-0".to_owned(), ..ReplicaView::default() }],
            ..ServiceFacts::default()
        })
    }

    fn yaml(&self, service: &str) -> Option<String> {
        (service == "demo/fake-model").then(|| "kind: LLMService\n".to_owned())
    }

    fn manifests(&self, service: &str) -> Option<Result<String, String>> {
        match service {
            "demo/fake-model" => Some(Ok("kind: Deployment\n".to_owned())),
            "demo/other" => Some(Err("its model is a file of this machine".to_owned())),
            _ => None,
        }
    }
}

pub(crate) async fn get(gateway: &Running, path: &str) -> reqwest::Response {
    gateway.client.get(gateway.url(path)).send().await.unwrap()
}

pub(crate) async fn json<T: serde::de::DeserializeOwned>(response: reqwest::Response) -> T {
    let status = response.status();
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {error}: {text}"))
}

pub(crate) async fn code(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let error: Value = json(response).await;
    (status, error["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn other() -> ServiceConfig {
    ServiceConfig::new("demo/other", Vec::<String>::new())
}

/// Asks again until the answer is as wanted.
async fn wait_for<T: serde::de::DeserializeOwned>(
    gateway: &Running,
    path: &str,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let asked = async {
        loop {
            let answer: T = json(get(gateway, path).await).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| panic!("{path} never told what was awaited"))
}

#[tokio::test]
async fn the_page_loads_without_a_key_and_lets_nothing_foreign_in() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(vec![]);
    config.api_keys = Some(key_file(&folder));
    let gateway = Running::start(config);
    let page = get(&gateway, "/console").await;
    assert_eq!(
        (page.status().as_u16(), page.url().path()),
        (200, "/console/"),
        "it is redirected to its folder"
    );
    let html = page.text().await.unwrap();
    // Every file that the page names is there, with a type of its own.
    let named =
        html.split(['"', '\'']).filter(|word| [".js", ".css", ".svg"].iter().any(|end| word.ends_with(end)));
    let mut files: Vec<&str> = named.collect();
    files.extend(["", "chart.js", "service.js"]);
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let response = get(&gateway, &format!("/console/{file}")).await;
        assert_eq!(response.status(), 200, "{file}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-cache");
        let tag = header("etag");
        let again = gateway.client.get(response.url().clone()).header("if-none-match", &tag);
        let again = again.send().await.unwrap();
        assert_eq!((again.status().as_u16(), again.headers()["etag"].to_str().unwrap()), (304, &*tag));
        assert_eq!(again.text().await.unwrap(), "");
    }
    assert!(
        !html.contains("<style") && !html.contains("style=") && !html.contains("onclick"),
        "nothing is inline"
    );
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_words() {
    let gateway = Running::start(config(vec![]));
    assert_eq!(code(get(&gateway, "/console/nothing.js").await).await, (404, "not_found".to_owned()));
    assert_eq!(code(get(&gateway, "/console/api/nothing").await).await, (404, "not_found".to_owned()));
    let post = gateway.client.post(gateway.url("/console/api/overview")).send().await.unwrap();
    assert_eq!(post.headers()["allow"], "GET, HEAD");
    assert_eq!(code(post).await, (405, "method_not_allowed".to_owned()));
    let head = gateway.client.head(gateway.url("/console/")).send().await.unwrap();
    assert_eq!(head.status(), 200);
}

#[tokio::test]
async fn a_gateway_without_a_console_has_no_page_and_keeps_no_requests() {
    let engines = engines(1).await;
    let mut config = config(vec![service(&engines)]);
    config.console = false;
    let gateway = Running::start(config);
    // As any other path, it is the model server's.
    assert_eq!(get(&gateway, "/console/").await.status(), 404);
    assert!(engines[0].requests().iter().any(|request| request.path == "/console/"));
    gateway.ask(&chat("hello")).await;
    assert_eq!(
        gateway.handle.overview().services[0].demand.arrived,
        2,
        "who embeds the gateway still sees it"
    );
}

#[tokio::test]
async fn the_overview_has_endpoints_rates_and_what_the_runner_says() {
    let engines = engines(2).await;
    engines[0].configure(|config| config.claims.kv = Some(0.25));
    let gateway = Running::start(config(vec![service(&engines), other()]));
    gateway.handle.set_console_source(Arc::new(Runner));
    for _ in 0..6 {
        assert_eq!(gateway.ask(&chat("hello")).await.0, 200);
    }
    // Rates are growth between two samples, so somebody has to ask in between.
    let asked = async {
        loop {
            gateway.ask(&chat("hello")).await;
            let overview: Overview = json(get(&gateway, "/console/api/overview").await).await;
            let rates = overview.services[0].rates;
            let kv = overview.services[0].endpoints.iter().any(|endpoint| endpoint.kv_cache == 0.25);
            if rates.requests_per_second > 0.0 && rates.tokens_per_second > 0.0 && kv {
                return overview;
            }
        }
    };
    let overview = tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert_eq!((overview.gateway.as_str(), overview.version.is_empty()), ("local", false));
    let [first, second] = &overview.services[..] else { panic!("{overview:?}") };
    assert_eq!((first.name.as_str(), &first.models[..]), ("demo/fake-model", &["fake-model".to_owned()][..]));
    assert_eq!(first.endpoints.len(), 2);
    assert!(first.endpoints.iter().all(|endpoint| endpoint.ready && !endpoint.broken));
    assert!(first.demand.arrived >= 6 && first.rates.first_token_p95_ms.is_some());
    assert_eq!(first.rates.error_rate, 0.0);
    let facts = first.facts.as_ref().unwrap();
    assert_eq!((facts.phase.as_str(), facts.wanted, facts.replicas[0].name.as_str()), ("Ready", 2, "blue-0"));
    assert_eq!((second.name.as_str(), second.endpoints.len(), &second.facts), ("demo/other", 0, &None));
}

#[tokio::test]
async fn tokens_are_seen_while_an_answer_is_still_being_written() {
    let engines = engines(1).await;
    engines[0].configure(|config| {
        config.tokens = 2000;
        config.itl = Duration::from_millis(10);
    });
    let gateway = Running::start(config(vec![service(&engines)]));
    let mut stream = gateway.post(&streamed("hello")).await;
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = stream.chunk().await {} });
    let busy = |overview: &Overview| overview.services[0].rates.tokens_per_second > 0.0;
    let overview: Overview = wait_for(&gateway, "/console/api/overview", busy).await;
    assert_eq!(overview.services[0].demand.generated_tokens, 0, "sums are of answers that have ended");
    reading.abort();
}

#[tokio::test]
async fn the_stream_tells_at_once_that_somebody_waits_and_ends_when_the_gateway_stops() {
    let gateway = Running::start(config(vec![service(&[])]));
    let mut stream = get(&gateway, "/console/api/stream").await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut next = async || -> Option<Overview> {
        let event = stream.chunk().await.unwrap()?;
        let text = std::str::from_utf8(&event).unwrap();
        let data = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
        Some(serde_json::from_str(data).unwrap())
    };
    assert_eq!(next().await.unwrap().services[0].demand.queued, 0);
    let waiting =
        tokio::spawn(gateway.client.post(gateway.url("/v1/chat/completions")).json(&chat(PROMPT)).send());
    while next().await.unwrap().services[0].demand.queued != 1 {}
    waiting.abort();
    gateway.stop().await;
    while next().await.is_some() {}
}

/// A runner whose service is in a phase that somebody changes.
#[derive(Default)]
struct Changing(std::sync::Mutex<String>);

impl Source for Changing {
    fn facts(&self, _: &str) -> Option<ServiceFacts> {
        Some(ServiceFacts { phase: self.0.lock().unwrap().clone(), ..ServiceFacts::default() })
    }

    fn yaml(&self, _: &str) -> Option<String> {
        None
    }

    fn manifests(&self, _: &str) -> Option<Result<String, String>> {
        None
    }
}

#[tokio::test]
async fn the_stream_tells_at_once_what_the_runner_has_new() {
    let gateway = Running::start(config(vec![service(&[])]));
    let runner = Arc::new(Changing::default());
    gateway.handle.set_console_source(Arc::clone(&runner) as Arc<dyn Source>);
    let mut stream = get(&gateway, "/console/api/stream").await;
    let began = std::time::Instant::now();
    for number in 0..10 {
        let phase = format!("Phase{number}");
        runner.0.lock().unwrap().clone_from(&phase);
        gateway.handle.console_changed();
        let told = async {
            while !String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()).contains(&phase) {}
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
    }
    // By the beat alone it would take ten seconds.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn history_grows_by_the_second_and_shows_what_happened() {
    let engines = engines(2).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let path = "/console/api/history?service=demo%2Ffake-model";
    let first: History = wait_for(&gateway, path, |history: &History| !history.ready.is_empty()).await;
    gateway.ask(&chat("hello")).await;
    let moved = |history: &History| history.requests_per_second.iter().any(|rate| *rate > 0.0);
    let later: History = wait_for(&gateway, path, moved).await;
    assert_eq!(later.step_ms, 1000);
    assert!(later.end_ms > first.end_ms && later.ready.len() > first.ready.len());
    let long = later.ready.len();
    let lengths = [
        later.in_flight.len(),
        later.queued.len(),
        later.tokens_per_second.len(),
        later.first_token_p95_ms.len(),
    ];
    assert_eq!(lengths, [long; 4]);
    assert_eq!(later.ready.last(), Some(&2));
    assert!(
        later.first_token_p95_ms.last().unwrap().is_some()
            && later.tokens_per_second.iter().any(|rate| *rate > 0.0)
    );
    let unknown = get(&gateway, "/console/api/history?service=demo/nobody").await;
    assert_eq!(code(unknown).await, (404, "not_found".to_owned()));
}

#[tokio::test]
async fn requests_are_told_without_what_was_asked() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    gateway.handle.set_console_source(Arc::new(Runner));
    gateway.ask(&chat(PROMPT)).await;
    gateway.stream(&streamed(PROMPT)).await;
    gateway.idle().await;
    let requests: Vec<RequestView> =
        wait_for(&gateway, "/console/api/requests", |all: &Vec<_>| all.len() == 2).await;
    let newest = &requests[0];
    assert_eq!(
        (newest.service.as_str(), newest.model.as_str(), newest.status),
        ("demo/fake-model", "fake-model", 200)
    );
    assert_eq!((newest.prompt_tokens, newest.completion_tokens, newest.key.as_str()), (2, 8, ""));
    assert!(newest.at_ms >= requests[1].at_ms && newest.first_token_ms.is_some() && !newest.id.is_empty());
    for path in
        ["overview", "requests", "keys", "history?service=demo/fake-model", "service/demo/fake-model/yaml"]
    {
        let text = get(&gateway, &format!("/console/api/{path}")).await.text().await.unwrap();
        assert!(!text.contains(PROMPT) && !text.contains("w0"), "{path} tells: {text}");
    }
}

#[tokio::test]
async fn only_the_latest_requests_are_kept() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    for _ in 0..520 {
        gateway.ask(&chat("hello")).await;
    }
    gateway.idle().await;
    let full = |all: &Vec<RequestView>| all.len() >= 500;
    let requests: Vec<RequestView> = wait_for(&gateway, "/console/api/requests", full).await;
    assert_eq!(requests.len(), 500);
    let keys: Vec<KeyView> =
        wait_for(&gateway, "/console/api/keys", |keys: &Vec<KeyView>| keys[0].requests == 520).await;
    assert_eq!((keys.len(), keys[0].id.as_str(), keys[0].state.as_str()), (1, "", ""));
}

#[tokio::test]
async fn how_a_service_is_defined_comes_from_whoever_runs_it() {
    let gateway = Running::start(config(vec![service(&[]), other()]));
    let yaml = "/console/api/service/demo/fake-model/yaml";
    assert_eq!(code(get(&gateway, yaml).await).await, (404, "not_found".to_owned()), "nobody runs it");
    gateway.handle.set_console_source(Arc::new(Runner));
    let answer = get(&gateway, yaml).await;
    assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.text().await.unwrap(), "kind: LLMService\n");
    let manifests = get(&gateway, "/console/api/service/demo/fake-model/manifests").await;
    assert_eq!(manifests.text().await.unwrap(), "kind: Deployment\n");
    let refused: Value = json(get(&gateway, "/console/api/service/demo/other/manifests").await).await;
    assert_eq!(refused["error"]["message"], "its model is a file of this machine");
    for path in ["demo/other/yaml", "demo/nobody/yaml", "demo/fake-model/secrets", "yaml"] {
        let answer = get(&gateway, &format!("/console/api/service/{path}")).await;
        assert_eq!(code(answer).await, (404, "not_found".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn rates_are_there_for_whoever_embeds_the_gateway() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let handle = gateway.handle.clone();
    let load = tokio::spawn({
        let (client, url) = (gateway.client.clone(), gateway.url("/v1/chat/completions"));
        async move {
            loop {
                drop(client.post(&url).json(&chat("hello")).send().await);
            }
        }
    });
    until("rates appear", || handle.overview().services[0].rates.requests_per_second > 0.0).await;
    load.abort();
}

/// A Prometheus that says how many requests a second there were, and what it was asked.
async fn prometheus() -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let asked: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&asked);
    let answer = move |uri: http::Uri| {
        let query = uri.query().unwrap_or_default().to_owned();
        let start =
            query.split('&').find_map(|pair| pair.strip_prefix("start=")).unwrap().parse::<u64>().unwrap();
        heard.lock().unwrap().push(query);
        let values = serde_json::json!([[start, "2.5"], [start + 90, "3"]]);
        let answer = serde_json::json!({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}});
        std::future::ready(answer.to_string())
    };
    let socket = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let app = axum::Router::new().route("/api/v1/query_range", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(socket, app).await.unwrap() });
    (url, asked)
}

#[tokio::test]
async fn hours_are_asked_of_prometheus_where_one_is_known() {
    let engines = engines(1).await;
    let (url, asked) = prometheus().await;
    let mut with = config(vec![service(&engines)]);
    with.prometheus = Some(url);
    let gateway = Running::start(with);
    let overview: Overview = json(get(&gateway, "/console/api/overview").await).await;
    assert!(overview.remembers);
    let history: History =
        json(get(&gateway, "/console/api/history?service=demo%2Ffake-model&hours=6").await).await;
    assert_eq!((history.step_ms, history.requests_per_second.len()), (90_000, 241));
    assert_eq!(history.requests_per_second[..3], [2.5, 3.0, 0.0]);
    assert_eq!(asked.lock().unwrap().len(), 6);
    let minutes: History = json(get(&gateway, "/console/api/history?service=demo%2Ffake-model").await).await;
    assert_eq!(minutes.step_ms, 1000);
    assert_eq!(get(&gateway, "/console/api/history?service=demo%2Ffake-model&hours=x").await.status(), 400);

    let without = Running::start(config(vec![service(&engines)]));
    let overview: Overview = json(get(&without, "/console/api/overview").await).await;
    assert!(!overview.remembers);
    assert_eq!(get(&without, "/console/api/history?service=demo%2Ffake-model&hours=6").await.status(), 400);
}
