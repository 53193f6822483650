//! From a state to what should be: the same list again and again until it is so.

use wharf_spec::service::{Colour, Strategy, Traffic};

use crate::release::Release;
use crate::state::{Kept, Phase, Version};

/// What a driver should do, in this order. All but events say how things should be: doing them twice changes nothing, and one that could not
/// be done comes again.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// This version is there with so many replicas. Those that are too many take nothing new, finish what they have, and go. A driver keeps the
    /// object that belongs to a revision until the version is removed: an old one may have to come back.
    EnsureVersion {
        /// Which.
        version: Version,
        /// So many.
        replicas: u32,
    },
    /// Every ready replica of this version has answered so many prompts.
    WarmUp {
        /// Which.
        colour: Colour,
        /// For each replica.
        prompts: u32,
    },
    /// Gateways send these shares.
    SetTraffic(Vec<Traffic>),
    /// Nothing of this version is there any more. It has no traffic; what it may still answer took too long.
    RemoveVersion {
        /// Which.
        colour: Colour,
    },
    /// Something happened. Comes once for a transition, or once more when the driver died before it kept the state.
    Event {
        /// Somebody should look.
        warning: bool,
        /// In one word, for programs.
        reason: String,
        /// In a sentence.
        message: String,
    },
}

impl Release<'_> {
    /// Everything that should be. Replicas first and removals last, so that half of the list is never worse than nothing.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let state = &self.state;
        let mut actions = Vec::new();
        let mut remove = Vec::new();
        if let Some(active) = &state.active {
            actions.push(ensure(active, self.active_target()));
        }
        if let Some(candidate) = &state.candidate {
            match state.phase {
                Phase::RollingBack if self.may_go(candidate, state.since_ms) => remove.push(candidate.colour),
                _ if self.candidate_runs() => {
                    actions.push(ensure(candidate, self.candidate_target()));
                    actions.extend(self.warm_up(candidate));
                }
                _ => {}
            }
        }
        if let Some(Kept { version, replicas, until_ms }) = &state.kept {
            let over = self.seen.now_ms >= *until_ms;
            match over && self.may_go(version, *until_ms) {
                true => remove.push(version.colour),
                false => actions.push(ensure(version, *replicas)),
            }
        }
        let traffic = self.traffic();
        if !traffic.is_empty() {
            actions.push(Action::SetTraffic(traffic));
        }
        remove.extend(self.strays());
        actions.extend(remove.into_iter().map(|colour| Action::RemoveVersion { colour }));
        actions.extend(self.events.iter().cloned());
        actions
    }

    fn candidate_runs(&self) -> bool {
        let phase = self.state.phase;
        // A first version whose model cannot be had has failed before anything ran.
        let failed_before = phase == Phase::Failed && !self.is_prepared();
        (phase.runs_candidate() && !failed_before)
            || (phase == Phase::RollingBack && self.candidate_is_there())
    }

    fn warm_up(&self, candidate: &Version) -> Option<Action> {
        let seen = self.of(candidate);
        let cold =
            self.policy.prompts > 0 && seen.warmed < seen.ready && self.state.phase != Phase::RollingBack;
        cold.then_some(Action::WarmUp { colour: candidate.colour, prompts: self.policy.prompts })
    }

    /// A version without traffic may go: it is drained, and what serves does serve.
    fn may_go(&self, version: &Version, since_ms: u64) -> bool {
        let makes_room = self.strategy() == Strategy::Recreate && self.state.phase == Phase::RollingBack;
        // Whatever revision is there: it is the colour that goes.
        let ready = self.seen.versions.get(&version.colour).map_or(0, |seen| seen.ready);
        let spared = self.active_can_serve() || ready == 0 || makes_room;
        spared && self.is_drained(version, since_ms)
    }

    /// Colours of which something is there though no version has them: left by a driver that died, or by somebody else.
    pub(crate) fn strays(&self) -> Vec<Colour> {
        let state = &self.state;
        let known =
            [state.active.as_ref(), state.candidate.as_ref(), state.kept.as_ref().map(|k| &k.version)];
        let is_known = |colour: Colour, revision: &str| {
            let of = |version: &&Version| version.colour == colour;
            // The active colour is put right in place; another one has to be empty first.
            let active = state.active.as_ref().filter(of).is_some();
            active || known.iter().flatten().filter(|v| of(v)).any(|v| v.revision == revision)
        };
        let strays = self.seen.versions.iter().filter(|(colour, seen)| !is_known(**colour, &seen.revision));
        strays
            .filter(|(_, seen)| self.active_can_serve() || seen.ready == 0)
            .map(|(colour, _)| *colour)
            .collect()
    }
}

fn ensure(version: &Version, replicas: u32) -> Action {
    Action::EnsureVersion { version: version.clone(), replicas }
}
