//! What the server logs: one line for each request, and nothing that somebody wrote or kept secret, at any level.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};
use wharf_api::config::Secret;
use wharf_telemetry::log::{self, Format};

use super::support::*;

const KEY: &str = "correct-horse";
const WRONG_KEY: &str = "wk-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcT7wv2A";
const PROMPT: &str = "quick brown marmot";

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
                log::subscriber("server", Format::Json, "debug", move || writer.clone()).unwrap();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            lines
        };
        LINES.get_or_init(install).clone()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// How this request ended; waits for that.
    async fn end_of(&self, id: &str) -> Value {
        let ends = || {
            let all = self.text();
            let lines = all.lines().filter(|line| line.contains(id) && line.contains("request ended"));
            lines
                .map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"))
                .collect::<Vec<_>>()
        };
        until(|| async { !ends().is_empty() }).await;
        let ends = ends();
        assert_eq!(ends.len(), 1, "one line for a request: {ends:?}");
        ends.into_iter().next().unwrap()
    }
}

async fn guarded() -> Running {
    start_with(
        wharf_api::ServeConfig { api_key: Some(Secret::new(KEY.to_owned())), ..config() },
        engine_config(),
    )
    .await
}

async fn send(server: &Running, id: &str, key: &str, more: Value) -> (u16, String) {
    let mut body =
        json!({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "ignore_eos": true});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let request = server.client.post(server.url("/v1/chat/completions")).bearer_auth(key);
    let response = request.header("x-request-id", id).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_request_has_one_line_with_what_it_took() {
    let lines = Lines::captured();
    let server = guarded().await;
    for (id, more) in [("whole-line", json!({})), ("stream-line", json!({"stream": true}))] {
        assert_eq!(send(&server, id, KEY, more).await.0, 200);
        let line = lines.end_of(id).await;
        let told =
            (&line["component"], &line["level"], &line["model"], &line["status"], &line["finish_reason"]);
        let wanted = (&json!("server"), &json!("info"), &json!("tiny"), &json!(200), &json!("length"));
        assert_eq!(told, wanted, "{line}");
        assert!(line["tenant"].as_str().is_some_and(|tenant| !tenant.is_empty()), "{line}");
        let (first, whole) = (line["ttft_ms"].as_f64().unwrap(), line["duration_ms"].as_f64().unwrap());
        assert!(first > 0.0 && first <= whole, "{line}");
        assert!(line["prompt_tokens"].as_u64().unwrap() > 0 && line["completion_tokens"] == 4, "{line}");
    }
}

#[tokio::test]
async fn no_prompt_no_answer_and_no_key_is_logged_at_debug() {
    let lines = Lines::captured();
    let server = guarded().await;
    let (_, answer) = send(&server, "quiet-whole", KEY, json!({"max_tokens": 40})).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let answer = answer["choices"][0]["message"]["content"].as_str().unwrap().trim().to_owned();
    assert!(answer.len() > 20, "{answer:?}");
    lines.end_of("quiet-whole").await;
    assert_eq!(send(&server, "quiet-stream", KEY, json!({"stream": true})).await.0, 200);
    assert_eq!(lines.end_of("quiet-stream").await["outcome"], "finished");
    assert_eq!(send(&server, "quiet-denied", WRONG_KEY, json!({})).await.0, 401);
    assert_eq!(lines.end_of("quiet-denied").await["status"], 401);
    assert_eq!(send(&server, "quiet-wrong", KEY, json!({"temperature": PROMPT})).await.0, 400);
    assert_eq!(lines.end_of("quiet-wrong").await["status"], 400);
    let odd = server.url(&format!("/v1/{WRONG_KEY}?token={KEY}&prompt=quick%20brown"));
    let request = server.client.post(odd).bearer_auth(KEY).header("x-request-id", "quiet-odd").body(PROMPT);
    assert_eq!(request.send().await.unwrap().status(), 404);
    lines.end_of("quiet-odd").await;
    server.gate.explode();
    assert_eq!(send(&server, "quiet-panic", KEY, json!({})).await.0, 500);
    assert_eq!(lines.end_of("quiet-panic").await["status"], 500);
    let text = lines.text();
    let escaped = serde_json::to_string(&answer).unwrap();
    for secret in [PROMPT, "quick%20brown", KEY, WRONG_KEY, &WRONG_KEY[3..], escaped.trim_matches('"')] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret}: {line:?}");
    }
    assert!(
        text.lines().any(|line| line.contains("\"level\":\"debug\"")),
        "lines of level debug are captured"
    );
}
