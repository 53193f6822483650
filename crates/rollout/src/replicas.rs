//! How many replicas each version should have, at every moment of every strategy.

use wharf_spec::service::Strategy;

use crate::release::Release;
use crate::state::Phase;
use crate::traffic::follows;

impl Release<'_> {
    /// Replicas that a whole version has: a service that sleeps releases with one.
    pub(crate) fn whole(&self) -> u32 {
        self.seen.desired.replicas.max(1)
    }

    /// Replicas of the candidate that a share of traffic needs.
    pub(crate) fn needed_for(&self, weight: u32) -> u32 {
        let share = u64::from(self.whole()) * u64::from(weight.min(100));
        u32::try_from(share.div_ceil(100)).unwrap_or(u32::MAX).max(1)
    }

    /// Replicas of the candidate with which it gets its first traffic.
    pub(crate) fn needed_first(&self) -> u32 {
        // The first version ever serves from its first replica on.
        if self.state.active.is_none() {
            return 1;
        }
        match self.strategy() {
            Strategy::BlueGreen | Strategy::Recreate => self.whole(),
            Strategy::Canary => self.needed_for(self.first_weight()),
            Strategy::Rolling => 1,
        }
    }

    /// Replicas that the active version should have.
    pub(crate) fn active_target(&self) -> u32 {
        let wanted = self.seen.desired.replicas;
        match (self.strategy(), self.state.phase) {
            (Strategy::BlueGreen | Strategy::Canary, _) => wanted,
            (
                Strategy::Recreate,
                Phase::Draining | Phase::Warming | Phase::Shifting { .. } | Phase::Verifying,
            ) => 0,
            // The old one comes back when the new one has left its place.
            (Strategy::Recreate, Phase::RollingBack) if self.candidate_is_there() => 0,
            (Strategy::Rolling, Phase::Verifying) => 0,
            (Strategy::Rolling, Phase::Shifting { step, .. }) => {
                // One replica goes only when gateways know who stands in for it.
                let gone = if self.state.followed_ms.is_some() { step } else { step.saturating_sub(1) };
                wanted.saturating_sub(gone)
            }
            // As fast as there is room for one more than is wanted.
            (Strategy::Rolling, Phase::RollingBack) => {
                let seen = self.candidate_seen();
                let taken = seen.ready.saturating_add(seen.starting);
                wanted
                    .min(wanted.saturating_add(1).saturating_sub(taken).max(self.active_seen().ready).max(1))
            }
            (Strategy::Recreate | Strategy::Rolling, _) => wanted,
        }
    }

    /// Replicas that the candidate should have, while it runs.
    pub(crate) fn candidate_target(&self) -> u32 {
        match (self.strategy(), self.state.phase) {
            (Strategy::Rolling, Phase::Shifting { step, .. }) => {
                let next = if self.rolls_on(step) { step.saturating_add(1) } else { step };
                next.min(self.whole())
            }
            (Strategy::Rolling, Phase::RollingBack) => {
                let seen = self.candidate_seen();
                // What is not ready goes first; then one for each that came back.
                seen.ready.min(self.whole().saturating_sub(self.active_seen().ready))
            }
            (Strategy::Recreate, Phase::RollingBack) => 0,
            (Strategy::Canary, Phase::Shifting { step, weight }) => {
                let weight = if self.step_is_over(step) { self.next_weight(step) } else { weight };
                self.needed_for(weight)
            }
            // A canary that is taken back keeps what it has until it has no traffic.
            (Strategy::Canary, Phase::RollingBack) => self.candidate_seen().ready,
            (_, Phase::Warming) => self.needed_first().max(self.first_target()),
            (Strategy::BlueGreen | Strategy::Canary | Strategy::Rolling | Strategy::Recreate, _) => {
                self.whole()
            }
        }
    }

    /// A first version starts with everything that is wanted, though one replica is enough for it to serve.
    fn first_target(&self) -> u32 {
        if self.state.active.is_none() { self.whole() } else { 0 }
    }

    /// Rolling: the replica that was replaced is gone, and the next one may come.
    pub(crate) fn rolls_on(&self, step: u32) -> bool {
        let seen = self.active_seen();
        let old = seen.ready.saturating_add(seen.starting);
        let last = step.saturating_add(1) >= self.whole();
        let may = !last || !self.policy.pause || self.state.agreed;
        self.state.followed_ms.is_some() && may && old <= self.whole().saturating_sub(step)
    }

    /// Anything of the candidate is there.
    pub(crate) fn candidate_is_there(&self) -> bool {
        self.state.candidate.as_ref().is_some_and(|version| self.seen.versions.contains_key(&version.colour))
    }

    /// The active version can take all traffic back, or nobody calls.
    pub(crate) fn active_can_serve(&self) -> bool {
        self.sleeps() || self.active_seen().ready > 0
    }

    /// Every gateway follows the shares that should hold now.
    pub(crate) fn is_followed(&self) -> bool {
        let wanted = self.traffic();
        !self.seen.gateways.is_empty() && self.seen.gateways.iter().all(|gateway| follows(gateway, &wanted))
    }
}
