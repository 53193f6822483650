//! Trying endpoints until one answers. Until the first byte of an answer is here, the client has seen nothing and a failure costs only time;
//! from then on the answer is that endpoint's, for better or worse. It is too from the moment in which the endpoint has the only copy of a part
//! of the request.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout_at};
use wharf_api::ApiError;
use wharf_routing::{Outcome, Request};
use wharf_telemetry::metrics::gateway as table;

use super::acquire::{Refused, acquire, enter};
use super::{Accepted, USUAL_ANSWER, Worker};
use crate::answer::Answer;
use crate::config::seconds;
use crate::events::Events;
use crate::exchange::Exchange;
use crate::headers::to_client;
use crate::relay::Relay;
use crate::service::InFlight;
use crate::upload::{Failure, Payload, broke_off};
use crate::upstream::{Answering, Failed, Outgoing, Times, send};
use crate::usage;

/// Answers that do not stream are read whole up to this size, so that one that breaks off can be asked for again.
const WHOLE: usize = 1 << 20;
/// An endpoint that refuses connections, the only one there is, is tried again after this long, and then twice as long each time.
const RECONNECT: Duration = Duration::from_millis(20);
const MAX_RECONNECT: Duration = Duration::from_secs(1);

/// An answer that has begun.
struct Begun {
    status: StatusCode,
    headers: HeaderMap,
    body: Rest,
    answering: Answering,
}

enum Rest {
    /// All of it is here.
    Whole(Bytes),
    /// A part is here.
    More { first: Option<Bytes>, body: Incoming },
}

/// Why a try gave no answer, and what to say if there is no other.
struct Trouble {
    reason: &'static str,
    error: ApiError,
    /// Nothing was sent: trying again costs nobody anything.
    unsent: bool,
}

impl Worker {
    /// The answer, from whichever endpoint gives one.
    pub(super) async fn dispatch(&self, accepted: Accepted) -> Result<Response<Answer>, ApiError> {
        let Accepted { served, call, outgoing, mut exchange, rank, session, tokens, standing: _ } = accepted;
        let config = &self.shared.config;
        let service = &served.service;
        let hold = service.hold_config(config.hold);
        let head_time = if call.stream { config.timeouts.first_byte } else { config.timeouts.answer };
        let hold_deadline = Instant::now() + seconds(hold.deadline);
        let plain = Request {
            prompt: &call.prompt,
            tokens,
            answer_tokens: call.longest.unwrap_or(USUAL_ANSWER),
            adapter: served.is_adapter.then_some(call.model.as_str()),
            session,
            tried: &[],
        };
        let mut tried: Vec<u32> = Vec::new();
        let mut last: Option<Trouble> = None;
        let mut reconnect = RECONNECT;
        let mut next: Option<InFlight> = None;
        let mut attempts = 0;
        loop {
            let request = Request { tried: &tried, ..plain };
            let in_flight = match next.take() {
                Some(in_flight) => in_flight,
                None => match acquire(&self.shared, service, &request, rank, hold, hold_deadline).await {
                    Ok(in_flight) => in_flight,
                    Err(Refused::With(error)) => return Err(fail(&mut exchange, error)),
                    Err(Refused::Tried) => {
                        let trouble = last.take();
                        let again = trouble.as_ref().is_some_and(|trouble| trouble.unsent)
                            && Instant::now() < hold_deadline;
                        if !again {
                            let error = trouble.map_or_else(nobody, |trouble| trouble.error);
                            return Err(fail(&mut exchange, error));
                        }
                        // It may be starting again. The request waits with the others.
                        let place = match enter(service, rank, hold) {
                            Ok(place) => place,
                            Err(Refused::With(error)) => return Err(fail(&mut exchange, error)),
                            Err(Refused::Tried) => return Err(fail(&mut exchange, nobody())),
                        };
                        tokio::select! {
                            () = place.turn() => {}
                            () = sleep(reconnect) => {}
                        }
                        reconnect = (reconnect * 2).min(MAX_RECONNECT);
                        tried.clear();
                        continue;
                    }
                },
            };
            let slot = in_flight.slot;
            self.shared.metrics.observe(&table::PREFIX_CACHED, &[&service.name], in_flight.cached);
            let colour = in_flight.colour.clone();
            exchange.sent_to(&in_flight.address);
            let deadline = Instant::now() + seconds(head_time);
            let begun = self.attempt(in_flight, &outgoing, deadline).await;
            tried.push(slot);
            attempts += 1;
            match begun {
                Ok(begun) => {
                    let status = begun.status.as_u16();
                    let request = Request { tried: &tried, ..plain };
                    let may_retry = attempts < config.attempts && outgoing.body.is_kept();
                    if may_retry && config.retry_statuses.contains(&status) {
                        // Only if there is somebody else: else the client gets this answer.
                        if let Ok(other) = service.pick(&request) {
                            self.count_retry(&service.name, &status.to_string());
                            begun.answering.discard();
                            next = Some(other);
                            continue;
                        }
                    }
                    exchange.answered_by(status, &colour);
                    let hides_usage = match &outgoing.body {
                        Payload::Whole(_) => call.stream && !call.wants_usage,
                        // What was not known of it at its beginning is known now.
                        Payload::Passing(upload) => {
                            let (hides_usage, prompt_bytes) = upload.facts();
                            exchange.prompt_was(prompt_bytes);
                            hides_usage
                        }
                    };
                    return Ok(self.pass_on(begun, exchange, hides_usage));
                }
                Err(trouble) => {
                    match outgoing.body.failure() {
                        None => {}
                        Some(Failure::Refused(error)) => return Err(fail(&mut exchange, error)),
                        // The exchange ends as one whose client has left.
                        Some(Failure::Left) => return Err(broke_off()),
                    }
                    tracing::warn!(service = %service.name, reason = trouble.reason, error = %trouble.error, "a try failed");
                    let may_retry = attempts < config.attempts && outgoing.body.is_kept();
                    if !trouble.unsent && !may_retry {
                        return Err(fail(&mut exchange, trouble.error));
                    }
                    self.count_retry(&service.name, trouble.reason);
                    if trouble.unsent {
                        attempts -= 1;
                    }
                    last = Some(trouble);
                }
            }
        }
    }

    /// One try: up to the first byte of a stream, or the whole of a short answer.
    async fn attempt(
        &self,
        in_flight: InFlight,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Begun, Trouble> {
        let timeouts = &self.shared.config.timeouts;
        let times = Times { connect: seconds(timeouts.connect), deadline, idle: seconds(timeouts.idle) };
        let address = in_flight.address.clone();
        match send(&self.pool, in_flight, outgoing, times).await {
            Ok((response, answering)) => begin(response, answering, times).await,
            Err((failed, in_flight)) => {
                match outgoing.body.failure() {
                    None => in_flight.finish(Outcome::Failed),
                    // A client's failure says nothing about the endpoint.
                    Some(_) => in_flight.finish(Outcome::Unknown),
                }
                Err(trouble(&failed, &address))
            }
        }
    }

    fn pass_on(&self, begun: Begun, mut exchange: Exchange, drop_usage: bool) -> Response<Answer> {
        let Begun { status, headers, body, mut answering } = begun;
        let is_stream = is_event_stream(&headers);
        let mut sent = to_client(&headers);
        exchange.first_byte();
        answering.first_byte();
        let body = match body {
            Rest::Whole(bytes) => {
                exchange.took(usage::find(&bytes), 0, usage::finish_reason(&bytes));
                answering.finish(true);
                exchange.end(true);
                Answer::whole(bytes)
            }
            Rest::More { first, body } => {
                let mut events = is_stream.then(|| Events::new(drop_usage));
                if is_stream {
                    sent.remove(CONTENT_LENGTH);
                }
                let first = match (&mut events, first) {
                    (Some(events), Some(first)) => Some(events.push(first)).filter(|piece| !piece.is_empty()),
                    (_, first) => first,
                };
                let idle = seconds(self.shared.config.timeouts.idle);
                Answer::relay(Relay::new(body, answering, events, exchange, idle, first))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = sent;
        response
    }

    fn count_retry(&self, service: &str, reason: &str) {
        self.shared.metrics.add(&table::RETRIES, &[service, reason], 1.0);
    }
}

/// Reads on until a failure could no longer be hidden from the client.
async fn begin(
    response: Response<Incoming>,
    mut answering: Answering,
    times: Times,
) -> Result<Begun, Trouble> {
    let Times { connect: _, deadline, idle } = times;
    let (head, mut body) = response.into_parts();
    let whole = !is_event_stream(&head.headers);
    let mut read = BytesMut::new();
    let mut first: Option<Bytes> = None;
    loop {
        let limit = if first.is_none() { deadline } else { Instant::now() + idle };
        let frame = timeout_at(limit, Pin::new(&mut body).frame()).await;
        let piece = match frame {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(piece) => piece,
                Err(_) => continue,
            },
            Ok(None) => {
                let bytes = join(first, read);
                return Ok(Begun {
                    status: head.status,
                    headers: head.headers,
                    body: Rest::Whole(bytes),
                    answering,
                });
            }
            Ok(Some(Err(error))) => {
                let trouble = trouble(&Failed::Broken(error), answering.address());
                answering.finish(false);
                return Err(trouble);
            }
            Err(_) => {
                let trouble = trouble(&Failed::TooLate, answering.address());
                answering.finish(false);
                return Err(trouble);
            }
        };
        answering.first_byte();
        match &first {
            None => first = Some(piece),
            Some(_) => read.extend_from_slice(&piece),
        }
        if !whole || read.len() > WHOLE {
            let first = Some(join(first, read));
            return Ok(Begun {
                status: head.status,
                headers: head.headers,
                body: Rest::More { first, body },
                answering,
            });
        }
    }
}

fn join(first: Option<Bytes>, more: BytesMut) -> Bytes {
    match first {
        Some(first) if more.is_empty() => first,
        Some(first) => [&first[..], &more[..]].concat().into(),
        None => more.freeze(),
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

fn trouble(failed: &Failed, address: &str) -> Trouble {
    match failed {
        Failed::Connect(error) => {
            tracing::debug!(address, error = %wharf_telemetry::log::chain(error), "no connection to an endpoint");
            let error = ApiError::BadGateway("the model server cannot be reached".to_owned());
            Trouble { reason: "connect", error, unsent: true }
        }
        Failed::Broken(error) => {
            tracing::debug!(address, error = %wharf_telemetry::log::chain(error), "an endpoint broke off");
            let error = ApiError::BadGateway("the model server broke off before it answered".to_owned());
            Trouble { reason: "broken", error, unsent: false }
        }
        Failed::TooLate => {
            tracing::debug!(address, "an endpoint did not answer in time");
            let error = ApiError::GatewayTimeout("the model server did not answer in time".to_owned());
            Trouble { reason: "timeout", error, unsent: false }
        }
    }
}

fn nobody() -> ApiError {
    ApiError::BadGateway("no model server could answer".to_owned())
}

fn fail(exchange: &mut Exchange, error: ApiError) -> ApiError {
    exchange.fail(error.status());
    error
}
