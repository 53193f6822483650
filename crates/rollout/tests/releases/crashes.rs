//! Whenever and however the driver dies, the end is the same.

use crate::driver::{DEATHS, Death};
use crate::scenarios;

fn survives(death: Death) {
    for scenario in scenarios::all() {
        let whole = scenario.run();
        for turn in &whole.turns {
            let at = turn.world.now_s + 1;
            let story = scenario.run_from(turn.clone(), |now| (now == at).then_some(death));
            let what = format!("{}, dies {death:?} at {at}\n{}\n{}", scenario.name, whole.trace, story.trace);
            assert_eq!(story.end(), whole.end(), "{what}");
        }
    }
}

#[test]
fn a_driver_that_dies_before_it_kept_its_state_comes_to_the_same_end() {
    survives(Death::BeforeKeeping);
}

#[test]
fn a_driver_that_dies_in_the_middle_of_its_actions_comes_to_the_same_end() {
    survives(Death::HalfDone);
}

#[test]
fn a_driver_that_could_not_keep_its_state_comes_to_the_same_end() {
    survives(Death::NotKept);
}

#[test]
fn a_driver_that_does_everything_twice_comes_to_the_same_end() {
    survives(Death::Twice);
}

#[test]
fn a_driver_that_dies_at_every_third_look_comes_to_the_same_end() {
    for scenario in scenarios::all() {
        let whole = scenario.run();
        let story =
            scenario.run_with(|now| (now.is_multiple_of(3)).then_some(DEATHS[(now / 3 % 4) as usize]));
        assert_eq!(story.end(), whole.end(), "{}\n{}\n{}", scenario.name, whole.trace, story.trace);
    }
}
