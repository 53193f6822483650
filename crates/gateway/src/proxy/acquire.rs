//! Getting an endpoint for a request: at once, or by waiting in the service's queue until there is one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use wharf_api::ApiError;
use wharf_routing::{NoEndpoint, Request};
use wharf_telemetry::metrics::gateway as table;

use crate::config::Hold;
use crate::hold::Place;
use crate::service::{InFlight, ServiceState};
use crate::shared::Shared;

/// Without news a waiting request looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why there is no endpoint.
pub(super) enum Refused {
    /// All that could have been tried with this request.
    Tried,
    /// The client is told this.
    With(ApiError),
}

/// Returns an endpoint, or says why there is none by the deadline.
pub(super) async fn acquire(
    shared: &Shared,
    service: &Arc<ServiceState>,
    request: &Request<'_>,
    rank: u8,
    hold: Hold,
    deadline: Instant,
) -> Result<InFlight, Refused> {
    // Who comes while others wait gets in line.
    if service.hold.len() == 0 {
        match service.pick(request) {
            Ok(in_flight) => return Ok(in_flight),
            Err(NoEndpoint::Tried) => return Err(Refused::Tried),
            Err(NoEndpoint::Nobody | NoEndpoint::NotReady | NoEndpoint::Full(_) | NoEndpoint::Broken(_)) => {}
        }
    }
    let place = enter(service, rank, hold)?;
    let since = Instant::now();
    shared.metrics.add(&table::HELD, &[&service.name], 1.0);
    service.tell_demand();
    let result = wait(service, request, &place, deadline).await;
    shared.metrics.observe(&table::HELD_SECONDS, &[&service.name], since.elapsed().as_secs_f64());
    result
}

/// A place in the queue.
pub(super) fn enter(service: &ServiceState, rank: u8, hold: Hold) -> Result<Place, Refused> {
    service
        .hold
        .enter(rank, hold.queue)
        .map_err(|_| Refused::With(ApiError::Overloaded { retry_after_seconds: retry_after(hold) }))
}

async fn wait(
    service: &Arc<ServiceState>,
    request: &Request<'_>,
    place: &Place,
    deadline: Instant,
) -> Result<InFlight, Refused> {
    loop {
        if let Some(cause) = service.trouble() {
            let reason = format!("{} cannot start: {cause}", service.name);
            return Err(Refused::With(ApiError::Unavailable { reason, retry_after_seconds: 10 }));
        }
        let mut look_again = Instant::now() + LOOK_AGAIN;
        let mut why = NoEndpoint::Full(None);
        if place.is_first() {
            match service.pick(request) {
                Ok(in_flight) => return Ok(in_flight),
                Err(NoEndpoint::Tried) => return Err(Refused::Tried),
                Err(NoEndpoint::Full(Some(at)) | NoEndpoint::Broken(Some(at))) => {
                    look_again = look_again.min(service.instant(at).into());
                    why = NoEndpoint::Broken(Some(at));
                }
                Err(no) => why = no,
            }
        }
        if Instant::now() >= deadline {
            return Err(Refused::With(too_late(service, why)));
        }
        tokio::select! {
            () = place.turn() => {}
            () = sleep_until(look_again.min(deadline)) => {}
        }
    }
}

fn too_late(service: &ServiceState, why: NoEndpoint) -> ApiError {
    let why = match why {
        NoEndpoint::Nobody => "has no replica yet",
        NoEndpoint::NotReady => "is still starting",
        NoEndpoint::Full(_) => "has no replica that could take more",
        NoEndpoint::Broken(_) | NoEndpoint::Tried => "has no replica that works",
    };
    ApiError::Unavailable {
        reason: format!("{} {why}; try again later", service.name),
        retry_after_seconds: 5,
    }
}

/// A full queue moves on within about its deadline; clients need not all come back at its end.
fn retry_after(hold: Hold) -> u32 {
    (hold.deadline / 4.0).clamp(1.0, 30.0) as u32
}
