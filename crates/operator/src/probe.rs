//! Lets replicas answer their first prompts and reads their metrics, over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use kube::api::DynamicObject;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use wharf_cluster::{Find, MetricsReader, Object, address};
use wharf_spec::job::{JobProgress, PROGRESS_PATH};

use crate::context::Context;
use crate::jobs::running;

/// How long a first prompt may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a command may take to say how far it is.
const SOON: Duration = Duration::from_secs(1);
/// Tokens that are asked for with each.
const TOKENS: u32 = 8;

/// Prompts of different lengths, so that both prefill and decode are taken through their paths once.
const PROMPTS: [&str; 4] = [
    "Say hello.",
    "Name three colours and say of each where it is seen.",
    "A letter has an address, a greeting, a text and a name at its end. Write a short one to a neighbour who waters the flowers.",
    "List the months of the year with the number of days that each of them has, and then say which of them begin with the same letter.",
];

/// Speaks with replicas.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Lets the model of a pod answer so many prompts. Fails with a sentence at the first that is not answered.
    async fn warm_up(&self, pod: &DynamicObject, model: &str, prompts: u32) -> Result<(), String>;

    /// How far the command of a Job's pod is; none where it does not say.
    async fn progress(&self, pod: &DynamicObject) -> Option<JobProgress>;

    /// The metrics of a replica; none where it does not say.
    async fn metrics(&self, pod: &DynamicObject) -> Option<String>;
}

/// Asks pods of Jobs how far they are, and remembers it for the look that follows.
pub(crate) async fn ask_makers(context: &Context, makers: &[Object]) {
    let asked = running(makers).filter_map(|pod| Some((pod.metadata.uid.clone()?, pod)));
    let answers = asked.map(async |(uid, pod)| Some((uid, context.probe.progress(pod).await?)));
    let answers = futures_util::future::join_all(answers).await;
    context.memory().said.extend(answers.into_iter().flatten());
}

/// Speaks with replicas over plain HTTP.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    client: Client,
    find: Find,
    metrics: MetricsReader,
}

impl HttpProbe {
    /// Finds pods by their address and what they call their ports.
    ///
    /// # Errors
    /// When there is no TLS to be had, which a client prepares even where it needs none.
    pub fn new() -> Result<HttpProbe, reqwest::Error> {
        HttpProbe::finding(address)
    }

    /// Finds pods as `find` says.
    ///
    /// # Errors
    /// As [`HttpProbe::new`].
    pub fn finding(find: Find) -> Result<HttpProbe, reqwest::Error> {
        // Pods are not behind a proxy.
        let metrics = MetricsReader::new(find)?;
        Ok(HttpProbe { client: Client::builder().no_proxy().build()?, find, metrics })
    }

    async fn post(&self, address: &str, path: &str, body: &Value) -> Result<(StatusCode, String), String> {
        let request = self.client.post(format!("http://{address}{path}")).json(body).timeout(PATIENCE);
        let answer = request.send().await.map_err(|error| wharf_telemetry::log::chain(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| wharf_telemetry::log::chain(&error))?;
        Ok((status, text.chars().take(200).collect()))
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn warm_up(&self, pod: &DynamicObject, model: &str, prompts: u32) -> Result<(), String> {
        let address = (self.find)(pod, "http").ok_or("the pod has no address")?;
        for (number, prompt) in PROMPTS.iter().cycle().take(prompts as usize).enumerate() {
            let failed = |why: String| format!("prompt {} of {prompts} was not answered: {why}", number + 1);
            let chat = json!({"model": model, "max_tokens": TOKENS, "messages": [{"role": "user", "content": prompt}]});
            let mut answer = self.post(&address, "/v1/chat/completions", &chat).await.map_err(failed)?;
            // A base model has no template for chats.
            if matches!(answer.0, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
                let plain = json!({"model": model, "max_tokens": TOKENS, "prompt": prompt});
                answer = self.post(&address, "/v1/completions", &plain).await.map_err(failed)?;
            }
            if !answer.0.is_success() {
                return Err(failed(format!("{} {}", answer.0.as_u16(), answer.1)));
            }
        }
        Ok(())
    }

    async fn progress(&self, pod: &DynamicObject) -> Option<JobProgress> {
        let address = (self.find)(pod, "progress")?;
        let request = self.client.get(format!("http://{address}{PROGRESS_PATH}")).timeout(SOON);
        let answer = request.send().await.and_then(reqwest::Response::error_for_status);
        // One that has just started or ended does not answer; its Job says the rest.
        answer.ok()?.json().await.ok()
    }

    async fn metrics(&self, pod: &DynamicObject) -> Option<String> {
        let address = self.metrics.address(pod)?;
        let read = self.metrics.read(&address).await;
        let log = |error: &reqwest::Error| {
            let error = wharf_telemetry::log::chain(error);
            tracing::debug!(address, error, "a replica did not tell its metrics");
        };
        read.inspect_err(log).ok()
    }
}
