//! Before anything of the new version runs: its model, its colour, its room.

use wharf_spec::service::Strategy;

use crate::observed::{Prepared, Room};
use crate::release::Release;
use crate::state::{Phase, Version};

impl Release<'_> {
    pub(crate) fn is_prepared(&self) -> bool {
        self.seen.desired.prepared == Prepared::Ready
    }

    pub(super) fn preparing(&mut self) {
        let Some(candidate) = self.state.candidate.clone() else { return self.lost() };
        let generation = candidate.generation;
        match &self.seen.desired.prepared {
            Prepared::Pending(why) => {
                return self.say(format!("generation {generation} waits for its model: {why}"));
            }
            Prepared::Failed(why) => return self.fail(why.clone()),
            Prepared::Ready => {}
        }
        if !self.colour_is_free(&candidate) {
            let colour = candidate.colour.name();
            return self.say(format!(
                "generation {generation} waits until the version before it, {colour}, is gone"
            ));
        }
        if self.strategy() == Strategy::Recreate && self.state.active.is_some() {
            let pause = format!("generation {generation} is prepared; the service would pause for it");
            if !self.waits_for_agreement(&pause) {
                let goes = format!("the old version finishes and goes before generation {generation} comes");
                self.enter(Phase::Draining, goes);
            }
            return;
        }
        if let Room::Lacks(why) = &self.seen.desired.room {
            return self.say(format!("generation {generation} has no room: {why}"));
        }
        self.start(generation);
    }

    /// Replicas of the candidate start.
    pub(super) fn start(&mut self, generation: i64) {
        self.enter(Phase::Warming, format!("replicas of generation {generation} start"));
        self.begin_period();
    }

    /// The version before has given up its colour. If it is the very revision that is wanted, it simply goes on.
    fn colour_is_free(&mut self, candidate: &Version) -> bool {
        if let Some(kept) = &mut self.state.kept {
            let is_it =
                kept.version.revision == candidate.revision && kept.version.colour == candidate.colour;
            if !is_it && self.seen.versions.contains_key(&kept.version.colour) {
                kept.until_ms = kept.until_ms.min(self.seen.now_ms);
                return false;
            }
            self.state.kept = None;
        }
        let there = self.seen.versions.get(&candidate.colour);
        there.is_none_or(|seen| seen.revision == candidate.revision)
    }

    /// A state that names no candidate in a phase that needs one was written by hand: nothing is being released.
    pub(super) fn lost(&mut self) {
        self.enter(Phase::Idle, "the state named no version to release".to_owned());
    }
}
