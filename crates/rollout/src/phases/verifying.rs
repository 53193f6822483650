//! The new version has all traffic; until it is promoted the old one could take it back at once.

use crate::judge::{Verdict, seconds};
use crate::release::{Release, counted};
use crate::{SETTLE_MS, VERIFY_LIMIT_MS};

impl Release<'_> {
    pub(super) fn verifying(&mut self) {
        let Some(candidate) = self.state.candidate.clone() else { return self.lost() };
        let generation = candidate.generation;
        if self.sleeps() {
            // One replica answered; nobody calls any more whose requests could be counted.
            let warmup = self.candidate_seen().warmup_failed.as_ref();
            return match (warmup, self.verdict()) {
                (Some(why), _) => self.fail(format!("a warm-up prompt was not answered: {why}")),
                (None, Verdict::Bad(why)) => self.fail(why),
                (None, Verdict::Good(_) | Verdict::Open(_)) => {
                    self.promote(format!(
                        "verified without traffic, the service sleeps: {}",
                        self.how_asleep()
                    ));
                }
            };
        }
        let verdict = match self.watch(self.whole()) {
            Ok(verdict) => verdict,
            Err(why) => return self.fail(why),
        };
        let watched = self.since(self.state.since_ms);
        match verdict {
            Verdict::Good(why) if watched >= SETTLE_MS => self.promote(why),
            Verdict::Good(why) | Verdict::Bad(why) => {
                self.say(format!("generation {generation} is watched: {why}"))
            }
            Verdict::Open(why) if watched >= VERIFY_LIMIT_MS => {
                self.promote(format!("after {}, {why}", seconds(VERIFY_LIMIT_MS as f64)));
            }
            Verdict::Open(why) => self.say(format!("generation {generation} is watched: {why}")),
        }
    }

    fn how_asleep(&self) -> String {
        match self.policy.prompts {
            0 => "a replica became ready".to_owned(),
            n => format!("a replica answered {}", counted(n, "warm-up prompt")),
        }
    }
}
