//! What happens by the clock: a sample each second, and a stream of overviews for each open page.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use wharf_access::Moment;
use wharf_api::sse;

use super::sight::Sight;
use super::track::{STEP, Sample};
use super::view::overview;
use crate::answer::Answer;
use crate::shared::Shared;

/// A page gets an overview at least this often.
const BEAT: Duration = Duration::from_secs(1);
/// Overviews are at least this far apart.
const APART: Duration = Duration::from_millis(100);
/// Services whose last minutes are kept; of more than these the first by name.
const TRACKED: usize = 1000;

/// Samples every service, for as long as the gateway runs.
pub(crate) async fn sample(shared: Arc<Shared>) {
    let mut tick = interval(STEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let table = shared.table();
        let now = Moment::now().unix_ms;
        let samples: Vec<_> = table
            .services
            .iter()
            .take(TRACKED)
            .map(|(name, service)| {
                let sample = Sample::new(service.now(), &service.demand(), service.counters.tokens_seen());
                (Arc::clone(name), sample)
            })
            .collect();
        let mut tracks = shared.console.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *tracks);
        let taken = samples.into_iter().map(|(name, sample)| {
            let mut track = before.remove(&name).unwrap_or_default();
            track.take(sample, now);
            (name, track)
        });
        *tracks = taken.collect::<BTreeMap<_, _>>();
    }
}

/// An overview each second, and at once when somebody begins to wait or the source has something new. It ends when the gateway drains, when the page has gone, or when its key has.
pub(super) fn overviews(shared: Arc<Shared>, headers: HeaderMap) -> Response<Answer> {
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            // A wake-up takes less than a second, and is seen.
            let (demand, facts) = (shared.demand_changed.notified(), shared.console.changed.notified());
            // Each time anew: services come, keys go.
            let Ok(sight) = Sight::of(&shared, &shared.table(), &headers).await else { return };
            let event = sse::frame(&overview(&shared, &sight)).unwrap_or_default();
            if sender.send(Ok(Bytes::from(event))).await.is_err() || shared.is_draining() {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                () = demand => {}
                () = facts => {}
                () = sleep(BEAT) => {}
            }
            if !shared.is_draining() {
                sleep(APART).await;
            }
        }
    });
    let mut response = Response::new(Answer::sent(pieces));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}
