//! An endpoint's answer on its way to the client: piece by piece, no faster than the client reads, and with an end whatever happens.
//!
//! When the client leaves, this is dropped, and with it the connection to the endpoint: the engine stops at once. When the endpoint breaks off
//! or falls silent, a stream of events gets an `error` event and `[DONE]`; any other body ends the connection, since half an answer must not
//! look whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use wharf_api::ApiError;

use crate::answer::BodyError;
use crate::events::Events;
use crate::exchange::Exchange;
use crate::upstream::Answering;

/// An answer being passed on.
pub(crate) struct Relay {
    /// The endpoint's end; gone when its answer is whole.
    endpoint: Option<(Incoming, Answering)>,
    /// Of a stream of events.
    events: Option<Events>,
    exchange: Exchange,
    /// Runs out when the endpoint is silent for too long.
    silence: Pin<Box<Sleep>>,
    idle: Duration,
    /// What was read before the head was passed on.
    first: Option<Bytes>,
}

impl Relay {
    pub(crate) fn new(
        body: Incoming,
        answering: Answering,
        events: Option<Events>,
        exchange: Exchange,
        idle: Duration,
        first: Option<Bytes>,
    ) -> Relay {
        let endpoint = Some((body, answering));
        Relay { endpoint, events, exchange, silence: Box::pin(sleep(idle)), idle, first }
    }

    /// The next piece for the client.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        loop {
            let Some((body, _)) = &mut self.endpoint else { return Poll::Ready(None) };
            let frame = match Pin::new(body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.silence.as_mut().poll(context));
                    let seconds = self.idle.as_secs_f64();
                    return Poll::Ready(
                        self.break_off(&format!("the model server sent nothing for {seconds} s")),
                    );
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    self.silence.as_mut().reset(Instant::now() + self.idle);
                    // Trailers say nothing that clients of this API read.
                    let Ok(piece) = frame.into_data() else { continue };
                    self.exchange.first_byte();
                    if let Some((_, answering)) = &mut self.endpoint {
                        answering.first_byte();
                    }
                    let piece = match &mut self.events {
                        Some(events) => {
                            let piece = events.push(piece);
                            self.exchange.passed(events.count);
                            piece
                        }
                        None => piece,
                    };
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
                Some(Err(error)) => {
                    self.exchange.span().in_scope(|| {
                        tracing::warn!(error = %wharf_telemetry::log::chain(&error), "an endpoint's answer broke off");
                    });
                    return Poll::Ready(self.break_off("the model server broke off its answer"));
                }
                None => return Poll::Ready(self.end().map(Ok)),
            }
        }
    }

    /// How long the rest is, as far as the endpoint has said so.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match (&self.endpoint, &self.events, &self.first) {
            (Some((body, _)), None, None) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }

    /// The endpoint's body has ended as HTTP wants it.
    fn end(&mut self) -> Option<Bytes> {
        let Some(events) = &mut self.events else {
            self.finish(true);
            return None;
        };
        let rest = events.rest();
        if events.done || events.count == 0 {
            self.finish(true);
            return (!rest.is_empty()).then_some(rest);
        }
        // Without the last event nobody knows whether the answer is whole.
        let error = ApiError::BadGateway("the model server ended its answer too early".to_owned());
        let end = events.broken_off(&error);
        self.finish(false);
        Some(end)
    }

    fn break_off(&mut self, why: &str) -> Option<Result<Bytes, BodyError>> {
        let error = ApiError::BadGateway(why.to_owned());
        let end = self.events.as_mut().map(|events| events.broken_off(&error));
        self.finish(false);
        match end {
            Some(end) => Some(Ok(end)),
            None => Some(Err(error.into())),
        }
    }

    fn finish(&mut self, whole: bool) {
        if let Some(events) = &self.events {
            self.exchange.took(events.usage, events.count, events.finish);
        }
        if let Some((_, answering)) = self.endpoint.take() {
            answering.finish(whole);
        }
        self.exchange.end(whole);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The client has left in the middle: what was made until then counts.
        if self.endpoint.is_some()
            && let Some(events) = &self.events
        {
            self.exchange.took(events.usage, events.count, events.finish);
        }
    }
}
