//! Nothing is being released: whether something should be, and what becomes of the version before.

use wharf_spec::service::Strategy;

use crate::release::Release;
use crate::state::{Kept, Phase};

impl Release<'_> {
    pub(super) fn settled(&mut self) {
        self.adopt();
        if self.wants_release() {
            // Before the first object there is nothing to release.
            if !self.seen.desired.revision.is_empty() {
                self.prepare();
            }
        } else if self.state.phase == Phase::RolledBack && self.state.refused.is_none() {
            let generation = self.state.active.as_ref().map_or(0, |active| active.generation);
            self.enter(Phase::Idle, format!("generation {generation} serves, and is what is asked for"));
        }
    }

    /// The candidate becomes the active version, the active one is kept for a while.
    pub(crate) fn promote(&mut self, why: String) {
        let (until_ms, replicas) = match self.strategy() {
            Strategy::BlueGreen | Strategy::Canary => {
                let until = self.seen.now_ms.saturating_add(self.policy.keep_old_for_ms);
                (until, self.active_seen().ready)
            }
            // Its replicas have gone already.
            Strategy::Rolling | Strategy::Recreate => (self.seen.now_ms, 0),
        };
        let old = self.state.active.take();
        self.state.kept = old.map(|version| Kept { version, replicas, until_ms });
        self.succeed(why);
    }

    /// The version before goes when its time is over, and never grows: a service that went to sleep does not wake it.
    pub(crate) fn keep_house(&mut self) {
        let Some(kept) = &mut self.state.kept else { return };
        kept.replicas = kept.replicas.min(self.seen.desired.replicas);
        let over = self.seen.now_ms >= kept.until_ms;
        if over && !self.seen.versions.contains_key(&kept.version.colour) {
            self.state.kept = None;
        }
    }
}
