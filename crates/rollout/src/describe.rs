//! A state in the words of the console and of `wharf rollout status`.

use wharf_api::console::RolloutView;
use wharf_spec::service::Strategy;

use crate::state::{Phase, State};

/// The release under way, or the last one.
pub fn describe(state: &State) -> RolloutView {
    let settled = match state.phase {
        // What was taken back is what the release was about, though it is gone.
        Phase::RolledBack => state.refused.as_ref().map(|refused| refused.generation),
        _ => None,
    };
    let brought = state.candidate.as_ref().or(state.active.as_ref()).map(|version| version.generation);
    RolloutView {
        phase: state.phase.name().to_owned(),
        reason: state.reason.clone(),
        strategy: strategy_name(state.strategy).to_owned(),
        generation: settled.or(brought).unwrap_or(0),
        waits_for_promotion: state.waits_for_promotion,
        since_ms: state.since_ms,
    }
}

fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::BlueGreen => "BlueGreen",
        Strategy::Canary => "Canary",
        Strategy::Rolling => "Rolling",
        Strategy::Recreate => "Recreate",
    }
}
