//! What the gateway logs: one line for each request, and nothing that somebody wrote or kept secret, at any level. A process of its own, because
//! a process has one log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "gateway/support.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};
use wharf_access::keys::KeyRecord;
use wharf_fakes::engine::{FakeEngine, Fault, Target};
use wharf_gateway::Gateway;
use wharf_telemetry::log::{self, Format};
use wharf_telemetry::trace::{Sampler, Tracer};

use support::{Running, config, engines, service, until};

const KEY: &str = "wk-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcT7wv2A";
/// A key of a user's own, which no pattern knows.
const OWN_KEY: &str = "correct-horse";
const WRONG_KEY: &str = "sk-proj-0123456789abcdef0123456789";
const ENGINES_KEY: &str = "battery-staple";
const PROMPT: &str = "the quick brown marmot";

/// Every line that this process logs, at debug and for every crate.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Those of all tests of this binary; the tests here know theirs by the request's id.
    fn captured() -> Lines {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let install = || {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber =
                log::subscriber("gateway", Format::Json, "debug", move || writer.clone()).unwrap();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            lines
        };
        LINES.get_or_init(install).clone()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines of this request.
    fn of(&self, id: &str) -> Vec<Value> {
        let all = self.text();
        let lines = all
            .lines()
            .filter(|line| line.contains(id))
            .map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"));
        lines.filter(|line| line["request_id"] == id).collect()
    }

    /// How this request ended; waits for that.
    async fn end_of(&self, id: &str) -> Value {
        let ends =
            || self.of(id).into_iter().filter(|line| line["msg"] == "request ended").collect::<Vec<_>>();
        until("the line of the request", || !ends().is_empty()).await;
        let ends = ends();
        assert_eq!(ends.len(), 1, "one line for a request: {ends:?}");
        ends.into_iter().next().unwrap()
    }
}

fn keys(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("keys.yaml");
    let record = |name: &str, key: &str| {
        let sha256 = KeyRecord::of_secret(key, name).sha256();
        format!("- {{name: {name}, sha256: {sha256:?}}}\n")
    };
    let text = format!("keys:\n{}{}", record("team-a", KEY), record("team-b", OWN_KEY));
    std::fs::write(&path, text).unwrap();
    path
}

/// A gateway with keys, whose engines ask for one too.
fn guarded(engines: &[FakeEngine], folder: &tempfile::TempDir) -> Running {
    let endpoint_key = folder.path().join("endpoint.key");
    std::fs::write(&endpoint_key, ENGINES_KEY).unwrap();
    let mut config = config(vec![service(engines)]);
    config.api_keys = Some(keys(folder));
    config.endpoint_key_file = Some(endpoint_key);
    Running::start(config)
}

async fn send(gateway: &Running, id: &str, key: &str, more: Value) -> (u16, String) {
    let mut body = json!({"model": "fake-model", "messages": [{"role": "user", "content": PROMPT}]});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(key);
    let response = request.header("x-request-id", id).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap_or_default())
}

#[tokio::test]
async fn a_request_has_one_line_with_what_it_took_and_who_answered() {
    let lines = Lines::captured();
    let engines = engines(1).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = guarded(&engines, &folder);
    for (id, more) in [("whole-1", json!({})), ("stream-1", json!({"stream": true}))] {
        assert_eq!(send(&gateway, id, KEY, more).await.0, 200);
        let line = lines.end_of(id).await;
        let told = (&line["component"], &line["level"], &line["model"], &line["tenant"], &line["status"]);
        let wanted = (&json!("gateway"), &json!("info"), &json!("fake-model"), &json!("team-a"), &json!(200));
        assert_eq!(told, wanted, "{line}");
        assert_eq!(line["upstream"], engines[0].address().to_string());
        assert_eq!(line["finish_reason"], "stop");
        assert_eq!(line["path"], "/v1/chat/completions");
        let (first, whole) = (line["ttft_ms"].as_f64().unwrap(), line["duration_ms"].as_f64().unwrap());
        assert!(first > 0.0 && first <= whole, "{line}");
        assert!(
            line["prompt_tokens"].as_u64().unwrap() > 0 && line["completion_tokens"].as_u64().unwrap() > 0
        );
    }
}

#[tokio::test]
async fn a_clients_trace_is_in_the_line_and_goes_on_to_the_engine() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let lines = Lines::captured();
    let engines = engines(1).await;
    let spans = Arc::new(Mutex::new(Vec::new()));
    let left = Arc::clone(&spans);
    let on = Tracer::new(Sampler::ALL, move |span| left.lock().unwrap().push(span));
    for (id, tracer) in [("trace-off", Tracer::default()), ("trace-on", on)] {
        engines[0].forget();
        let gateway = Running::serve(Gateway::bind_traced(config(vec![service(&engines)]), tracer).unwrap());
        let body = json!({"model": "fake-model", "messages": [{"role": "user", "content": PROMPT}]});
        let request = gateway.client.post(gateway.url("/v1/chat/completions")).header("x-request-id", id);
        let response = request.header("traceparent", PARENT).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let line = lines.end_of(id).await;
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        let sent = engines[0].generation_requests()[0].header("traceparent").to_owned();
        assert_eq!(sent == PARENT, id == "trace-off", "{sent}");
        let span = line["span_id"].as_str().unwrap();
        assert_eq!(sent, format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01"));
        gateway.stop().await;
    }
    let spans = spans.lock().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["route", "upstream", "/v1/chat/completions"]);
    assert!(
        spans[0].end <= spans[1].end
            && spans.iter().all(|span| span.context.trace_id == spans[0].context.trace_id)
    );
    assert!(!format!("{spans:?}").contains(PROMPT));
}

#[tokio::test]
async fn refused_requests_have_a_line_too() {
    let lines = Lines::captured();
    let engines = engines(1).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = guarded(&engines, &folder);
    assert_eq!(send(&gateway, "unknown-key", WRONG_KEY, json!({})).await.0, 401);
    let line = lines.end_of("unknown-key").await;
    assert_eq!(
        (&line["status"], &line["code"], &line["tenant"]),
        (&401.into(), &"invalid_api_key".into(), &Value::Null)
    );
    assert_eq!(send(&gateway, "unknown-model", KEY, json!({"model": PROMPT})).await.0, 404);
    let line = lines.end_of("unknown-model").await;
    assert_eq!((&line["status"], &line["code"]), (&404.into(), &"model_not_found".into()));
    let models =
        gateway.client.get(gateway.url("/v1/models")).bearer_auth(OWN_KEY).header("x-request-id", "models");
    assert_eq!(models.send().await.unwrap().status(), 200);
    assert_eq!(lines.end_of("models").await["status"], 200);
}

#[tokio::test]
async fn a_client_that_leaves_and_an_engine_that_fails_are_in_the_line() {
    let lines = Lines::captured();
    let engines = engines(1).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = guarded(&engines, &folder);
    engines[0].fail(Target::Generation, Fault::TruncateAfter(3));
    let (status, text) = send(&gateway, "cut", KEY, json!({"stream": true})).await;
    assert!(status == 200 && text.contains("error"), "{text}");
    let line = lines.end_of("cut").await;
    assert_eq!((&line["status"], &line["tenant"]), (&502.into(), &"team-a".into()));
    assert!(
        lines.of("cut").iter().any(|line| line["level"] == "warn"),
        "the cause is told with the request's id"
    );
    engines[0].fail(Target::Generation, Fault::StallBeforeHead);
    let url = gateway.url("/v1/chat/completions");
    let body = json!({"model": "fake-model", "messages": [{"role": "user", "content": PROMPT}]});
    let request = gateway.client.post(url).bearer_auth(KEY).header("x-request-id", "left").json(&body);
    let asking = tokio::spawn(request.send());
    until("the request reaches the engine", || engines[0].stats().in_flight > 0).await;
    asking.abort();
    assert_eq!(lines.end_of("left").await["status"], 499);
}

#[tokio::test]
async fn no_prompt_no_answer_and_no_key_is_logged_at_debug() {
    let lines = Lines::captured();
    let engines = engines(2).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = guarded(&engines, &folder);
    let mut answers = Vec::new();
    for (round, fault) in
        [Fault::CloseBeforeHead, Fault::status(503), Fault::TruncateAfter(2)].into_iter().enumerate()
    {
        for key in [KEY, OWN_KEY, WRONG_KEY] {
            for stream in [false, true] {
                engines[0].fail_next(1, Target::Generation, fault.clone());
                let id = format!("quiet-{round}-{key_kind}-{stream}", key_kind = key.len());
                answers.push(send(&gateway, &id, key, json!({"stream": stream})).await);
                lines.end_of(&id).await;
            }
        }
    }
    // Where nobody thought of looking: the path, the query, the model's name, a body that is no JSON.
    let odd = gateway.url(&format!("/v1/{KEY}?token={OWN_KEY}&prompt={}", PROMPT.replace(' ', "%20")));
    let request = gateway.client.post(odd).bearer_auth(KEY).header("x-request-id", "odd").body(PROMPT);
    assert!(request.send().await.unwrap().status().is_client_error());
    lines.end_of("odd").await;
    let text = lines.text();
    for secret in [PROMPT, "quick%20brown", KEY, &KEY[3..], OWN_KEY, WRONG_KEY, &WRONG_KEY[8..], ENGINES_KEY]
    {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret}: {line:?}");
    }
    assert!(
        text.lines().any(|line| line.contains("\"level\":\"debug\"")),
        "lines of level debug are captured"
    );
    assert!(
        answers.iter().any(|(status, _)| *status == 200) && answers.iter().any(|(status, _)| *status == 401)
    );
}
