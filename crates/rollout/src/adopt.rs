//! Keeping up with the object: what is found without a state, generations that restart nothing, revisions that replace a release.

use wharf_spec::service::Strategy;

use crate::observed::VersionSeen;
use crate::release::Release;
use crate::state::{Kept, Phase, Version};

impl Release<'_> {
    /// A state that no step could have led to was written by hand. What contradicts the version that serves is forgotten, and what is left over
    /// of it goes as a stray.
    pub(crate) fn mend(&mut self) {
        let state = &mut self.state;
        let active = state.active.as_ref().map(|active| active.colour);
        let releases = !matches!(state.phase, Phase::Idle | Phase::Promoted | Phase::RolledBack);
        state.candidate = state.candidate.take().filter(|version| releases && Some(version.colour) != active);
        let kept_is_possible = |kept: &Kept| {
            let beside = state.phase == Phase::Preparing || state.candidate.is_none();
            active.is_some() && beside && Some(kept.version.colour) != active
        };
        state.kept = state.kept.take().filter(kept_is_possible);
        state.judging = state.judging.take().filter(|_| state.phase.runs_candidate());
    }

    /// Without a state but with a version that serves, that version is the active one: a lost file must not take a service down.
    pub(crate) fn adopt(&mut self) {
        let state = &self.state;
        if state.active.is_some() || state.candidate.is_some() {
            return;
        }
        let wanted = &self.seen.desired.revision;
        let rank = |seen: &VersionSeen| (&seen.revision == wanted, seen.ready);
        let serving = self.seen.versions.iter().filter(|(_, seen)| seen.ready > 0);
        if let Some((colour, seen)) = serving.max_by_key(|(_, seen)| rank(seen)) {
            let (generation, revision) = (seen.generation, seen.revision.clone());
            self.state.active = Some(Version { colour: *colour, generation, revision });
            self.state.kept = None;
            self.begin(Phase::Idle, format!("generation {generation} was found serving"));
            self.follow_generations();
        }
    }

    /// A change of scaling, labels or observability alone is a new generation of the same revision: nothing is released.
    pub(crate) fn follow_generations(&mut self) {
        let desired = &self.seen.desired;
        let kept = self.state.kept.as_mut().map(|Kept { version, .. }| version);
        for version in [self.state.active.as_mut(), self.state.candidate.as_mut(), kept].into_iter().flatten()
        {
            if version.revision == desired.revision {
                version.generation = desired.generation;
            }
        }
        self.forget_what_is_not_asked_for();
    }

    /// A revision that was taken back may be tried again once something else was asked for.
    pub(crate) fn forget_what_is_not_asked_for(&mut self) {
        let wanted = &self.seen.desired.revision;
        self.state.refused = self.state.refused.take().filter(|refused| &refused.revision == wanted);
    }

    /// The newest revision replaces the one that is being released.
    pub(crate) fn follow_revisions(&mut self) {
        let desired = &self.seen.desired;
        let Some(candidate) = self.state.candidate.clone() else { return };
        if candidate.revision == desired.revision || self.state.phase == Phase::RollingBack {
            return;
        }
        let (old, new) = (candidate.generation, desired.generation);
        let nothing_runs = match self.state.phase {
            Phase::Preparing | Phase::Draining => true,
            Phase::Failed => !self.candidate_is_there(),
            _ => false,
        };
        match self
            .state
            .active
            .as_ref()
            .map(|active| (active.revision == desired.revision, active.generation))
        {
            Some((true, serving)) if nothing_runs => {
                self.state.candidate = None;
                self.enter(
                    Phase::Idle,
                    format!("generation {serving} serves, and is what is asked for again"),
                );
            }
            Some((true, serving)) => {
                let reason = format!(
                    "generation {old} is taken back: generation {serving}, which serves, is asked for again"
                );
                self.enter(Phase::RollingBack, reason);
            }
            Some((false, _)) | None if nothing_runs => self.prepare(),
            None if self.candidate_seen().ready > 0 => {
                // It serves, so it is more than an attempt: the next one is a release beside it.
                self.succeed("it answers, and a newer generation waits".to_owned());
            }
            Some((false, _)) | None => {
                let reason = format!(
                    "generation {old} makes room for generation {new}, which came before it was promoted"
                );
                self.enter(Phase::RollingBack, reason);
            }
        }
    }

    /// Something else is asked for than what serves.
    pub(crate) fn wants_release(&self) -> bool {
        let wanted = &self.seen.desired.revision;
        let serves = self.state.active.as_ref().is_some_and(|active| &active.revision == wanted);
        let refused = self.state.refused.as_ref().is_some_and(|refused| &refused.revision == wanted);
        !serves && !refused
    }

    /// A release begins.
    pub(crate) fn prepare(&mut self) {
        let desired = &self.seen.desired;
        let (generation, revision) = (desired.generation, desired.revision.clone());
        let colour = self.free_colour();
        self.state.candidate = Some(Version { colour, generation, revision });
        self.state.agreed = false;
        self.state.strategy = match self.state.active {
            Some(_) => self.policy.strategy,
            // Nothing is there that could be replaced one by one, or first.
            None => Strategy::BlueGreen,
        };
        let old = self.state.active.as_ref().map(|active| active.generation);
        let after = old.map_or(String::new(), |old| format!(" after generation {old}"));
        self.begin(Phase::Preparing, format!("generation {generation} is prepared{after}"));
    }
}
