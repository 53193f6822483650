//! What becomes of a request: the order of steps, and what is answered here without asking anybody.

mod acquire;
mod body;
mod dispatch;
mod progress;
mod unaccounted;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use serde::Serialize;
use tracing::Instrument;
use tracing::field::Empty;
use wharf_access::limits::Asked;
use wharf_access::{Moment, Principal, Reservation};
use wharf_api::ApiError;
use wharf_routing::prefix::seed;
use wharf_telemetry::metrics::gateway as table;
use wharf_telemetry::trace::{Context, Trace};

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::console;
use crate::exchange::{About, Exchange};
use crate::headers;
use crate::pool::Pool;
use crate::request::Call;
use crate::service::ServiceState;
use crate::shared::Shared;
use crate::table::{Served, Table};
use crate::upload::Payload;
use crate::upstream::Outgoing;

use body::Wanted;
use unaccounted::Unaccounted;

/// Tokens of an answer whose request sets no limit, as far as reservations go; usage settles it.
pub(crate) const USUAL_ANSWER: u64 = 256;

/// What a worker thread answers with.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
}

/// A request as it comes.
struct Arrival {
    id: HeaderValue,
    started: Instant,
    path: &'static str,
    trace: Trace,
}

impl Arrival {
    fn of(shared: &Shared, request: &Request<Incoming>) -> Arrival {
        let started = Instant::now();
        let id = headers::request_id(request.headers());
        let parent = request.headers().get(headers::TRACEPARENT).map(HeaderValue::as_bytes);
        let trace = shared.tracer.begin(parent);
        Arrival { id, started, path: known_path(request.uri().path()), trace }
    }

    /// What lines about a request have in common. `model` and `tenant` become known later.
    fn span(&self) -> tracing::Span {
        let context = self.trace.context();
        tracing::info_span!(
            "request",
            request_id = self.id.to_str().unwrap_or_default(),
            trace_id = context.map(Context::trace_hex),
            span_id = context.map(Context::span_hex),
            model = Empty,
            tenant = Empty,
            path = self.path
        )
    }
}

/// A request that may go on to an endpoint.
struct Accepted {
    served: Served,
    call: Call,
    outgoing: Outgoing,
    exchange: Exchange,
    rank: u8,
    session: Option<u64>,
    /// Tokens of the prompt, estimated.
    tokens: u64,
    /// Headers of the answer that say where the caller stands.
    standing: Vec<(&'static str, String)>,
}

/// What became of a request before an endpoint was asked.
enum Admitted {
    /// It is answered here.
    Answered(Response<Answer>),
    /// In a box: two of these would be in every request's future.
    Accepted(Box<Accepted>),
}

impl Worker {
    /// Answers one request.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        let arrival = Arrival::of(&self.shared, &request);
        let version = request.version();
        let id = arrival.id.clone();
        let shared = Arc::clone(&self.shared);
        let local = self.local(&request);
        let below = console::below(&shared, request.uri().path()).map(str::to_owned);
        let mut response = match (local, below) {
            (Some(response), _) => response,
            // In a box: what a page needs would make every stream's task larger.
            (None, Some(below)) => Box::pin(console::answer(&shared, &below, &request)).await,
            (None, None) => {
                let span = arrival.span();
                let proxied = self.proxied(request, arrival).instrument(span);
                proxied.await.unwrap_or_else(|error| {
                    shared.metrics.add(&table::REFUSED, &[error.code().unwrap_or("other")], 1.0);
                    answer::failure(&error)
                })
            }
        };
        response.headers_mut().insert(headers::REQUEST_ID, id);
        // HTTP/2 has no such header; its connections are told to go away when the drain ends.
        if shared.is_draining() && version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Paths that probes ask for; they need no key.
    fn local(&self, request: &Request<Incoming>) -> Option<Response<Answer>> {
        match request.uri().path() {
            "/health" | "/ping" => Some(Response::new(Answer::empty())),
            "/ready" => Some(answer::readiness(&self.shared)),
            _ => None,
        }
    }

    async fn proxied(
        self,
        request: Request<Incoming>,
        arrival: Arrival,
    ) -> Result<Response<Answer>, ApiError> {
        let mut unaccounted = Unaccounted::of(&arrival);
        let accepted = match self.admitted(request, &arrival).await {
            Ok(Admitted::Accepted(accepted)) => accepted,
            Ok(Admitted::Answered(response)) => {
                unaccounted.answered(response.status().as_u16());
                return Ok(response);
            }
            Err(error) => {
                unaccounted.refused(&error);
                return Err(error);
            }
        };
        unaccounted.follow();
        if accepted.call.stream {
            progress::answer(self, *accepted).await
        } else {
            let standing = accepted.standing.clone();
            self.dispatch(*accepted).await.map(|response| with_standing(response, &standing))
        }
    }

    /// Everything that comes before an endpoint is asked.
    async fn admitted(&self, request: Request<Incoming>, arrival: &Arrival) -> Result<Admitted, ApiError> {
        if self.shared.is_draining() {
            return Err(answer::stopping());
        }
        let table = self.shared.table();
        let caller = Caller::of(&self.shared, request.headers()).await;
        caller.admit(&table, request.headers())?;
        if let Some(response) = self.models(&table, &request, &caller)? {
            return Ok(Admitted::Answered(response));
        }
        let (parts, body) = request.into_parts();
        let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let usage = asks_usage(parts.uri.path());
        let wanted = Wanted::new(&self.shared.config, &parts.method, content_type, usage);
        let (call, payload) = body::read(body, wanted).await?;
        let accepted = self.accept(&table, &caller, &parts, (call, payload), arrival)?;
        Ok(Admitted::Accepted(Box::new(accepted)))
    }

    /// Who calls, which service is meant, whether there is room: the last point at which a request is refused without a trace elsewhere.
    fn accept(
        &self,
        table: &Table,
        caller: &Caller,
        parts: &Parts,
        (call, body): (Call, Payload),
        arrival: &Arrival,
    ) -> Result<Accepted, ApiError> {
        let Parts { method, uri, headers, .. } = parts;
        let Arrival { id, started, path, trace } = arrival;
        let served = table.find(host(headers, uri), &call.model)?;
        let service = &served.service;
        let principal = caller.at(service, headers)?;
        let span = tracing::Span::current();
        span.record("tenant", &*principal.name);
        principal.may_use(&call.model)?;
        span.record("model", &call.model);
        let prompt_tokens = service.estimate(call.prompt.bytes);
        let answer_tokens = call.longest.unwrap_or(USUAL_ANSWER);
        let reservation = self.reserve(service, &principal, prompt_tokens.saturating_add(answer_tokens))?;
        let standing = reservation.as_ref().map(|reserved| reserved.standing().headers()).unwrap_or_default();
        let session = headers.get(headers::SESSION).map(|name| seed([name.as_bytes()])).or(call.session);
        let rank = principal.priority as u8;
        let about = About {
            id: id.to_str().unwrap_or_default().to_owned(),
            path,
            trace: trace.clone(),
            model: call.model.clone(),
            prompt_bytes: call.prompt.bytes,
            prompt_tokens,
        };
        let mut sent = headers::to_endpoint(headers, id, self.shared.endpoint_key.as_ref());
        headers::trace(&mut sent, trace);
        let target = uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
        let outgoing = Outgoing { method: method.clone(), target, headers: sent, body };
        let exchange = Exchange::begin(&self.shared, service, principal, reservation, about, *started);
        Ok(Accepted { served, call, outgoing, exchange, rank, session, tokens: prompt_tokens, standing })
    }

    fn reserve(
        &self,
        service: &ServiceState,
        principal: &Principal,
        tokens: u64,
    ) -> Result<Option<Reservation>, ApiError> {
        let (each, together) = service.limits();
        let limits = principal.limits.or(each);
        if limits.is_empty() && together.is_empty() {
            return Ok(None);
        }
        let asked = Asked { caller: &principal.id, service: &service.name, limits, together, tokens };
        Ok(Some(self.shared.limiter.reserve(Moment::now(), &asked)?))
    }

    /// `/v1/models` and `/v1/models/{name}`: what this caller may use.
    fn models(
        &self,
        table: &Table,
        request: &Request<Incoming>,
        caller: &Caller,
    ) -> Result<Option<Response<Answer>>, ApiError> {
        let path = request.uri().path();
        if request.method() != Method::GET || !(path == "/v1/models" || path.starts_with("/v1/models/")) {
            return Ok(None);
        }
        let created = self.shared.epoch / 1000;
        let may_see = |name: &&str| {
            let service = table.model(name).map(|served| &served.service);
            service.is_some_and(|service| {
                caller.at(service, request.headers()).is_ok_and(|principal| principal.may_use(name).is_ok())
            })
        };
        let card = |name: &str| Model { id: name.to_owned(), object: "model", created, owned_by: "wharf" };
        let names: Vec<&str> = table.model_names().into_iter().filter(may_see).collect();
        match path.strip_prefix("/v1/models/") {
            None => {
                let data: Vec<Model> = names.into_iter().map(card).collect();
                Ok(Some(answer::json(&Models { object: "list", data })))
            }
            Some(name) if names.contains(&name) => Ok(Some(answer::json(&card(name)))),
            Some(name) => {
                Err(ApiError::ModelNotFound { model: name.to_owned(), available: names.join(", ") })
            }
        }
    }
}

#[derive(Serialize)]
struct Models {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// A request's path, of a closed list: what clients may write there is no text for logs.
fn known_path(path: &str) -> &'static str {
    const KNOWN: [&str; 6] = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/rerank",
        "/v1/models",
    ];
    let known = KNOWN.into_iter().find(|known| *known == path);
    known.unwrap_or(if path.starts_with("/v1/models/") { "/v1/models/{name}" } else { "other" })
}

/// Paths whose streams can be asked what they took.
fn asks_usage(path: &str) -> bool {
    path == "/v1/chat/completions" || path == "/v1/completions"
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let header = headers.get(HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default()
}

fn with_standing(mut response: Response<Answer>, standing: &[(&'static str, String)]) -> Response<Answer> {
    for (name, value) in standing {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
