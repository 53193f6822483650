//! What takes back a version that has traffic: its answers, or its replicas.

use crate::UNREADY_LIMIT_MS;
use crate::judge::{Verdict, seconds};
use crate::release::{Release, counted};
use crate::state::Shortage;

impl Release<'_> {
    /// What speaks against the candidate, or how its answers look.
    pub(super) fn watch(&mut self, needed: u32) -> Result<Verdict, String> {
        if let Some(why) = self.broken(needed) {
            return Err(why);
        }
        match self.verdict() {
            Verdict::Bad(why) => Err(why),
            verdict @ (Verdict::Good(_) | Verdict::Open(_)) => Ok(verdict),
        }
    }

    /// Under traffic a crash counts at once: it has cost requests.
    fn broken(&mut self, needed: u32) -> Option<String> {
        let seen = self.candidate_seen();
        if let Some(why) = &seen.warmup_failed {
            return Some(format!("a warm-up prompt was not answered: {why}"));
        }
        if let Some(failure) = seen.failure.as_ref().filter(|failure| failure.lasting || failure.restarts > 0)
        {
            return Some(format!("a replica with traffic {}", failure.reason));
        }
        if seen.ready == 0 && self.active_seen().ready > 0 {
            return Some("none of its replicas is ready any more".to_owned());
        }
        if seen.ready >= needed {
            self.state.short = None;
            return None;
        }
        // More may be wanted than before; those take as long as they take to start.
        let starting = seen.starting > 0;
        let now_ms = self.seen.now_ms;
        let short = self
            .state
            .short
            .filter(|short| short.starting == starting)
            .unwrap_or(Shortage { since_ms: now_ms, starting });
        self.state.short = Some(short);
        let limit = if starting { self.policy.deadline_ms } else { UNREADY_LIMIT_MS };
        let why = seen.failure.as_ref().map_or(String::new(), |failure| format!(": {}", failure.reason));
        (self.since(short.since_ms) >= limit).then(|| {
            format!(
                "{} of {} ready for {}{why}",
                seen.ready,
                counted(needed, "replica"),
                seconds(limit as f64)
            )
        })
    }
}
