//! Asks replicas whether they are ready, and lets new versions answer their first prompts.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How often a replica that starts is asked: a wake-up waits for the answer.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How often after the first seconds: a large model takes its time.
const ASK_SELDOM: Duration = Duration::from_millis(250);
/// How long it is asked often.
const OFTEN: Duration = Duration::from_secs(5);
/// How long an answer to a question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a first prompt may take.
const WARMUP_PATIENCE: Duration = Duration::from_secs(120);
/// Tokens that are asked for with each.
const WARMUP_TOKENS: u32 = 8;

/// Prompts of different lengths, so that the paths of prefill and decode are all taken once.
const PROMPTS: [&str; 4] = [
    "Say hello.",
    "Name three colours and say of each where it is seen.",
    "A letter has an address, a greeting, a text and a name at its end. Write a short one to a neighbour who waters the flowers.",
    "List the months of the year with the number of days that each of them has, and then say which of them begin with the same letter.",
];

/// A client for questions on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Prober(Client);

impl Prober {
    pub(crate) fn new() -> Result<Prober, reqwest::Error> {
        // What is on this machine is not behind a proxy.
        Ok(Prober(Client::builder().no_proxy().build()?))
    }

    /// Whether a path answers with success.
    pub(crate) async fn is_ready(&self, address: &str, path: &str) -> bool {
        let answer = self.0.get(format!("http://{address}{path}")).timeout(PATIENCE).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Returns when the path answers with success.
    pub(crate) async fn until_ready(&self, address: &str, path: &str) {
        let began = Instant::now();
        while !self.is_ready(address, path).await {
            sleep(if began.elapsed() < OFTEN { ASK_EVERY } else { ASK_SELDOM }).await;
        }
    }

    /// Lets the model answer so many prompts, one after the other. Fails with a sentence at the first that is not answered.
    pub(crate) async fn warm_up(&self, address: &str, model: &str, prompts: u32) -> Result<(), String> {
        let cycle = PROMPTS.iter().cycle().take(prompts as usize);
        for (number, prompt) in cycle.enumerate() {
            let failed = |why: String| format!("prompt {} of {prompts} was not answered: {why}", number + 1);
            let chat = json!({
                "model": model, "max_tokens": WARMUP_TOKENS, "messages": [{"role": "user", "content": prompt}],
            });
            let status = self.post(address, "/v1/chat/completions", &chat).await.map_err(failed)?;
            // A base model has no template for chats.
            let status = match status.0 {
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                    let plain = json!({"model": model, "max_tokens": WARMUP_TOKENS, "prompt": prompt});
                    self.post(address, "/v1/completions", &plain).await.map_err(failed)?
                }
                _ => status,
            };
            if !status.0.is_success() {
                return Err(failed(format!("{} {}", status.0.as_u16(), status.1)));
            }
        }
        Ok(())
    }

    async fn post(&self, address: &str, path: &str, body: &Value) -> Result<(StatusCode, String), String> {
        let request = self.0.post(format!("http://{address}{path}")).json(body).timeout(WARMUP_PATIENCE);
        let answer = request.send().await.map_err(|error| wharf_telemetry::log::chain(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| wharf_telemetry::log::chain(&error))?;
        Ok((status, text.chars().take(200).collect()))
    }
}

/// A port of this machine that nobody listens on now. Another process may take it before the replica does, which then ends and is
/// started again with another.
pub(crate) fn free_port() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}

/// Whether nobody listens on a port now.
pub(crate) fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}
