//! One file for each part of the way. Each decides whether its phase is over, and says why or what it waits for.

mod draining;
mod preparing;
mod rolling_back;
mod settled;
mod shifting;
mod timers;
mod verifying;
mod warming;
mod watch;

use wharf_spec::service::Strategy;

use crate::release::Release;
use crate::state::Phase;

/// What became of a phase at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Another one has begun.
    Moved,
    /// It goes on.
    Stays,
}

impl Release<'_> {
    /// The present phase decides.
    pub(crate) fn advance(&mut self) -> Outcome {
        let before = self.state.phase;
        match before {
            Phase::Idle | Phase::Promoted | Phase::RolledBack => self.settled(),
            Phase::Preparing => self.preparing(),
            Phase::Draining => self.draining(),
            Phase::Warming => self.warming(),
            Phase::Shifting { step, weight } => match self.strategy() {
                Strategy::Rolling => self.rolling(step, weight),
                Strategy::BlueGreen | Strategy::Canary | Strategy::Recreate => self.shifting(step, weight),
            },
            Phase::Verifying => self.verifying(),
            Phase::RollingBack => self.rolling_back(),
            Phase::Failed => self.failed(),
        }
        if self.state.phase == before { Outcome::Stays } else { Outcome::Moved }
    }
}
