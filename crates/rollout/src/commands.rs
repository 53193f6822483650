//! What people ask for: each command is answered once, and the answer is kept where they can read it.

use crate::actions::Action;
use crate::observed::{Command, CommandKind};
use crate::release::Release;
use crate::state::{Answer, Kept, Phase, Refused};

/// What was done, or why not.
type Told = Result<String, String>;

impl Release<'_> {
    /// Answers the commands that were not answered yet, in the order in which they were given.
    pub(crate) fn obey(&mut self) {
        let answered = self.state.answer.as_ref().map(|answer| answer.sequence);
        let is_new = |command: &&Command| answered.is_none_or(|answered| command.sequence > answered);
        let mut commands = self.seen.commands.iter().filter(is_new).copied().collect::<Vec<_>>();
        commands.sort_by_key(|command| command.sequence);
        commands.dedup_by_key(|command| command.sequence);
        for Command { sequence, kind } in commands {
            let before = self.events.len();
            let (name, told) = match kind {
                CommandKind::Promote => ("Promote", self.agree()),
                CommandKind::Abort => ("Abort", self.abort()),
                CommandKind::Undo => ("Undo", self.undo()),
                CommandKind::Retry => ("Retry", self.retry()),
            };
            let (done, message) = match told {
                Ok(message) => (true, message),
                Err(message) => (false, message),
            };
            // What was asked comes before what followed from it.
            let event = Action::Event { warning: !done, reason: name.to_owned(), message: message.clone() };
            self.events.insert(before, event);
            self.state.answer = Some(Answer { sequence, done, message });
        }
    }

    fn agree(&mut self) -> Told {
        let generation = self.state.candidate.as_ref().map(|candidate| candidate.generation);
        match (self.state.phase, generation) {
            (Phase::Verifying, Some(generation)) => {
                self.promote("promoted by hand".to_owned());
                Ok(format!("generation {generation} serves"))
            }
            (
                Phase::Preparing | Phase::Draining | Phase::Warming | Phase::Shifting { .. },
                Some(generation),
            ) => {
                self.state.agreed = true;
                // The deadline for what is still missing begins now.
                self.state.followed_ms = self.state.followed_ms.map(|_| self.seen.now_ms);
                Ok(format!(
                    "generation {generation} gets all traffic as soon as its replicas are ready for it"
                ))
            }
            (Phase::RollingBack, _) => Err("the release is being taken back already".to_owned()),
            (Phase::Failed, _) => Err("the first version does not work, so it cannot serve".to_owned()),
            (Phase::RolledBack, _) => {
                Err("the release was taken back: change the service, or retry".to_owned())
            }
            _ => Err("nothing is being released".to_owned()),
        }
    }

    fn abort(&mut self) -> Told {
        let active = self.state.active.as_ref().map(|active| active.generation);
        match (self.state.phase, &self.state.candidate, active) {
            (Phase::RollingBack, _, _) => Err("the release is being taken back already".to_owned()),
            (phase, Some(candidate), Some(active)) if !phase.is_settled() => {
                let told = format!("generation {} is taken back to {active}", candidate.generation);
                self.fail("aborted by hand".to_owned());
                Ok(told)
            }
            (_, Some(_), None) => Err("this is the first version: there is nothing to go back to".to_owned()),
            (Phase::Promoted, _, _) if self.state.kept.is_some() => {
                Err("the release is promoted already: undo goes back while the old version is kept"
                    .to_owned())
            }
            _ => Err("nothing is being released".to_owned()),
        }
    }

    fn undo(&mut self) -> Told {
        if self.state.candidate.is_some() {
            return self.abort();
        }
        let still = |kept: &&Kept| self.seen.now_ms < kept.until_ms;
        let Some(kept) = self.state.kept.as_ref().filter(still).cloned() else {
            return Err("the version before is gone: change the service back to what it was".to_owned());
        };
        let Some(undone) = self.state.active.replace(kept.version.clone()) else {
            return Err("nothing serves".to_owned());
        };
        self.state.kept = None;
        let reason = format!("generation {} was undone by hand", undone.generation);
        self.state.refused = Some(Refused {
            revision: undone.revision.clone(),
            generation: undone.generation,
            reason: reason.clone(),
        });
        self.state.candidate = Some(undone);
        let told = format!("{reason}; generation {} takes over again", kept.version.generation);
        self.begin(Phase::RollingBack, told.clone());
        Ok(told)
    }

    fn retry(&mut self) -> Told {
        match self.state.refused.take() {
            Some(refused) => Ok(format!("generation {} is tried again", refused.generation)),
            None => Err("nothing was taken back that could be tried again".to_owned()),
        }
    }
}
