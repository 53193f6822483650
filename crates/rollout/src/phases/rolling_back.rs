//! The new version gives its traffic back and goes; what served before serves.

use wharf_spec::service::Strategy;

use crate::release::Release;
use crate::state::Phase;

impl Release<'_> {
    pub(super) fn rolling_back(&mut self) {
        if self.state.active.is_none() && self.candidate_seen().ready > 0 {
            return self.succeed("it answers after all, and nothing else does".to_owned());
        }
        if self.candidate_is_there() {
            return self.say_what_holds_it();
        }
        let revision = self.state.candidate.as_ref().map(|version| version.revision.as_str());
        let refused =
            self.state.refused.as_ref().filter(|refused| revision.is_none_or(|r| r == refused.revision));
        let (superseded, why) =
            (refused.is_none(), refused.map_or(String::new(), |refused| refused.reason.clone()));
        // With Recreate the old version starts only now, unless the next one takes its place at once.
        let comes_back = self.strategy() == Strategy::Recreate && self.state.active.is_some();
        if comes_back && !self.active_can_serve() && !(superseded && self.wants_release()) {
            return;
        }
        self.state.candidate = None;
        self.state.agreed = false;
        let serving = self.state.active.as_ref().map(|active| active.generation);
        match (superseded, serving) {
            (false, Some(generation)) => {
                self.enter(Phase::RolledBack, format!("generation {generation} serves: {why}"))
            }
            (true, Some(generation)) => self.enter(Phase::Idle, format!("generation {generation} serves")),
            (_, None) => self.enter(Phase::Idle, "nothing serves yet".to_owned()),
        }
    }

    /// A version that is taken back stays where nothing else could answer.
    fn say_what_holds_it(&mut self) {
        let (Some(candidate), Some(active), Some(refused)) =
            (&self.state.candidate, &self.state.active, &self.state.refused)
        else {
            return;
        };
        if self.active_can_serve() || self.strategy() == Strategy::Recreate {
            return;
        }
        let why = self
            .active_seen()
            .failure
            .as_ref()
            .map_or(String::new(), |failure| format!(" ({})", failure.reason));
        let (old, new) = (active.generation, candidate.generation);
        let said = format!(
            "generation {new} is taken back as soon as a replica of {old} is ready{why}: {}",
            refused.reason
        );
        self.say(said);
    }
}
