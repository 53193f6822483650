//! What every phase works with: the state as it becomes, what is seen, the policy, and the events so far.

use wharf_spec::service::{Colour, Strategy};

use crate::actions::Action;
use crate::judge::{Verdict, judge, requests};
use crate::observed::{Observed, VersionSeen};
use crate::policy::Policy;
use crate::state::{Judging, Phase, Refused, State, Version};
use crate::tally::Tally;

/// A step while it is being taken.
pub(crate) struct Release<'a> {
    pub(crate) state: State,
    pub(crate) seen: &'a Observed,
    pub(crate) policy: &'a Policy,
    pub(crate) events: Vec<Action>,
}

/// Of what nothing is there.
const NOTHING: &VersionSeen = &VersionSeen {
    generation: 0,
    revision: String::new(),
    ready: 0,
    starting: 0,
    warmed: 0,
    warmup_failed: None,
    failure: None,
    in_flight: 0,
};

impl<'a> Release<'a> {
    pub(crate) fn new(state: State, seen: &'a Observed, policy: &'a Policy) -> Release<'a> {
        Release { state, seen, policy, events: Vec::new() }
    }

    /// What is there of a version; nothing if its colour shows another revision.
    pub(crate) fn of(&self, version: &Version) -> &'a VersionSeen {
        self.seen
            .versions
            .get(&version.colour)
            .filter(|seen| seen.revision == version.revision)
            .unwrap_or(NOTHING)
    }

    pub(crate) fn active_seen(&self) -> &'a VersionSeen {
        self.state.active.as_ref().map_or(NOTHING, |version| self.of(version))
    }

    pub(crate) fn candidate_seen(&self) -> &'a VersionSeen {
        self.state.candidate.as_ref().map_or(NOTHING, |version| self.of(version))
    }

    /// Nobody calls, and nothing should run.
    pub(crate) fn sleeps(&self) -> bool {
        self.seen.desired.replicas == 0
    }

    /// Milliseconds since a moment.
    pub(crate) fn since(&self, moment_ms: u64) -> u64 {
        self.seen.now_ms.saturating_sub(moment_ms)
    }

    /// Goes into a phase, and says so to everybody; within one, only says why.
    pub(crate) fn enter(&mut self, phase: Phase, reason: String) {
        if self.state.phase == phase {
            self.state.reason = reason;
        } else {
            self.begin(phase, reason);
        }
    }

    /// Goes into a phase, even if it is the same: its time begins anew.
    pub(crate) fn begin(&mut self, phase: Phase, reason: String) {
        let warning = matches!(phase, Phase::RollingBack | Phase::RolledBack | Phase::Failed);
        self.events.push(Action::Event { warning, reason: phase.name().to_owned(), message: reason.clone() });
        self.state.phase = phase;
        self.state.reason = reason;
        self.state.since_ms = self.seen.now_ms;
        self.state.followed_ms = None;
        self.state.short = None;
        self.state.waits_for_promotion = false;
        if !phase.runs_candidate() {
            self.state.judging = None;
        }
    }

    /// Says why it is where it is.
    pub(crate) fn say(&mut self, reason: String) {
        self.state.reason = reason;
    }

    /// Waits for `wharf rollout promote`. True while nobody has agreed.
    pub(crate) fn waits_for_agreement(&mut self, why: &str) -> bool {
        let waits = self.policy.pause && !self.state.agreed;
        if waits {
            self.say(format!("{why}; waits for `wharf rollout promote`, as rollout.pause says"));
        }
        self.state.waits_for_promotion = waits;
        waits
    }

    /// The candidate does not work. It is taken back, unless there is nothing to go back to.
    pub(crate) fn fail(&mut self, reason: String) {
        let (Some(candidate), Some(active)) = (&self.state.candidate, &self.state.active) else {
            self.enter(Phase::Failed, reason);
            return;
        };
        self.state.refused = Some(Refused {
            revision: candidate.revision.clone(),
            generation: candidate.generation,
            reason: reason.clone(),
        });
        if self.state.phase == Phase::Preparing {
            // Nothing of it ran, so nothing has to go; a version that is kept stays.
            let message = format!("generation {} serves: {reason}", active.generation);
            self.state.candidate = None;
            self.state.agreed = false;
            return self.enter(Phase::RolledBack, message);
        }
        let message =
            format!("generation {} is taken back to {}: {reason}", candidate.generation, active.generation);
        self.enter(Phase::RollingBack, message);
    }

    /// The candidate serves from now on.
    pub(crate) fn succeed(&mut self, reason: String) {
        self.state.active = self.state.candidate.take();
        self.state.agreed = false;
        let generation = self.state.active.as_ref().map_or(0, |version| version.generation);
        self.enter(Phase::Promoted, format!("generation {generation} serves: {reason}"));
    }

    /// A period begins: counts start at zero, and what the old version did until now is what it did before.
    pub(crate) fn begin_period(&mut self) {
        let before = self.state.judging.take().unwrap_or_default();
        let candidate = self.tally(self.state.candidate.as_ref());
        let active = self.tally(self.state.active.as_ref());
        // The old version may have no traffic left in this period: the last one in which it had enough is kept.
        let enough = requests(&before.active.sum) >= u64::from(self.policy.min_requests);
        let before = if enough { before.active.sum } else { before.before };
        self.state.judging = Some(Judging { candidate, active, before });
    }

    fn tally(&self, version: Option<&Version>) -> Tally {
        version.map_or_else(Tally::default, |version| Tally::begin(&self.seen.gateways, version.colour))
    }

    /// Counts what happened since the last look.
    pub(crate) fn count(&mut self) {
        let Some(judging) = &mut self.state.judging else { return };
        if let Some(version) = &self.state.candidate {
            judging.candidate.look(&self.seen.gateways, version.colour);
        }
        if let Some(version) = &self.state.active {
            judging.active.look(&self.seen.gateways, version.colour);
        }
    }

    /// What is to be thought of the candidate's answers in this period.
    pub(crate) fn verdict(&self) -> Verdict {
        let nothing = Judging::default();
        let judging = self.state.judging.as_ref().unwrap_or(&nothing);
        let fewest = u64::from(self.policy.min_requests);
        let beside =
            if requests(&judging.active.sum) >= fewest { &judging.active.sum } else { &judging.before };
        judge(&judging.candidate.sum, Some(beside), self.policy)
    }

    /// The colour for a next version.
    pub(crate) fn free_colour(&self) -> Colour {
        if let Some(active) = &self.state.active {
            return active.colour.other();
        }
        let wanted = &self.seen.desired.revision;
        let there = self.seen.versions.iter().find(|(_, seen)| &seen.revision == wanted);
        there.map_or(Colour::Blue, |(colour, _)| *colour)
    }

    /// The strategy in force: that of the release, not what the object says by now.
    pub(crate) fn strategy(&self) -> Strategy {
        self.state.strategy
    }
}

/// `1 replica`, `2 replicas`.
pub(crate) fn counted(n: u32, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
