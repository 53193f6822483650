//! Leaving without breaking answers: refuse new requests, let running ones finish, cut what takes too long.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::state::App;

/// Time to send the error events after the grace period.
const ABORT_TIME: Duration = Duration::from_secs(2);

/// Returns when no request is in flight, or when the grace period and the time to send errors are over.
pub(crate) async fn drain(app: &Arc<App>) {
    app.set_draining();
    let grace = Duration::from_secs_f64(app.config.drain_grace_seconds);
    tracing::info!(in_flight = app.in_flight(), grace_seconds = grace.as_secs_f64(), "draining");
    if timeout(grace, app.idle()).await.is_ok() {
        tracing::info!("drained");
        return;
    }
    tracing::warn!(in_flight = app.in_flight(), "the grace period is over; the rest is cut off");
    app.abort_all();
    if timeout(ABORT_TIME, app.idle()).await.is_err() {
        tracing::warn!(in_flight = app.in_flight(), "some clients do not read their errors");
    }
}
