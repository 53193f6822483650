//! Where requests wait while no endpoint can take them: one bounded queue for each service.
//!
//! The queue is in order of priority, then of arrival. One waiter at a time is woken: when it gets an endpoint it leaves and thereby wakes the
//! next, so that room for one does not wake a thousand, and room for all wakes them one after the other at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The waiting requests of a service.
#[derive(Debug, Default)]
pub(crate) struct Hold(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<(u8, u64), Waiter>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiter {
    wake: Arc<Notify>,
    since: Instant,
}

/// A place in the queue; leaving it wakes who is first then.
pub(crate) struct Place {
    hold: Arc<Hold>,
    position: (u8, u64),
    wake: Arc<Notify>,
}

/// As many wait as may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Hold {
    /// Takes a place, unless `most` are taken. Lower ranks go first.
    pub(crate) fn enter(self: &Arc<Hold>, rank: u8, most: usize) -> Result<Place, Full> {
        let mut queue = self.lock();
        if queue.waiting.len() >= most {
            return Err(Full);
        }
        queue.arrivals += 1;
        let position = (rank, queue.arrivals);
        let wake = Arc::new(Notify::new());
        queue.waiting.insert(position, Waiter { wake: Arc::clone(&wake), since: Instant::now() });
        Ok(Place { hold: Arc::clone(self), position, wake })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How long the one has waited that has waited longest.
    pub(crate) fn oldest(&self) -> Duration {
        let since = self.lock().waiting.values().map(|waiter| waiter.since).min();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Something has changed for the better: the first may try.
    pub(crate) fn wake_first(&self) {
        if let Some((_, first)) = self.lock().waiting.first_key_value() {
            first.wake.notify_one();
        }
    }

    /// Something has changed that all must know: there is no hope.
    pub(crate) fn wake_all(&self) {
        self.lock().waiting.values().for_each(|waiter| waiter.wake.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here can be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether it is this request's turn.
    pub(crate) fn is_first(&self) -> bool {
        self.hold.lock().waiting.first_key_value().is_some_and(|(first, _)| *first == self.position)
    }

    /// Returns when this request may try again.
    pub(crate) async fn turn(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hold.lock().waiting.remove(&self.position);
        self.hold.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn may_try(place: &Place) -> bool {
        place.turn().now_or_never().is_some()
    }

    #[test]
    fn the_first_by_priority_then_by_arrival_is_woken_and_leaving_wakes_the_next() {
        let hold = Arc::new(Hold::default());
        let late = hold.enter(2, 9).unwrap();
        let later = hold.enter(2, 9).unwrap();
        let urgent = hold.enter(0, 9).unwrap();
        hold.wake_first();
        assert_eq!([&late, &later, &urgent].map(may_try), [false, false, true]);
        drop(urgent);
        assert_eq!([&late, &later].map(may_try), [true, false]);
        drop(late);
        assert!(may_try(&later));
        drop(later);
        assert_eq!(hold.len(), 0);
    }

    #[test]
    fn no_more_wait_than_may() {
        let hold = Arc::new(Hold::default());
        let place = hold.enter(0, 1).unwrap();
        assert_eq!(hold.enter(0, 1).err(), Some(Full));
        drop(place);
        assert!(hold.enter(0, 1).is_ok());
    }
}
