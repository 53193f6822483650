//! One request from its acceptance to its end, counted exactly once however it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_access::usage::{Tokens, UsageRecord};
use wharf_access::{Principal, Reservation};
use wharf_telemetry::log::milliseconds;
use wharf_telemetry::metrics::gateway as table;
use wharf_telemetry::trace::{Trace, Value};

use crate::service::{ServiceState, count};
use crate::shared::Shared;
use crate::spans;
use crate::usage::Usage;

/// A request that was let in. Dropped before its end, it counts as abandoned by its client.
pub(crate) struct Exchange {
    shared: Arc<Shared>,
    service: Arc<ServiceState>,
    principal: Arc<Principal>,
    reservation: Option<Reservation>,
    request: About,
    started: Instant,
    first: Option<Instant>,
    status: u16,
    colour: String,
    usage: Option<Usage>,
    finish: Option<&'static str>,
    /// Where it was sent last.
    upstream: String,
    /// When it was sent first and last.
    sent: Option<(Instant, Instant)>,
    /// Lines about the request belong to it.
    span: tracing::Span,
    /// Tokens that were counted while they went by.
    seen: u64,
    ended: bool,
}

/// What is said of a request afterwards.
pub(crate) struct About {
    pub(crate) id: String,
    pub(crate) path: &'static str,
    pub(crate) trace: Trace,
    pub(crate) model: String,
    pub(crate) prompt_bytes: usize,
    /// Tokens of the prompt, estimated.
    pub(crate) prompt_tokens: u64,
}

/// nginx's code for a client that closed the connection, for records only: nobody is sent it.
pub(crate) const CLIENT_LEFT: u16 = 499;

impl Exchange {
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        service: &Arc<ServiceState>,
        principal: Arc<Principal>,
        reservation: Option<Reservation>,
        request: About,
        started: Instant,
    ) -> Exchange {
        count(&service.counters.arrived, 1);
        Exchange {
            shared: Arc::clone(shared),
            service: Arc::clone(service),
            principal,
            reservation,
            request,
            started,
            first: None,
            status: CLIENT_LEFT,
            colour: String::new(),
            usage: None,
            finish: None,
            upstream: String::new(),
            sent: None,
            span: tracing::Span::current(),
            seen: 0,
            ended: false,
        }
    }

    /// It goes to this endpoint.
    pub(crate) fn sent_to(&mut self, address: &str) {
        address.clone_into(&mut self.upstream);
        let now = Instant::now();
        self.sent = Some((self.sent.map_or(now, |(first, _)| first), now));
    }

    /// The prompt, which was not whole when the request was let in, has so many bytes.
    pub(crate) fn prompt_was(&mut self, bytes: usize) {
        self.request.prompt_bytes = bytes;
        self.request.prompt_tokens = self.service.estimate(bytes);
    }

    /// What lines about the request belong to.
    pub(crate) fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// The head of the answer goes to the client.
    pub(crate) fn answered_by(&mut self, status: u16, colour: &str) {
        self.status = status;
        colour.clone_into(&mut self.colour);
    }

    /// The first byte of the answer's body is there.
    pub(crate) fn first_byte(&mut self) {
        if self.first.is_none() {
            let now = Instant::now();
            self.first = Some(now);
            let after = now - self.started;
            self.service.counters.first_token(after);
            let labels = [&*self.service.name, self.colour.as_str()];
            self.shared.metrics.observe(&table::FIRST_BYTE_SECONDS, &labels, after.as_secs_f64());
        }
    }

    /// So many events of the answer have gone by: somebody who looks sees that it is being written.
    pub(crate) fn passed(&mut self, events: u64) {
        count(&self.service.counters.tokens_seen, events.saturating_sub(self.seen));
        self.seen = self.seen.max(events);
    }

    /// What the answer took, as the engine says or as events were counted, and why it ended.
    pub(crate) fn took(&mut self, usage: Option<Usage>, events: u64, finish: Option<&'static str>) {
        self.finish = finish;
        let counted = Usage {
            prompt_tokens: self.request.prompt_tokens,
            completion_tokens: events,
            ..Usage::default()
        };
        self.usage = Some(usage.unwrap_or(counted));
        if let Some(usage) = usage {
            self.service.measured(self.request.prompt_bytes, usage.prompt_tokens);
        }
    }

    /// The answer is over, whole or not.
    pub(crate) fn end(&mut self, whole: bool) {
        let counters = &self.service.counters;
        count(if whole && self.status < 500 { &counters.answered } else { &counters.failed }, 1);
        self.record(if whole { self.status } else { self.status.max(502) });
    }

    /// It is refused or fails before any endpoint's answer goes on.
    pub(crate) fn fail(&mut self, status: u16) {
        let counters = &self.service.counters;
        let counter = match status {
            429 => &counters.overflowed,
            // Its client did not bring it to an end that could be answered.
            400..=499 => &counters.abandoned,
            _ => &counters.failed,
        };
        count(counter, 1);
        self.record(status);
    }

    fn record(&mut self, status: u16) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let usage = self.usage.unwrap_or_default();
        let service = &self.service;
        count(&service.counters.prompt_tokens, usage.prompt_tokens);
        count(&service.counters.generated_tokens, usage.completion_tokens);
        count(&service.counters.tokens_seen, usage.completion_tokens.saturating_sub(self.seen));
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(usage.prompt_tokens + usage.completion_tokens);
        }
        let took = self.started.elapsed();
        let code = status.to_string();
        let name = &*service.name;
        let metrics = &self.shared.metrics;
        metrics.add(&table::REQUESTS, &[name, &self.colour, &code], 1.0);
        metrics.observe(&table::REQUEST_SECONDS, &[name, &self.colour], took.as_secs_f64());
        self.log(status, took);
        self.trace(status);
        let record = UsageRecord {
            time: jiff::Timestamp::now(),
            request_id: std::mem::take(&mut self.request.id),
            key_id: self.principal.id.to_string(),
            key_name: self.principal.name.to_string(),
            service: name.to_owned(),
            model: std::mem::take(&mut self.request.model),
            status,
            tokens: Tokens {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens(),
                completion_tokens: usage.completion_tokens,
            },
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            first_token_ms: self
                .first
                .map(|first| u64::try_from((first - self.started).as_millis()).unwrap_or(u64::MAX)),
            gateway: self.shared.config.name.clone(),
        };
        self.shared.ledger.add(record);
    }

    /// The request's span, with the time until an endpoint was asked and the time of the one that was asked last.
    fn trace(&self, status: u16) {
        let Exchange { principal, request, usage, finish, upstream, service, sent, .. } = self;
        if !request.trace.is_kept() {
            return;
        }
        let mut ended = spans::ended(request.path, status);
        let attributes = &mut ended.attributes;
        attributes.push(("gen_ai.provider.name", "wharf".into()));
        attributes.push(("gen_ai.request.model", request.model.as_str().into()));
        if let Some(usage) = usage {
            attributes.push(("gen_ai.usage.input_tokens", usage.prompt_tokens.into()));
            attributes.push(("gen_ai.usage.output_tokens", usage.completion_tokens.into()));
        }
        if let Some(finish) = finish {
            attributes.push(("gen_ai.response.finish_reasons", Value::Texts(vec![(*finish).to_owned()])));
        }
        if let Some(first) = self.first {
            attributes
                .push(("gen_ai.latency.time_to_first_token", (first - self.started).as_secs_f64().into()));
        }
        attributes.push(("wharf.tenant", (&*principal.name).into()));
        attributes.push(("wharf.service", (&*service.name).into()));
        let parts = sent.iter().flat_map(|(first, last)| {
            let asked = vec![("server.address", upstream.as_str().into())];
            [
                spans::part("route", self.started, *first, Vec::new()),
                spans::part("upstream", *last, Instant::now(), asked),
            ]
        });
        request.trace.end(ended, parts);
    }

    /// The request's one line.
    fn log(&self, status: u16, took: Duration) {
        let Exchange { service, principal, request, usage, finish, upstream, .. } = self;
        self.span.in_scope(|| {
            tracing::info!(
                request_id = request.id,
                model = request.model,
                tenant = &*principal.name,
                status,
                ttft_ms = self.first.map(|first| milliseconds(first - self.started)),
                duration_ms = milliseconds(took),
                prompt_tokens = usage.map(|usage| usage.prompt_tokens),
                completion_tokens = usage.map(|usage| usage.completion_tokens),
                finish_reason = finish,
                upstream = (!upstream.is_empty()).then_some(upstream.as_str()),
                service = &*service.name,
                "request ended"
            );
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            count(&self.service.counters.abandoned, 1);
            self.record(CLIENT_LEFT);
        }
    }
}
