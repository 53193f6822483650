//! Replicas of the new version start and answer their first prompts; no traffic is meant for it yet.

use wharf_spec::service::Strategy;

use crate::RESTARTS_LIMIT;
use crate::judge::seconds;
use crate::observed::Prepared;
use crate::release::{Release, counted};
use crate::state::Phase;

impl Release<'_> {
    pub(super) fn warming(&mut self) {
        let Some(candidate) = self.state.candidate.clone() else { return self.lost() };
        let generation = candidate.generation;
        if let Some(why) = self.will_not_start() {
            return self.fail(why);
        }
        let needed = self.needed_first();
        if let Some(missing) = self.missing(needed) {
            if self.since(self.state.since_ms) >= self.policy.deadline_ms {
                return self.fail(self.too_late(&missing));
            }
            return self.say(format!("generation {generation}: {missing}"));
        }
        if self.state.active.is_none() {
            return self.succeed(self.how_warmed());
        }
        if self.takes_everything_at_once() {
            let ready = format!("generation {generation} is ready and has no traffic yet");
            if self.waits_for_agreement(&ready) {
                return;
            }
        }
        let (step, weight) = self.first_share();
        self.shift(step, weight);
    }

    /// The first share is all there is to share. With Recreate somebody agreed before the old version went.
    fn takes_everything_at_once(&self) -> bool {
        match self.strategy() {
            Strategy::BlueGreen => true,
            Strategy::Canary => self.first_weight() >= 100,
            Strategy::Rolling => self.whole() == 1,
            Strategy::Recreate => false,
        }
    }

    /// The first version ever failed. Whoever runs its replicas goes on trying.
    pub(super) fn failed(&mut self) {
        if self.state.candidate.is_none() {
            return self.lost();
        }
        if self.state.active.is_some() {
            return self.fail(self.state.reason.clone());
        }
        match &self.seen.desired.prepared {
            Prepared::Failed(why) => return self.say(why.clone()),
            Prepared::Pending(_) => {
                return self.enter(Phase::Preparing, "its model is prepared again".to_owned());
            }
            Prepared::Ready => {}
        }
        if !self.candidate_is_there() && self.state.judging.is_none() {
            // It failed before anything ran, and its model is there now.
            return self.enter(Phase::Preparing, "its model is there after all".to_owned());
        }
        match (self.will_not_start(), self.missing(self.needed_first())) {
            (Some(why), _) => self.say(why),
            (None, None) => self.succeed(self.how_warmed()),
            // What made it fail is gone, and it starts again: the reason stays until there is news.
            (None, Some(_)) => {}
        }
    }

    /// Why waiting for replicas of the candidate is in vain.
    fn will_not_start(&self) -> Option<String> {
        let seen = self.candidate_seen();
        if let Some(why) = &seen.warmup_failed {
            return Some(format!("a warm-up prompt was not answered: {why}"));
        }
        let failure =
            seen.failure.as_ref().filter(|failure| failure.lasting || failure.restarts >= RESTARTS_LIMIT)?;
        Some(match failure.restarts {
            0 => failure.reason.clone(),
            n => format!("{}; it was started again {}", failure.reason, counted(n, "time")),
        })
    }

    /// What the candidate lacks for so many replicas under traffic, in words.
    pub(super) fn missing(&self, needed: u32) -> Option<String> {
        let seen = self.candidate_seen();
        let why = seen.failure.as_ref().map_or(String::new(), |failure| format!(": {}", failure.reason));
        if seen.ready < needed {
            return Some(format!("{} of {} ready{why}", seen.ready, counted(needed, "replica")));
        }
        let cold = self.policy.prompts > 0 && seen.warmed < needed;
        let prompts = counted(self.policy.prompts, "warm-up prompt");
        cold.then(|| format!("{} of {} answered {prompts}", seen.warmed, counted(needed, "replica")))
    }

    /// A deadline has passed.
    pub(super) fn too_late(&self, missing: &str) -> String {
        format!("{missing}, after {} (rollout.deadline)", seconds(self.policy.deadline_ms as f64))
    }

    pub(super) fn how_warmed(&self) -> String {
        match self.policy.prompts {
            0 => "its replicas are ready".to_owned(),
            n => format!("its replicas are ready and answered {} each", counted(n, "warm-up prompt")),
        }
    }
}
