//! One try of a request at one endpoint, up to the head of the answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, timeout_at};
use wharf_routing::Outcome;

use crate::pool::{Alone, ConnectError, Pool};
use crate::service::InFlight;
use crate::upload::{Payload, Sending, Upload};

/// An endpoint that says it has too much, and not for how long, is left alone for this long.
const SATURATED: Duration = Duration::from_secs(1);
/// Longest time that an endpoint may ask to be left alone.
const MAX_SATURATED: Duration = Duration::from_secs(60);

/// A request as endpoints get it.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Payload,
}

/// How long a try may take.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// Until there is a connection.
    pub(crate) connect: Duration,
    /// Until the answer begins.
    pub(crate) deadline: Instant,
    /// Between two pieces.
    pub(crate) idle: Duration,
}

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing was sent.
    Connect(ConnectError),
    /// It was sent, and the connection ended.
    Broken(hyper::Error),
    /// It was sent, and no answer came.
    TooLate,
}

/// An endpoint that answers: its connection, and the request that is in flight there.
pub(crate) struct Answering {
    pool: Arc<Pool>,
    link: Link,
    in_flight: InFlight,
    outcome: Outcome,
}

enum Link {
    /// It may serve again.
    Pooled(SendRequest<Sending>),
    /// Only to be dropped: the body may still be on its way.
    Alone { _connection: Alone },
}

impl Answering {
    /// A piece of the answer is there.
    pub(crate) fn first_byte(&mut self) {
        self.in_flight.first_byte();
    }

    /// Who answers, for logs.
    pub(crate) fn address(&self) -> &str {
        &self.in_flight.address
    }

    /// The answer has been read to its end, or has broken off.
    pub(crate) fn finish(self, whole: bool) {
        let Answering { pool, link, in_flight, outcome } = self;
        match link {
            Link::Pooled(sender) if whole => pool.give_back(&in_flight.address, sender),
            Link::Pooled(_) | Link::Alone { .. } => {}
        }
        in_flight.finish(if whole { outcome } else { Outcome::Failed });
    }

    /// The answer is not wanted: the request goes elsewhere.
    pub(crate) fn discard(self) {
        let Answering { pool: _, link: _, in_flight, outcome } = self;
        in_flight.finish(outcome);
    }
}

/// Sends the request and waits for the head of the answer.
pub(crate) async fn send(
    pool: &Arc<Pool>,
    in_flight: InFlight,
    outgoing: &Outgoing,
    times: Times,
) -> Result<(Response<Incoming>, Answering), (Failed, InFlight)> {
    if let Payload::Passing(upload) = &outgoing.body {
        // In a box: most requests have no need of the room.
        return Box::pin(pass(pool, in_flight, outgoing, upload, times)).await;
    }
    let Times { connect, deadline, idle: _ } = times;
    let mut connection = match pool.take(&in_flight.address, connect).await {
        Ok(connection) => connection,
        Err(error) => return Err((Failed::Connect(error), in_flight)),
    };
    loop {
        let request = build(outgoing, &in_flight.address);
        let sent = timeout_at(deadline, connection.sender.try_send_request(request)).await;
        match sent {
            Ok(Ok(response)) => {
                let outcome = outcome(response.status(), response.headers());
                let link = Link::Pooled(connection.sender);
                return Ok((response, Answering { pool: Arc::clone(pool), link, in_flight, outcome }));
            }
            // The endpoint closed a connection that had been idle: it has not looked at the request.
            Ok(Err(error)) if connection.used_before && is_unprocessed(&error) => {
                connection = match pool.connect(&in_flight.address, connect).await {
                    Ok(connection) => connection,
                    Err(error) => return Err((Failed::Connect(error), in_flight)),
                };
            }
            Ok(Err(error)) => return Err((Failed::Broken(error.into_error()), in_flight)),
            Err(_) => return Err((Failed::TooLate, in_flight)),
        }
    }
}

/// The same for a body that still arrives.
async fn pass(
    pool: &Arc<Pool>,
    in_flight: InFlight,
    outgoing: &Outgoing,
    upload: &Upload,
    times: Times,
) -> Result<(Response<Incoming>, Answering), (Failed, InFlight)> {
    let Times { connect, deadline, idle } = times;
    let mut connection = match Alone::open(&in_flight.address, connect).await {
        Ok(connection) => connection,
        Err(error) => return Err((Failed::Connect(error), in_flight)),
    };
    let request = build(outgoing, &in_flight.address);
    let sent = tokio::select! {
        sent = timeout_at(deadline, connection.sender.try_send_request(request)) => sent,
        () = upload.stalled(idle) => return Err((Failed::TooLate, in_flight)),
    };
    match sent {
        Ok(Ok(response)) => {
            let outcome = outcome(response.status(), response.headers());
            let link = Link::Alone { _connection: connection };
            Ok((response, Answering { pool: Arc::clone(pool), link, in_flight, outcome }))
        }
        Ok(Err(error)) => Err((Failed::Broken(error.into_error()), in_flight)),
        Err(_) => Err((Failed::TooLate, in_flight)),
    }
}

fn is_unprocessed<T>(error: &hyper::client::conn::TrySendError<T>) -> bool {
    let error = error.error();
    error.is_canceled() || error.is_closed() || error.is_incomplete_message()
}

fn build(outgoing: &Outgoing, address: &str) -> Request<Sending> {
    let mut request = Request::new(outgoing.body.sending());
    request.method_mut().clone_from(&outgoing.method);
    request.uri_mut().clone_from(&outgoing.target);
    request.headers_mut().clone_from(&outgoing.headers);
    if let Ok(host) = HeaderValue::from_str(address) {
        request.headers_mut().insert(HOST, host);
    }
    request
}

/// What an answer's head says about the endpoint.
pub(crate) fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX_SATURATED));
    match (status.as_u16(), retry_after) {
        (429, wait) => Outcome::Saturated(wait.unwrap_or(SATURATED)),
        (503, Some(wait)) => Outcome::Saturated(wait),
        (500.., _) => Outcome::Failed,
        (_, _) => Outcome::Answered,
    }
}
