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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Refused, Version};
    use wharf_spec::service::Colour;

    #[test]
    fn a_view_tells_of_the_generation_that_the_release_is_about() {
        let version =
            |generation| Version { colour: Colour::Blue, generation, revision: generation.to_string() };
        let serving = State { active: Some(version(3)), phase: Phase::Promoted, ..State::default() };
        assert_eq!(describe(&serving).generation, 3);
        let candidate = Some(version(4));
        let shifting = State { candidate, phase: Phase::Shifting { step: 0, weight: 5 }, ..serving.clone() };
        let view = describe(&shifting);
        assert_eq!(
            (view.generation, view.phase.as_str(), view.strategy.as_str()),
            (4, "Shifting", "BlueGreen")
        );
        let refused = Some(Refused { revision: "4".into(), generation: 4, reason: "slow".into() });
        assert_eq!(describe(&State { refused, phase: Phase::RolledBack, ..serving }).generation, 4);
    }
}
