//! Which endpoints a request is sent to, and with which words it is refused.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use wharf_access::Moment;
use wharf_api::ApiError;
use wharf_routing::prefix::seed;
use wharf_routing::{NoEndpoint, Request};
use wharf_telemetry::trace::Trace;

use crate::exchange::{About, Exchange};
use crate::headers;
use crate::proxy::USUAL_ANSWER;
use crate::request::Call;
use crate::service::{InFlight, ServiceState};
use crate::shared::Shared;

/// Picks from one pool.
pub(super) struct Picker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: String,
    pub(super) adapters: Vec<String>,
    pub(super) alternatives: usize,
    pub(super) shed_above: Option<u32>,
}

/// A request that may go on.
pub(super) struct Picked {
    /// The endpoint, then those to fall back on.
    pub(super) endpoints: Vec<String>,
    pub(super) in_flight: InFlight,
    pub(super) exchange: Exchange,
}

impl Picker {
    /// Endpoints for a request, of the subset if there is one.
    pub(super) fn pick(
        &self,
        request: &HeaderMap,
        subset: Option<&[String]>,
        call: &Call,
        started: Instant,
    ) -> Result<Picked, ApiError> {
        if self.shared.is_draining() {
            return Err(unavailable("the endpoint picker is stopping".to_owned()));
        }
        let table = self.shared.table();
        let service = table
            .services
            .get(self.pool.as_str())
            .ok_or_else(|| unavailable(format!("{} is not known here", self.pool)))?;
        let principal = self.shared.keys.current().check(request, Moment::now())?;
        let prompt_tokens = service.estimate(call.prompt.bytes);
        let about = About {
            path: "ext-proc",
            trace: Trace::default(),
            id: headers::request_id(request).to_str().unwrap_or_default().to_owned(),
            model: call.model.clone(),
            prompt_bytes: call.prompt.bytes,
            prompt_tokens,
        };
        let mut exchange = Exchange::begin(&self.shared, service, principal, None, about, started);
        let is_adapter = self.is_adapter(service, &call.model);
        let wanted = Request {
            prompt: &call.prompt,
            tokens: prompt_tokens,
            answer_tokens: call.longest.unwrap_or(USUAL_ANSWER),
            adapter: is_adapter.then_some(call.model.as_str()),
            session: request.get(headers::SESSION).map(|name| seed([name.as_bytes()])).or(call.session),
            tried: &[],
        };
        let picked = match self.is_overloaded(service, subset) {
            true => Err(NoEndpoint::Full(None)),
            false => service.pick_ranked(&wanted, subset),
        };
        match picked {
            Ok((in_flight, others)) => {
                exchange.sent_to(&in_flight.address);
                let others = others.into_iter().take(self.alternatives);
                let endpoints = std::iter::once(in_flight.address.clone()).chain(others).collect();
                Ok(Picked { endpoints, in_flight, exchange })
            }
            Err(no) => {
                let error = refusal(&service.name, no, subset);
                exchange.fail(error.status());
                Err(error)
            }
        }
    }

    fn is_adapter(&self, service: &ServiceState, model: &str) -> bool {
        !model.is_empty()
            && (self.adapters.iter().any(|adapter| adapter == model)
                || service.endpoints().iter().any(|state| {
                    let load = state.load.as_ref();
                    load.is_some_and(|load| load.adapters.iter().any(|adapter| adapter == model))
                }))
    }

    /// Whether too many wait everywhere. Where nobody says how many wait there is room.
    fn is_overloaded(&self, service: &ServiceState, subset: Option<&[String]>) -> bool {
        let Some(most) = self.shed_above else { return false };
        let mut states = service.endpoints();
        states.retain(|state| {
            state.ready && !state.broken && subset.is_none_or(|subset| subset.contains(&state.address))
        });
        let is_over = |waiting: Option<u32>| waiting.is_some_and(|waiting| waiting > most);
        !states.is_empty() && states.iter().all(|state| is_over(state.load.as_ref().map(|load| load.waiting)))
    }
}

fn refusal(pool: &str, no: NoEndpoint, subset: Option<&[String]>) -> ApiError {
    let why = match (no, subset) {
        (NoEndpoint::Full(_), _) => return ApiError::Overloaded { retry_after_seconds: 1 },
        (NoEndpoint::Nobody | NoEndpoint::Tried, Some(_)) => {
            "has no endpoint among those that the route allows"
        }
        (NoEndpoint::Nobody | NoEndpoint::Tried, None) => "has no endpoint",
        (NoEndpoint::NotReady, _) => "has no endpoint that is ready",
        (NoEndpoint::Broken(_), _) => "has no endpoint that works",
    };
    unavailable(format!("{pool} {why}"))
}

fn unavailable(reason: String) -> ApiError {
    ApiError::Unavailable { reason, retry_after_seconds: 1 }
}
