//! A client for any server that speaks the OpenAI chat API: streams only, because people and benchmarks
//! both want to see tokens as they come.

pub(crate) mod sse;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use self::sse::{SseError, SseEvent, SseParser};
use crate::Env;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an error body; more is not shown to people anyway.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// What went wrong with one request; [`ClientError::kind`] groups them for counting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("failed to reach {url}")]
    Connect { url: String, source: reqwest::Error },
    #[error("{url} took longer than the time limit")]
    Timeout { url: String, source: reqwest::Error },
    #[error("{url} answered {status}: {message}")]
    Status { url: String, status: StatusCode, message: String },
    #[error("the connection broke before the answer was complete")]
    Broken { source: reqwest::Error },
    #[error("the answer ended before the server said that it was complete")]
    Truncated,
    #[error("the server reported an error within its answer: {message}")]
    Reported { message: String },
    #[error("failed to read the answer as an event stream")]
    NotEvents { source: SseError },
    #[error("failed to read an event as a chat completion chunk: {data}")]
    NotAChunk { data: String, source: serde_json::Error },
    #[error("{url} answered with {content_type} where an event stream was expected")]
    NotAStream { url: String, content_type: String },
    #[error("failed to read the answer of {url}")]
    NotJson { url: String, source: reqwest::Error },
}

impl ClientError {
    /// A short name to count by.
    pub(crate) fn kind(&self) -> String {
        match self {
            ClientError::Connect { .. } => "connect".into(),
            ClientError::Timeout { .. } => "timeout".into(),
            ClientError::Status { status, .. } => format!("http {}", status.as_u16()),
            ClientError::Broken { .. } => "broken connection".into(),
            ClientError::Truncated => "truncated stream".into(),
            ClientError::Reported { .. } => "error event".into(),
            ClientError::NotEvents { .. }
            | ClientError::NotAChunk { .. }
            | ClientError::NotAStream { .. }
            | ClientError::NotJson { .. } => "unreadable answer".into(),
        }
    }
}

/// A server and how to reach it.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Ends in `/v1`.
    base: String,
    key: Option<String>,
}

impl Client {
    /// `url` with or without the scheme and the trailing `/v1`; `timeout` bounds one whole request.
    pub(crate) fn new(url: &str, key: Option<String>, timeout: Option<Duration>) -> anyhow::Result<Client> {
        let url = parse_base(url)?;
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        if let Some(timeout) = timeout {
            builder = builder.timeout(timeout);
        }
        if is_loopback(&url) {
            // A proxy configured for the outside cannot reach this machine's own loopback.
            builder = builder.no_proxy();
        }
        let http = builder.build().context("failed to set up the HTTP client")?;
        Ok(Client { http, base: url.as_str().trim_end_matches('/').to_owned(), key })
    }

    /// The address with `/v1`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Names of the models that the server offers.
    pub(crate) async fn models(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let url = format!("{}/models", self.base);
        let response = self.send(self.http.get(&url), &url).await?;
        let models: Models = response.json().await.map_err(|source| ClientError::NotJson { url, source })?;
        Ok(models.data.into_iter().map(|m| m.id).collect())
    }

    /// Starts an answer. `body` is a chat completion request; streaming with usage is added to it.
    pub(crate) async fn chat(&self, mut body: Value) -> Result<ChatStream, ClientError> {
        body["stream"] = true.into();
        body["stream_options"] = serde_json::json!({"include_usage": true});
        let url = format!("{}/chat/completions", self.base);
        let response = self.send(self.http.post(&url).json(&body), &url).await?;
        let content_type = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .unwrap_or_else(|| "no content type".into());
        if !content_type.starts_with("text/event-stream") {
            return Err(ClientError::NotAStream { url, content_type });
        }
        Ok(ChatStream {
            url,
            response,
            parser: SseParser::default(),
            ready: VecDeque::new(),
            finished: false,
            ended: false,
        })
    }

    async fn send(&self, mut request: RequestBuilder, url: &str) -> Result<Response, ClientError> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let mut response = request.send().await.map_err(|source| {
            let url = url.to_owned();
            if source.is_timeout() && !source.is_connect() {
                ClientError::Timeout { url, source }
            } else {
                ClientError::Connect { url, source }
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut body = Vec::new();
        while body.len() < MAX_ERROR_BYTES
            && let Ok(Some(bytes)) = response.chunk().await
        {
            body.extend_from_slice(&bytes);
        }
        body.truncate(MAX_ERROR_BYTES);
        Err(ClientError::Status { url: url.to_owned(), status, message: error_message(&body) })
    }
}

/// Part of a streamed answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Text to append; never empty.
    Text(String),
    /// The answer is complete, and why.
    Finished(String),
    /// Token counts of the whole request.
    Usage { prompt_tokens: u64, completion_tokens: u64 },
}

/// An answer on its way.
pub(crate) struct ChatStream {
    url: String,
    response: Response,
    parser: SseParser,
    ready: VecDeque<Piece>,
    finished: bool,
    ended: bool,
}

impl ChatStream {
    /// The next piece; `None` after a complete answer.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ClientError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                self.finished |= matches!(piece, Piece::Finished(_));
                return Ok(Some(piece));
            }
            if self.ended {
                // Without `[DONE]` a finish reason still proves that the answer is whole.
                return if self.finished { Ok(None) } else { Err(ClientError::Truncated) };
            }
            let bytes = self.response.chunk().await.map_err(|source| {
                if source.is_timeout() {
                    ClientError::Timeout { url: self.url.clone(), source }
                } else {
                    ClientError::Broken { source }
                }
            })?;
            let not_events = |source| ClientError::NotEvents { source };
            let events = match bytes {
                Some(bytes) => self.parser.push(&bytes).map_err(not_events)?,
                None => {
                    self.ended = true;
                    self.parser.finish().map_err(not_events)?.into_iter().collect()
                }
            };
            for event in events {
                if event.data.trim() == "[DONE]" {
                    self.ended = true;
                    self.finished = true;
                    break;
                }
                self.ready.extend(pieces(event)?);
            }
        }
    }
}

fn pieces(event: SseEvent) -> Result<Vec<Piece>, ClientError> {
    #[derive(Deserialize)]
    struct Chunk {
        #[serde(default)]
        choices: Vec<Choice>,
        usage: Option<Usage>,
        error: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Choice {
        delta: Option<Delta>,
        finish_reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct Delta {
        content: Option<String>,
        reasoning_content: Option<String>,
    }
    #[derive(Deserialize)]
    struct Usage {
        prompt_tokens: u64,
        completion_tokens: u64,
    }
    if event.event == "error" {
        return Err(ClientError::Reported { message: error_message(event.data.as_bytes()) });
    }
    let chunk: Chunk = serde_json::from_str(&event.data)
        .map_err(|source| ClientError::NotAChunk { data: shorten(&event.data), source })?;
    if chunk.error.is_some() {
        return Err(ClientError::Reported { message: error_message(event.data.as_bytes()) });
    }
    let mut pieces = Vec::new();
    for choice in chunk.choices {
        if let Some(delta) = choice.delta {
            let texts = [delta.reasoning_content, delta.content].into_iter().flatten();
            pieces.extend(texts.filter(|text| !text.is_empty()).map(Piece::Text));
        }
        pieces.extend(choice.finish_reason.map(Piece::Finished));
    }
    if let Some(Usage { prompt_tokens, completion_tokens }) = chunk.usage {
        pieces.push(Piece::Usage { prompt_tokens, completion_tokens });
    }
    Ok(pieces)
}

/// What an error body says: `error.message` of OpenAI's shape, `message`, `detail`, or the text itself.
fn error_message(body: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let said = parsed.as_ref().and_then(|v| {
        ["/error/message", "/error", "/message", "/detail"].iter().find_map(|path| v.pointer(path)?.as_str())
    });
    match said {
        Some(text) => shorten(text),
        None if body.is_empty() => "no explanation".into(),
        None => shorten(String::from_utf8_lossy(body).trim()),
    }
}

fn shorten(text: &str) -> String {
    const MOST: usize = 600;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn parse_base(given: &str) -> anyhow::Result<Url> {
    let with_scheme = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
    let mut url = Url::parse(&with_scheme).with_context(|| format!("failed to read `{given}` as a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        bail!("`{given}` is not an http:// or https:// address");
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path = path.strip_suffix("/chat/completions").unwrap_or(&path).to_owned();
    url.set_path(&if path.ends_with("/v1") { path } else { format!("{path}/v1") });
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The API key from a file's first line or from `OPENAI_API_KEY`.
pub(crate) fn read_api_key(file: Option<&Path>, env: &Env) -> anyhow::Result<Option<String>> {
    let Some(path) = file else {
        return Ok(env.get("OPENAI_API_KEY").map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()));
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the API key file {}", path.display()))?;
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(key) => Ok(Some(key.to_owned())),
        None => bail!("the API key file {} is empty", path.display()),
    }
}

/// The model to ask for: the one named, else the only one that the server has.
pub(crate) async fn choose_model(client: &Client, named: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let mut models = client.models().await.context("failed to ask the server for its models")?;
    match models.len() {
        0 => bail!("{} offers no model", client.base()),
        1 => Ok(models.remove(0)),
        _ => bail!(
            "{} offers several models, choose one with --model-name: {}",
            client.base(),
            models.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        for (given, base) in [
            ("http://h:8080", "http://h:8080/v1"),
            ("http://h:8080/", "http://h:8080/v1"),
            ("h:8080/v1/", "http://h:8080/v1"),
            ("https://h/x/v1/chat/completions?a=b", "https://h/x/v1"),
            ("127.0.0.1:1", "http://127.0.0.1:1/v1"),
        ] {
            assert_eq!(parse_base(given).unwrap().as_str(), base, "{given}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for given in ["ftp://h", "http://", "", "http://h:99999"] {
            assert!(parse_base(given).is_err(), "{given}");
        }
    }

    #[test]
    fn error_bodies_of_many_shapes_give_their_message() {
        for (body, message) in [
            (r#"{"error":{"message":"no such model","type":"x"}}"#, "no such model"),
            (r#"{"error":"busy"}"#, "busy"),
            (r#"{"detail":"not found"}"#, "not found"),
            ("<html>502</html>", "<html>502</html>"),
            ("", "no explanation"),
        ] {
            assert_eq!(error_message(body.as_bytes()), message);
        }
    }

    #[test]
    fn a_chunk_may_carry_text_finish_and_usage() {
        let data = r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;
        let event = SseEvent { event: String::new(), data: data.into() };
        let expected = [
            Piece::Text("hi".into()),
            Piece::Finished("stop".into()),
            Piece::Usage { prompt_tokens: 3, completion_tokens: 1 },
        ];
        assert_eq!(pieces(event).unwrap(), expected);
    }
}
