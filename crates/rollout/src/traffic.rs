//! Who gets which share of traffic, and whether gateways do as they are told.

use std::collections::BTreeMap;

use wharf_spec::service::{Colour, Strategy, Traffic};

use crate::DRAIN_LIMIT_MS;
use crate::FOLLOW_LIMIT_MS;
use crate::observed::GatewaySeen;
use crate::release::Release;
use crate::state::{Phase, Version};

impl Release<'_> {
    /// Shares of traffic that should hold now; they sum to 100 unless there is no version at all.
    pub(crate) fn traffic(&self) -> Vec<Traffic> {
        let mut shares = self.intended();
        self.avoid_what_is_not_ready(&mut shares);
        let share = |(version, weight): (&Version, u32)| Traffic {
            colour: version.colour.into(),
            weight,
            generation: version.generation,
        };
        shares.into_iter().map(share).collect()
    }

    fn intended(&self) -> Vec<(&Version, u32)> {
        let state = &self.state;
        let runs = state.phase.runs_candidate() || state.phase == Phase::RollingBack;
        let candidate = state.candidate.as_ref().filter(|_| runs);
        match (&state.active, candidate, &state.kept) {
            (Some(active), Some(candidate), _) => {
                let weight = self.candidate_weight();
                vec![(active, 100 - weight), (candidate, weight)]
            }
            (Some(active), None, Some(kept)) => vec![(active, 100), (&kept.version, 0)],
            (Some(active), None, None) => vec![(active, 100)],
            // A first version answers as soon as it can.
            (None, Some(candidate), _) => vec![(candidate, 100)],
            (None, None, _) => vec![],
        }
    }

    fn candidate_weight(&self) -> u32 {
        match self.state.phase {
            Phase::Shifting { step: _, weight } => weight.min(100),
            Phase::Verifying => 100,
            Phase::Idle
            | Phase::Preparing
            | Phase::Draining
            | Phase::Warming
            | Phase::Promoted
            | Phase::RollingBack
            | Phase::RolledBack
            | Phase::Failed => 0,
        }
    }

    /// A share goes to a version that can answer, if there is one. A sleeping service is woken by its own version.
    fn avoid_what_is_not_ready(&self, shares: &mut [(&Version, u32)]) {
        // Here the new version must leave before the old one can come: requests wait for that.
        let makes_room = self.strategy() == Strategy::Recreate && self.state.phase == Phase::RollingBack;
        if self.sleeps() || makes_room {
            return;
        }
        if let [one, two] = shares {
            let ready = |version: &Version| self.of(version).ready > 0;
            match (ready(one.0), ready(two.0)) {
                (true, false) => (one.1, two.1) = (100, 0),
                (false, true) => (one.1, two.1) = (0, 100),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Notes when every gateway has followed, or need not be waited for any longer. True from then on.
    pub(crate) fn wait_for_gateways(&mut self) -> bool {
        if self.state.followed_ms.is_none() {
            let late = self.since(self.state.since_ms) >= FOLLOW_LIMIT_MS;
            if self.is_followed() || late {
                self.state.followed_ms = Some(self.seen.now_ms);
            }
        }
        self.state.followed_ms.is_some()
    }

    /// Gateways that do not follow, in words.
    pub(crate) fn who_does_not_follow(&self) -> String {
        let wanted = self.traffic();
        let behind = |gateway: &&GatewaySeen| !follows(gateway, &wanted);
        let names =
            self.seen.gateways.iter().filter(behind).map(|gateway| gateway.name.as_str()).collect::<Vec<_>>();
        match (names.as_slice(), self.seen.gateways.is_empty()) {
            (_, true) => "no gateway reports".to_owned(),
            ([], false) => "all gateways follow".to_owned(),
            (names, false) => format!("not followed yet by {}", names.join(", ")),
        }
    }

    /// Whether a version that lost its traffic at `since_ms` may go: nobody sends anything there and nothing is being answered, or it took too long.
    pub(crate) fn is_drained(&self, version: &Version, since_ms: u64) -> bool {
        let unsent = !self.seen.gateways.is_empty()
            && self.seen.gateways.iter().all(|gateway| weight_at(gateway, version.colour) == Some(0));
        let seen = self.of(version);
        let nothing_to_lose = seen.ready == 0 && seen.in_flight == 0;
        nothing_to_lose || (unsent && seen.in_flight == 0) || self.since(since_ms) >= DRAIN_LIMIT_MS
    }
}

/// A gateway's share for a version; none if it knows no shares, and so sends anywhere.
fn weight_at(gateway: &GatewaySeen, colour: Colour) -> Option<u32> {
    if gateway.traffic.is_empty() {
        return None;
    }
    Some(by_colour(&gateway.traffic).get(colour.name()).copied().unwrap_or(0))
}

/// Whether a gateway follows these shares. Generations do not matter: they change with every label.
pub(crate) fn follows(gateway: &GatewaySeen, wanted: &[Traffic]) -> bool {
    !gateway.traffic.is_empty() && by_colour(&gateway.traffic) == by_colour(wanted)
}

/// Shares that are not nothing.
fn by_colour(traffic: &[Traffic]) -> BTreeMap<&str, u32> {
    traffic
        .iter()
        .filter(|share| share.weight > 0)
        .map(|share| (share.colour.as_str(), share.weight))
        .collect()
}
