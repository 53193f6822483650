//! Traffic goes over: at once, in steps, or replica by replica.

use wharf_spec::service::Strategy;

use crate::judge::{Verdict, requests};
use crate::release::{Release, counted};
use crate::state::Phase;

impl Release<'_> {
    /// The new version gets a share of traffic.
    pub(super) fn shift(&mut self, step: u32, weight: u32) {
        let generation = self.state.candidate.as_ref().map_or(0, |candidate| candidate.generation);
        // What a step saw too little of is counted on in the next.
        let seen = self.state.judging.as_ref().map_or(0, |judging| requests(&judging.candidate.sum));
        if seen == 0 || seen >= u64::from(self.policy.min_requests) || weight >= 100 {
            self.begin_period();
        }
        self.begin(
            Phase::Shifting { step, weight },
            format!("generation {generation} gets {weight}% of traffic"),
        );
    }

    /// Step and share with which the new version begins.
    pub(super) fn first_share(&self) -> (u32, u32) {
        match self.strategy() {
            Strategy::Rolling => (1, self.rolled(1)),
            Strategy::Canary if self.first_weight() < 100 => (0, self.first_weight()),
            Strategy::Canary | Strategy::BlueGreen | Strategy::Recreate => (self.last_step(), 100),
        }
    }

    /// Share with which a canary begins.
    pub(crate) fn first_weight(&self) -> u32 {
        if self.takes_no_steps() {
            100
        } else {
            self.policy.steps.first().map_or(100, |portion| portion.weight)
        }
    }

    /// Share that follows a step.
    pub(crate) fn next_weight(&self, step: u32) -> u32 {
        if self.takes_no_steps() {
            100
        } else {
            self.portion(step.saturating_add(1)).map_or(100, |(weight, _)| weight)
        }
    }

    /// A canary's step has lasted as long as it should.
    pub(crate) fn step_is_over(&self, step: u32) -> bool {
        let Some(followed_ms) = self.state.followed_ms else { return false };
        let lasts = self.portion(step).map_or(0, |(_, lasts)| lasts);
        self.takes_no_steps() || self.since(followed_ms) >= lasts
    }

    /// For how long gateways have followed the present share, or since somebody agreed to the next one.
    fn step_lasted(&self) -> u64 {
        self.state.followed_ms.map_or(0, |followed_ms| self.since(followed_ms))
    }

    /// Nobody calls, so steps would show nothing; or somebody has seen enough.
    fn takes_no_steps(&self) -> bool {
        self.sleeps() || self.state.agreed
    }

    fn portion(&self, step: u32) -> Option<(u32, u64)> {
        let steps = match self.strategy() {
            Strategy::Canary => self.policy.steps.as_slice(),
            Strategy::BlueGreen | Strategy::Rolling | Strategy::Recreate => &[],
        };
        let portion = steps.get(usize::try_from(step).ok()?)?;
        Some((portion.weight, portion.for_ms))
    }

    fn last_step(&self) -> u32 {
        match self.strategy() {
            Strategy::Canary => u32::try_from(self.policy.steps.len()).unwrap_or(u32::MAX),
            Strategy::BlueGreen | Strategy::Rolling | Strategy::Recreate => 0,
        }
    }

    /// BlueGreen, Canary and Recreate.
    pub(super) fn shifting(&mut self, step: u32, weight: u32) {
        let Some(candidate) = self.state.candidate.clone() else { return self.lost() };
        let generation = candidate.generation;
        let verdict = match self.watch(self.needed_for(weight)) {
            Ok(verdict) => verdict,
            Err(why) => return self.fail(why),
        };
        if !self.wait_for_gateways() {
            let who = self.who_does_not_follow();
            return self.say(format!("generation {generation} gets {weight}% of traffic: {who}"));
        }
        if weight >= 100 {
            return self.enter(Phase::Verifying, format!("generation {generation} has all traffic"));
        }
        let (Verdict::Good(seen) | Verdict::Open(seen) | Verdict::Bad(seen)) = verdict;
        let share = format!("generation {generation} has {weight}% of traffic: {seen}");
        if !self.step_is_over(step) {
            return self.say(share);
        }
        let next = self.next_weight(step);
        if next >= 100 && self.waits_for_agreement(&share) {
            return;
        }
        if let Some(missing) = self.missing(self.needed_for(next)) {
            let lasts = self.portion(step).map_or(0, |(_, lasts)| lasts);
            if self.step_lasted() >= self.policy.deadline_ms.saturating_add(lasts) {
                return self.fail(self.too_late(&missing));
            }
            return self.say(format!("{share}; {next}% needs more: {missing}"));
        }
        let following = if next >= 100 { self.last_step() } else { step.saturating_add(1) };
        self.shift(following, next);
    }

    /// Rolling: `step` replicas have been replaced.
    pub(super) fn rolling(&mut self, step: u32, weight: u32) {
        let Some(candidate) = self.state.candidate.clone() else { return self.lost() };
        let (generation, whole) = (candidate.generation, self.whole());
        if let Err(why) = self.watch(step.min(whole)) {
            return self.fail(why);
        }
        if weight != self.rolled(step) {
            // The scaler wants another number: the same replicas are another share.
            return self.shift(step.min(whole), self.rolled(step));
        }
        let said = format!("generation {generation} has {step} of {}", counted(whole, "replica"));
        if !self.wait_for_gateways() {
            return self.say(format!("{said}, {weight}% of traffic: {}", self.who_does_not_follow()));
        }
        if step >= whole {
            return self.enter(Phase::Verifying, format!("generation {generation} has all traffic"));
        }
        let last = step.saturating_add(1) >= whole;
        if last && self.waits_for_agreement(&said) {
            return;
        }
        let next = step.saturating_add(1);
        let missing = self.missing(next);
        match missing {
            None if self.rolls_on(step) => self.shift(next, self.rolled(next)),
            None => self.say(format!("{said}; one of the old version goes")),
            Some(missing) => {
                if self.step_lasted() >= self.policy.deadline_ms {
                    return self.fail(self.too_late(&missing));
                }
                self.say(format!("{said}; the next one: {missing}"));
            }
        }
    }

    /// Share of traffic of so many replicas.
    fn rolled(&self, replaced: u32) -> u32 {
        let whole = u64::from(self.whole());
        let share = (u64::from(replaced) * 100 + whole / 2) / whole;
        match replaced >= self.whole() {
            true => 100,
            // Not everything before the last one is there, and not nothing for the first.
            false => u32::try_from(share).unwrap_or(99).clamp(1, 99),
        }
    }
}
