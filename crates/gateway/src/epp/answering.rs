//! The second half of a stream: an answer passes, and what it says about its endpoint and its size is noted.

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap as WireHeaders, Metadata};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use wharf_routing::Outcome;

use super::wire;
use crate::events::Events;
use crate::exchange::Exchange;
use crate::service::InFlight;
use crate::upstream;
use crate::usage;

/// Usage stands at the end of an answer; so much of it is kept to look there.
const TAIL: usize = 64 << 10;

/// A request that an endpoint has. Dropped before its end, it is in flight no longer and counts as abandoned.
pub(super) struct Answering {
    in_flight: InFlight,
    exchange: Exchange,
    outcome: Outcome,
    /// The head was seen, and says that there is an answer.
    is_good: bool,
    content: Content,
}

/// What is looked at of an answer's body.
enum Content {
    /// Server-sent events.
    Events(Events),
    /// The end of anything else.
    Tail(BytesMut),
}

impl Answering {
    pub(super) fn new(in_flight: InFlight, exchange: Exchange) -> Answering {
        let content = Content::Tail(BytesMut::new());
        Answering { in_flight, exchange, outcome: Outcome::Unknown, is_good: false, content }
    }

    /// The head of the answer. An answer of another endpoint than the picked one means that the picked one failed.
    pub(super) fn head(self, wire: Option<&WireHeaders>, metadata: Option<&Metadata>) -> Answering {
        let Answering { in_flight, mut exchange, outcome: _, is_good: _, content: _ } = self;
        let in_flight = match wire::served(metadata) {
            Some(served) if served != in_flight.address => in_flight.moved(served),
            _ => in_flight,
        };
        let headers: HeaderMap = wire::headers(wire);
        let status = wire::status(wire).and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
        exchange.sent_to(&in_flight.address);
        exchange.answered_by(status.as_u16(), &in_flight.colour);
        let is_stream = headers
            .get(CONTENT_TYPE)
            .is_some_and(|media_type| media_type.as_bytes().starts_with(b"text/event-stream"));
        let content = match is_stream {
            true => Content::Events(Events::new(false)),
            false => Content::Tail(BytesMut::new()),
        };
        let outcome = upstream::outcome(status, &headers);
        Answering { in_flight, exchange, outcome, is_good: status.is_success(), content }
    }

    /// A piece of the body.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        self.in_flight.first_byte();
        self.exchange.first_byte();
        match &mut self.content {
            // What may go on is of no interest here: everything does.
            Content::Events(events) => drop(events.push(Bytes::copy_from_slice(piece))),
            Content::Tail(tail) => {
                tail.extend_from_slice(piece);
                if tail.len() > 2 * TAIL {
                    drop(tail.split_to(tail.len() - TAIL));
                }
            }
        }
    }

    /// The answer is whole.
    pub(super) fn end(mut self) {
        if self.is_good {
            self.took();
        }
        self.exchange.end(true);
        self.in_flight.finish(self.outcome);
    }

    /// The proxy speaks no more before the answer's end: the client has left or the endpoint has broken off, and nobody says which.
    pub(super) fn cut(mut self) {
        if self.is_good {
            self.took();
        }
    }

    fn took(&mut self) {
        match &self.content {
            Content::Events(events) => self.exchange.took(events.usage, events.count, events.finish),
            Content::Tail(tail) => self.exchange.took(usage::find(tail), 0, usage::finish_reason(tail)),
        }
    }
}
