//! One step: a table of contents.

use crate::actions::Action;
use crate::observed::Observed;
use crate::phases::Outcome;
use crate::policy::Policy;
use crate::release::Release;
use crate::state::State;

/// What follows from a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// To be kept before anything is done.
    pub state: State,
    /// To be done, in this order.
    pub actions: Vec<Action>,
    /// When time alone may change something, in milliseconds since 1970; none if only an event can.
    pub look_again_ms: Option<u64>,
}

/// Looks at what there is, and says what should be. The same input gives the same answer, and a second look at the same things gives no
/// further transition and no event.
pub fn step(state: &State, observed: &Observed, policy: &Policy) -> Step {
    let mut release = Release::new(state.clone(), observed, policy);
    release.mend();
    release.adopt();
    release.follow_generations();
    release.count();
    release.follow_revisions();
    release.obey();
    release.forget_what_is_not_asked_for();
    // Each phase decides whether it is over; those that are over at once are passed in one step. No way through is longer.
    for _ in 0..PHASES_AT_ONCE {
        match release.advance() {
            Outcome::Moved => {}
            Outcome::Stays => break,
        }
    }
    release.keep_house();
    let actions = release.actions();
    let look_again_ms = release.look_again();
    Step { state: release.state, actions, look_again_ms }
}

const PHASES_AT_ONCE: usize = 16;
