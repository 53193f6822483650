//! Whatever is seen in whatever state: no panic, and a second look changes nothing. Whatever the world does: it comes to an end.

use proptest::prelude::*;
use serde_json::json;
use wharf_api::demand::VersionCounts;
use wharf_rollout::{
    Action, Colour, Command, CommandKind, Desired, Failure, GatewaySeen, Judging, Kept, Observed, Phase,
    Policy, Prepared, Refused, Room, Shortage, State, Strategy as How, Tally, Traffic, Version, VersionSeen,
    describe, step,
};
use wharf_spec::service::Rollout;

use crate::driver::{DEATHS, Do, Scenario};
use crate::world::{Behaviour, Gateway};

fn revision() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["r1", "r2", "r3", ""]).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, 15..30_u64, Just(1_000_000), Just(u64::MAX), any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![0..4_u32, 0..4_u32, Just(u32::MAX)]
}

fn moment() -> impl Strategy<Value = u64> {
    prop_oneof![900_000..1_500_000_u64, number()]
}

fn colour() -> impl Strategy<Value = Colour> {
    prop::sample::select(vec![Colour::Blue, Colour::Green])
}

fn version() -> impl Strategy<Value = Version> {
    (colour(), any::<i64>(), revision()).prop_map(|(colour, generation, revision)| Version {
        colour,
        generation,
        revision,
    })
}

fn counts() -> impl Strategy<Value = VersionCounts> {
    (number(), number(), prop::collection::vec(number(), 0..17))
        .prop_map(|(answered, failed, first_token)| VersionCounts { answered, failed, first_token })
}

fn gateway() -> impl Strategy<Value = GatewaySeen> {
    let share = (colour(), small()).prop_map(|(colour, weight)| Traffic {
        colour: colour.into(),
        weight,
        generation: 1,
    });
    let counts = prop::collection::btree_map(colour(), counts(), 0..3);
    let name = prop::sample::select(vec!["g1", "g2"]);
    (name, 0..3_u64, prop::collection::vec(share, 0..3), counts).prop_map(|(name, epoch, traffic, counts)| {
        GatewaySeen { name: name.to_owned(), epoch, traffic, counts }
    })
}

fn there() -> impl Strategy<Value = VersionSeen> {
    let failure = (small(), any::<bool>()).prop_map(|(restarts, lasting)| Failure {
        reason: "exits".to_owned(),
        restarts,
        lasting,
    });
    let warmup = prop::option::weighted(0.1, Just("no answer".to_owned()));
    let numbers = (small(), small(), small(), number());
    (revision(), numbers, warmup, prop::option::weighted(0.3, failure)).prop_map(
        |(revision, (ready, starting, warmed, in_flight), warmup_failed, failure)| VersionSeen {
            generation: 1,
            revision,
            ready,
            starting,
            warmed,
            warmup_failed,
            failure,
            in_flight,
        },
    )
}

fn observed() -> impl Strategy<Value = Observed> {
    let prepared = prop_oneof![
        4 => Just(Prepared::Ready),
        1 => Just(Prepared::default()),
        1 => Just(Prepared::Failed("no file".to_owned())),
    ];
    let room = prop_oneof![3 => Just(Room::Fits), 1 => Just(Room::Lacks("no GPU".to_owned()))];
    let desired = (any::<i64>(), revision(), small(), prepared, room).prop_map(
        |(generation, revision, replicas, prepared, room)| Desired {
            generation,
            revision,
            replicas,
            prepared,
            room,
        },
    );
    let kinds = vec![CommandKind::Promote, CommandKind::Abort, CommandKind::Undo, CommandKind::Retry];
    let command =
        (number(), prop::sample::select(kinds)).prop_map(|(sequence, kind)| Command { sequence, kind });
    let versions = prop::collection::btree_map(colour(), there(), 0..3);
    let gateways = prop::collection::vec(gateway(), 0..3).prop_map(|mut gateways| {
        gateways.sort_by(|a, b| a.name.cmp(&b.name));
        gateways.dedup_by(|a, b| a.name == b.name);
        gateways
    });
    (moment(), desired, versions, gateways, prop::collection::vec(command, 0..3)).prop_map(
        |(now_ms, desired, versions, gateways, commands)| Observed {
            now_ms,
            desired,
            versions,
            gateways,
            commands,
        },
    )
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        prop::sample::select(vec![
            Phase::Idle,
            Phase::Preparing,
            Phase::Draining,
            Phase::Warming,
            Phase::Verifying,
            Phase::Promoted,
            Phase::RollingBack,
            Phase::RolledBack,
            Phase::Failed,
        ]),
        (small(), 0..300_u32).prop_map(|(step, weight)| Phase::Shifting { step, weight }),
    ]
}

/// Any state that can be written down, whether a step could have led to it or not.
fn state() -> impl Strategy<Value = State> {
    let kept = (version(), small(), moment()).prop_map(|(version, replicas, until_ms)| Kept {
        version,
        replicas,
        until_ms,
    });
    let versions = (prop::option::of(version()), prop::option::of(version()), prop::option::of(kept));
    let judging = (counts(), counts(), counts()).prop_map(|(candidate, active, before)| Judging {
        candidate: Tally { sum: candidate, ..Tally::default() },
        active: Tally { sum: active, ..Tally::default() },
        before,
    });
    let short = (moment(), any::<bool>()).prop_map(|(since_ms, starting)| Shortage { since_ms, starting });
    let refused =
        revision().prop_map(|revision| Refused { revision, generation: 1, reason: "bad".to_owned() });
    let how = prop::sample::select(vec![How::BlueGreen, How::Canary, How::Rolling, How::Recreate]);
    let small_things = (how, any::<bool>(), prop::option::of(moment()), moment());
    let large = (prop::option::of(judging), prop::option::of(short), prop::option::of(refused));
    (phase(), versions, small_things, large).prop_map(
        |(
            phase,
            (active, candidate, kept),
            (strategy, agreed, followed_ms, since_ms),
            (judging, short, refused),
        )| {
            let state =
                State { phase, since_ms, active, candidate, kept, strategy, agreed, ..State::default() };
            State { followed_ms, judging, short, refused, ..state }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let how = prop::sample::select(vec![How::BlueGreen, How::Canary, How::Rolling, How::Recreate]);
    (how, small(), any::<bool>(), prop::option::of(number()), prop::bool::ANY).prop_map(
        |(strategy, prompts, pause, ttft_p95_ms, steps)| {
            let policy = Policy::from(&Rollout { strategy, pause, ..Rollout::default() });
            let steps = if steps { policy.steps } else { vec![] };
            Policy { prompts, ttft_p95_ms, steps, ..policy }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_and_any_sight_give_an_answer(state in state(), seen in observed(), policy in policy()) {
        let first = step(&state, &seen, &policy);
        describe(&first.state);
        prop_assert_eq!(State::read(serde_json::to_value(&first.state).unwrap()).unwrap(), first.state.clone());
        let again = step(&first.state, &seen, &policy);
        prop_assert_eq!(&again.state, &first.state);
        let pauses = first.state.strategy == How::Recreate && seen.desired.replicas > 0;
        let ready = |colour: Colour| seen.versions.get(&colour).map_or(0, |there| there.ready);
        for action in &first.actions {
            if let Action::RemoveVersion { colour } = action {
                let last = ready(*colour) > 0 && ready(colour.other()) == 0;
                prop_assert!(!last || seen.desired.replicas == 0 || pauses, "{:?}", first);
            }
            if let Action::SetTraffic(traffic) = action {
                prop_assert_eq!(traffic.iter().map(|share| share.weight).sum::<u32>(), 100);
            }
        }
    }
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let exits = prop_oneof![
        6 => Just(None),
        1 => Just(Some(("exits with code 1", false))),
        1 => Just(Some(("exits with code 2", true))),
    ];
    let prepared = prop_oneof![6 => Just(Ok(())), 1 => Just(Err("the gate failed"))];
    let warmup = prop::option::weighted(0.1, Just("no answer"));
    let crash = prop::option::weighted(0.2, 1..60_u64);
    let fails = prop_oneof![4 => Just(0_u64), 1 => Just(3), 1 => Just(30)];
    (0..10_u64, prepared, 1..30_u64, exits, crash, warmup, fails, 2..9_usize).prop_map(
        |(prepared_after_s, prepared, start_s, exits, crashes_after_s, warmup_fails, fails_every, bucket)| {
            Behaviour {
                prepared_after_s,
                prepared,
                start_s,
                at_most: usize::MAX,
                exits,
                crashes_after_s,
                warmup_fails,
                fails_every,
                bucket,
            }
        },
    )
}

fn happening() -> impl Strategy<Value = Do> {
    prop_oneof![
        prop::sample::select(vec!["r1", "r2", "r3"]).prop_map(Do::Release),
        Just(Do::Label),
        (0..5_u32).prop_map(Do::Replicas),
        (0..40_u64).prop_map(Do::Rate),
        prop::sample::select(vec![
            CommandKind::Promote,
            CommandKind::Abort,
            CommandKind::Undo,
            CommandKind::Retry
        ])
        .prop_map(Do::Say),
        Just(Do::RestartGateways),
    ]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let rollout =
        prop::sample::select(vec!["BlueGreen", "Canary", "Rolling", "Recreate"]).prop_map(|strategy| {
            let steps = match strategy {
                "Canary" => {
                    json!([{"weight": "20%", "duration": "10s"}, {"weight": "60%", "duration": "15s"}])
                }
                _ => json!([]),
            };
            json!({"strategy": strategy, "steps": steps, "rollbackOn": {"ttftP95": "500ms"}})
        });
    let script = prop::collection::vec((25..200_u64, happening()), 0..5);
    let lag = prop_oneof![5 => (0..8_u64).prop_map(Some), 1 => Just(None)];
    (rollout, behaviour(), behaviour(), script, lag, 1..5_u32).prop_map(
        |(rollout, second, third, script, lag, replicas)| {
            let mut scenario = Scenario::new("any", rollout).with("r2", second).with("r3", third).until(1500);
            scenario.script.extend(script);
            scenario.change(|world| {
                world.gateways = vec![Gateway::new("g1", Some(1)), Gateway::new("g2", lag)];
                world.replicas = replicas;
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// What must always hold is asserted by the driver, at every step.
    #[test]
    fn every_release_ends(scenario in scenario(), deaths in 0..7_u64) {
        // The driver dies again and again for a while, or never.
        let dies = |now: u64| {
            (deaths > 0 && now < 300 && now.is_multiple_of(deaths + 1)).then(|| DEATHS[(now % 4) as usize])
        };
        let story = scenario.run_with(dies);
        let State { phase, active, candidate, kept, .. } = &story.state;
        prop_assert!(phase.is_settled(), "{:?}\n{}", scenario, story.trace);
        prop_assert!(candidate.is_none() && kept.is_none(), "{:?}\n{}", scenario, story.trace);
        prop_assert!(active.is_some(), "{:?}\n{}", scenario, story.trace);
    }
}
