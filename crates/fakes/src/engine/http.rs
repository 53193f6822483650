//! Which request gets which answer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::config::{EngineConfig, Health};
use super::fault::Target;
use super::log::{Outcome, Received};
use super::metrics::{self, Load};
use super::play::Player;
use super::prompt::{self, Ask, Kind};
use super::script::{self, Script};
use super::slots::Slot;
use crate::wire::{Body, Connection, Serve, lock};

impl Serve for Shared {
    fn admits(&self) -> bool {
        let admits = !*lock(&self.closes_connections);
        self.changed();
        admits
    }

    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            // A client that goes away while it sends drops this future, or leaves what it has sent.
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
            let route = Route::of(parts.uri.path());
            let target = route.target();
            let received = Received {
                number: 0,
                connection: connection.id,
                method: parts.method.to_string(),
                path,
                headers: parts.headers,
                body,
                outcome: Outcome::InFlight,
            };
            let number = lock(&self.log).add(target, received.clone());
            let config = lock(&self.config).clone();
            let mut player = Player {
                shared: Arc::clone(&self),
                connection,
                number: Some(number),
                target,
                line: None,
                slot: None,
                prompt_tokens: 0,
                made: 0,
                arrived: Instant::now(),
                finish: None,
            };
            let fault = lock(&self.faults).take(target);
            let mut answer = match &fault {
                // Such a request never reaches the engine.
                Some(fault) if fault.is_before_head() => Script::json(200, &json!({})).into(),
                _ => self.route(route, &parts.method, &received, number, &config),
            };
            if let Some(fault) = &fault {
                answer.script = script::spoil(answer.script, fault);
            }
            player.line = answer.line;
            player.prompt_tokens = answer.prompt_tokens;
            answer.script.headers.push(("x-fake-engine", config.name));
            self.changed();
            player.play(answer.script).await
        })
    }
}

#[derive(Clone, Copy)]
enum Route {
    Generate(Kind),
    Models,
    Tokenize,
    Health,
    Ready,
    Metrics,
    Unknown,
}

impl Route {
    fn of(path: &str) -> Route {
        match path {
            "/v1/chat/completions" => Route::Generate(Kind::Chat),
            "/v1/completions" => Route::Generate(Kind::Completion),
            "/v1/embeddings" => Route::Generate(Kind::Embedding),
            "/v1/models" => Route::Models,
            "/tokenize" => Route::Tokenize,
            "/health" => Route::Health,
            "/ready" => Route::Ready,
            "/metrics" => Route::Metrics,
            _ => Route::Unknown,
        }
    }

    /// Faults of what strike here.
    fn target(self) -> Target {
        match self {
            Route::Generate(_) => Target::Generation,
            Route::Health | Route::Ready => Target::Probes,
            Route::Metrics => Target::Metrics,
            Route::Models | Route::Tokenize | Route::Unknown => Target::All,
        }
    }
}

struct Answer {
    script: Script,
    line: Option<oneshot::Receiver<Slot>>,
    prompt_tokens: usize,
}

impl From<Script> for Answer {
    fn from(script: Script) -> Answer {
        Answer { script, line: None, prompt_tokens: 0 }
    }
}

impl Shared {
    fn route(
        self: &Arc<Self>,
        route: Route,
        method: &Method,
        request: &Received,
        number: u64,
        config: &EngineConfig,
    ) -> Answer {
        let wanted = match route {
            Route::Generate(_) | Route::Tokenize => Method::POST,
            Route::Models | Route::Health | Route::Ready | Route::Metrics => Method::GET,
            Route::Unknown => return Script::error(404, "there is nothing here", "not_found").into(),
        };
        if method != wanted {
            return Script::error(405, "this path has another method", "method_not_allowed").into();
        }
        match route {
            Route::Generate(kind) => self.generate(kind, request, number, config),
            Route::Models => models(config).into(),
            Route::Tokenize => tokenize(&request.body, config).into(),
            Route::Health => self.health(Probe::Health, config).into(),
            Route::Ready => self.health(Probe::Ready, config).into(),
            Route::Metrics => self.metrics(config).into(),
            Route::Unknown => unreachable!("answered above"),
        }
    }

    fn generate(
        self: &Arc<Self>,
        kind: Kind,
        request: &Received,
        number: u64,
        config: &EngineConfig,
    ) -> Answer {
        let key = request.header("authorization").strip_prefix("Bearer ");
        if config.api_key.is_some() && config.api_key.as_deref() != key {
            return Script::error(401, "the API key is wrong", "invalid_api_key").into();
        }
        let ask = match prompt::parse(kind, &request.body) {
            Ok(ask) => ask,
            Err(message) => return Script::error(400, &message, "invalid_body").into(),
        };
        if let Some(script) = refused(&ask, config) {
            return script.into();
        }
        let Ok(line) = self.slots.line_up(config.queue) else {
            return Script::error(429, "the queue is full", "queue_full").retry_after(Some(1)).into();
        };
        let cached = lock(&self.cache).visit(&ask.tokens, config.block_tokens, config.blocks);
        {
            let mut meter = lock(&self.meter);
            meter.prompt_tokens += ask.tokens.len() as u64;
            meter.cached_tokens += cached as u64;
        }
        let script = script::answer(config, &ask, number, cached);
        Answer { script, line: Some(line), prompt_tokens: ask.tokens.len() }
    }

    fn health(&self, probe: Probe, config: &EngineConfig) -> Script {
        let started = self.started.elapsed() >= config.starts_in;
        let good = started
            && match (config.health, probe) {
                (Health::Good, _) => true,
                (Health::Bad, _) => false,
                (Health::NotReady, probe) => probe == Probe::Health,
                (Health::Flapping { good, bad }, _) => {
                    let mut probes = lock(&self.probes);
                    let at = *probes % (good + bad).max(1);
                    *probes = probes.wrapping_add(1);
                    at < good
                }
            };
        if good && !(probe == Probe::Ready && *lock(&self.draining)) {
            Script::json(200, &json!({"status": "ok"}))
        } else {
            Script::json(503, &json!({"status": "unavailable"}))
        }
    }

    fn metrics(&self, config: &EngineConfig) -> Script {
        let meter = lock(&self.meter).clone();
        let capacity = (config.blocks * config.block_tokens).max(1);
        let claims = &config.claims;
        let load = Load {
            running: claims.running.unwrap_or_else(|| self.slots.running()),
            waiting: claims.waiting.unwrap_or_else(|| self.slots.waiting()),
            kv: claims.kv.unwrap_or((meter.held_tokens as f64 / capacity as f64).min(1.0)),
        };
        Script::whole(200, "text/plain; version=0.0.4; charset=utf-8", metrics::render(config, &meter, load))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    Health,
    Ready,
}

/// Why a request that can be read is refused, if it is.
fn refused(ask: &Ask, config: &EngineConfig) -> Option<Script> {
    if let Some(model) = ask.model.as_deref().filter(|model| !config.serves(model)) {
        let message = format!("the model {model:?} does not exist; this server has {:?}", config.model);
        return Some(Script::error(404, &message, "model_not_found"));
    }
    if ask.tokens.len() >= config.max_model_len {
        let message =
            format!("the prompt has {} tokens and the context {}", ask.tokens.len(), config.max_model_len);
        return Some(Script::error(400, &message, "context_length_exceeded"));
    }
    None
}

fn models(config: &EngineConfig) -> Script {
    let card = |name: &String, parent: Option<&String>| {
        json!({
            "id": name, "object": "model", "created": 1_700_000_000, "owned_by": "fake",
            "max_model_len": config.max_model_len, "parent": parent,
        })
    };
    let mut cards = vec![card(&config.model, None)];
    cards.extend(config.adapters.iter().map(|adapter| card(adapter, Some(&config.model))));
    Script::json(200, &json!({"object": "list", "data": cards}))
}

fn tokenize(body: &Bytes, config: &EngineConfig) -> Script {
    match prompt::text_to_tokenize(body) {
        Ok(text) => {
            let tokens = prompt::tokenize(&text);
            let length = config.max_model_len;
            Script::json(200, &json!({"count": tokens.len(), "max_model_len": length, "tokens": tokens}))
        }
        Err(message) => Script::error(400, &message, "invalid_body"),
    }
}
