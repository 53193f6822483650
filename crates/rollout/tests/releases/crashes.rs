//! Whenever and however the driver dies, the end is the same.

use crate::driver::{DEATHS, Scenario};
use crate::scenarios;

fn survives(scenario: &Scenario) {
    let whole = scenario.run();
    for &turn in &whole.turns {
        for death in DEATHS {
            let story = scenario.run_with(|now| (now == turn).then_some(death));
            let what =
                format!("{}, dies {death:?} at {turn}\n{}\n{}", scenario.name, whole.trace, story.trace);
            assert_eq!(story.end(), whole.end(), "{what}");
        }
    }
}

#[test]
fn a_driver_that_dies_at_any_step_comes_to_the_same_end() {
    for scenario in scenarios::all() {
        survives(&scenario);
    }
}

#[test]
fn a_driver_that_dies_at_every_third_look_comes_to_the_same_end() {
    for scenario in scenarios::all() {
        let whole = scenario.run();
        let story = scenario.run_with(|now| (now % 3 == 0).then_some(DEATHS[(now / 3 % 4) as usize]));
        assert_eq!(story.end(), whole.end(), "{}\n{}\n{}", scenario.name, whole.trace, story.trace);
    }
}
