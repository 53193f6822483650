//! Strategy Recreate: the old version finishes what it has and goes. Gateways hold new requests meanwhile.

use crate::DRAIN_LIMIT_MS;
use crate::release::{Release, counted};

impl Release<'_> {
    pub(super) fn draining(&mut self) {
        let Some(candidate) = self.state.candidate.clone() else { return self.lost() };
        let old = self.active_seen();
        let left = old.ready.saturating_add(old.starting);
        let late = self.since(self.state.since_ms) >= DRAIN_LIMIT_MS;
        if (left == 0 && old.in_flight == 0) || late {
            return self.start(candidate.generation);
        }
        let (left, requests) = (counted(left, "replica"), old.in_flight);
        let generation = candidate.generation;
        self.say(format!("generation {generation} waits for {left} of the old version, with {requests} requests in flight, to go"));
    }
}
