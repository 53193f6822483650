//! What may happen to a release.

use serde_json::json;
use wharf_api::demand::VersionCounts;
use wharf_rollout::{CommandKind, Room};

use crate::driver::{Do, Scenario};
use crate::world::{Behaviour, Gateway};

/// Every scenario here, for the driver that dies.
pub(crate) fn all() -> Vec<Scenario> {
    vec![
        good("BlueGreen"),
        good("Canary"),
        good("Rolling"),
        good("Recreate"),
        bad("BlueGreen"),
        bad("Canary"),
        bad("Rolling"),
        bad("Recreate"),
        missing_file(),
        failed_gate(),
        exits(),
        exits_for_good(),
        never_ready(),
        crashes_under_traffic(),
        warm_up_fails(),
        slow(),
        shared_failures(),
        superseded(),
        went_back(),
        gateways_restart(),
        deaf_gateway(),
        no_traffic(),
        asleep(),
        no_room(),
        paused("BlueGreen"),
        paused("Rolling"),
        paused("Recreate"),
        aborted(),
        undone(),
        undone_too_late(),
        retried(),
        first_fails(),
        first_is_superseded(),
        scaled_in_the_middle(),
        state_lost(),
        labels(),
        reverted(),
        promoted_by_hand(),
        aborted_first(),
        woken(),
        fails_after_promotion(),
        no_place_for_more(false),
        no_place_for_more(true),
    ]
}

fn blue_green() -> serde_json::Value {
    json!({"rollbackOn": {"ttftP95": "500ms"}})
}

fn by(strategy: &'static str) -> serde_json::Value {
    let steps = match strategy {
        "Canary" => json!([{"weight": "10%", "duration": "20s"}, {"weight": "50%", "duration": "20s"}]),
        _ => json!([]),
    };
    json!({"strategy": strategy, "steps": steps})
}

pub(crate) fn good(strategy: &'static str) -> Scenario {
    Scenario::new("good", by(strategy)).change(|world| world.replicas = 3)
}

pub(crate) fn bad(strategy: &'static str) -> Scenario {
    good(strategy).with("r2", Behaviour { fails_every: 4, ..Behaviour::default() })
}

pub(crate) fn missing_file() -> Scenario {
    let behaviour =
        Behaviour { prepared: Err("no such file: file:///models/b.gguf"), ..Behaviour::default() };
    Scenario::new("missing file", blue_green()).with("r2", behaviour)
}

pub(crate) fn failed_gate() -> Scenario {
    let gate = "the quality gate failed: perplexity +3.1%, over maxPerplexityIncrease 2%";
    let behaviour = Behaviour { prepared_after_s: 40, prepared: Err(gate), ..Behaviour::default() };
    Scenario::new("failed gate", blue_green()).with("r2", behaviour)
}

pub(crate) fn exits() -> Scenario {
    let behaviour = Behaviour { exits: Some(("exits with code 1", false)), ..Behaviour::default() };
    Scenario::new("exits", blue_green()).with("r2", behaviour)
}

pub(crate) fn exits_for_good() -> Scenario {
    let exits = Some(("exits with code 2: unknown field `paralel`", true));
    Scenario::new("exits for good", blue_green()).with("r2", Behaviour { exits, ..Behaviour::default() })
}

pub(crate) fn never_ready() -> Scenario {
    Scenario::new("never ready", blue_green())
        .with("r2", Behaviour { start_s: 10_000, ..Behaviour::default() })
}

pub(crate) fn warm_up_fails() -> Scenario {
    let warmup_fails = Some("status 500: out of memory");
    Scenario::new("warm-up", blue_green()).with("r2", Behaviour { warmup_fails, ..Behaviour::default() })
}

pub(crate) fn crashes_under_traffic() -> Scenario {
    let behaviour = Behaviour { crashes_after_s: Some(8), ..Behaviour::default() };
    Scenario::new("crashes", blue_green()).with("r2", behaviour)
}

pub(crate) fn slow() -> Scenario {
    Scenario::new("slow", blue_green()).with("r2", Behaviour { bucket: 8, ..Behaviour::default() })
}

pub(crate) fn shared_failures() -> Scenario {
    let failing = Behaviour { fails_every: 10, ..Behaviour::default() };
    Scenario::new("shared failures", blue_green()).with("r1", failing.clone()).with("r2", failing)
}

pub(crate) fn superseded() -> Scenario {
    let slow_start = Behaviour { start_s: 60, ..Behaviour::default() };
    Scenario::new("superseded", blue_green()).with("r2", slow_start).then(40, Do::Release("r3"))
}

pub(crate) fn went_back() -> Scenario {
    let rollout = by("Canary");
    Scenario::new("went back", rollout).then(40, Do::Release("r1"))
}

pub(crate) fn gateways_restart() -> Scenario {
    // Counters from before, all of them failures, are nobody's fault.
    let past = VersionCounts { answered: 0, failed: 5000, first_token: vec![] };
    Scenario::new("gateways restart", by("Canary"))
        .change(|world| world.gateways = vec![Gateway::new("g1", Some(1)).with_past(past.clone())])
        .then(40, Do::RestartGateways)
        .then(55, Do::RestartGateways)
}

pub(crate) fn deaf_gateway() -> Scenario {
    Scenario::new("deaf gateway", blue_green())
        .until(440)
        .change(|world| world.gateways = vec![Gateway::new("g1", Some(1)), Gateway::new("deaf", None)])
}

pub(crate) fn no_traffic() -> Scenario {
    Scenario::new("no traffic", blue_green()).change(|world| world.rate = 0)
}

pub(crate) fn asleep() -> Scenario {
    Scenario::new("asleep", by("Canary")).then(15, Do::Rate(0)).then(16, Do::Replicas(0))
}

pub(crate) fn no_room() -> Scenario {
    let lacks = Room::Lacks("one more GPU is needed; free one, or use Recreate".to_owned());
    Scenario::new("no room", blue_green()).then(19, Do::Room(lacks)).then(100, Do::Room(Room::Fits))
}

pub(crate) fn paused(strategy: &'static str) -> Scenario {
    let rollout = json!({"strategy": strategy, "pause": true});
    Scenario::new("paused", rollout).then(100, Do::Say(CommandKind::Promote))
}

pub(crate) fn aborted() -> Scenario {
    Scenario::new("aborted", by("Canary")).then(45, Do::Say(CommandKind::Abort))
}

pub(crate) fn undone() -> Scenario {
    Scenario::new("undone", blue_green()).then(70, Do::Say(CommandKind::Undo))
}

pub(crate) fn undone_too_late() -> Scenario {
    Scenario::new("undone too late", blue_green()).then(150, Do::Say(CommandKind::Undo))
}

pub(crate) fn retried() -> Scenario {
    missing_file().then(100, Do::Behave("r2", Behaviour::default())).then(110, Do::Say(CommandKind::Retry))
}

pub(crate) fn first_fails() -> Scenario {
    let behaviour = Behaviour { exits: Some(("exits with code 1", false)), ..Behaviour::default() };
    let mut scenario = Scenario::new("first fails", blue_green()).with("r1", behaviour);
    scenario.told_from_s = 0;
    scenario.script = vec![(100, Do::Behave("r1", Behaviour::default()))];
    scenario
}

pub(crate) fn first_is_superseded() -> Scenario {
    let behaviour = Behaviour { exits: Some(("exits with code 1", false)), ..Behaviour::default() };
    let mut scenario = Scenario::new("first is superseded", blue_green()).with("r1", behaviour);
    scenario.told_from_s = 0;
    scenario.script = vec![(100, Do::Release("r2"))];
    scenario
}

pub(crate) fn scaled_in_the_middle() -> Scenario {
    good("Rolling").then(30, Do::Replicas(5)).then(45, Do::Label).then(60, Do::Replicas(2))
}

pub(crate) fn state_lost() -> Scenario {
    good("BlueGreen").then(34, Do::LoseState)
}

pub(crate) fn labels() -> Scenario {
    let mut scenario = Scenario::new("labels", blue_green());
    scenario.script = vec![(20, Do::Label), (30, Do::Replicas(4))];
    scenario
}

pub(crate) fn reverted() -> Scenario {
    Scenario::new("reverted", blue_green()).then(60, Do::Release("r1"))
}

pub(crate) fn promoted_by_hand() -> Scenario {
    let promote = || Do::Say(CommandKind::Promote);
    Scenario::new("promoted by hand", by("Canary"))
        .then(32, promote())
        .then(45, promote())
        .then(50, promote())
}

pub(crate) fn aborted_first() -> Scenario {
    let scenario = first_fails();
    scenario.then(50, Do::Say(CommandKind::Abort)).then(110, Do::Say(CommandKind::Undo))
}

pub(crate) fn woken() -> Scenario {
    let slow_start = Behaviour { start_s: 20, ..Behaviour::default() };
    let sleeping = Scenario::new("woken", blue_green()).with("r2", slow_start).then(15, Do::Replicas(0));
    sleeping.then(15, Do::Rate(0)).then(30, Do::Rate(20)).then(31, Do::Replicas(2))
}

pub(crate) fn fails_after_promotion() -> Scenario {
    let crashes = Behaviour { exits: Some(("exits with code 1", false)), ..Behaviour::default() };
    Scenario::new("fails after promotion", blue_green())
        .then(50, Do::Behave("r2", Behaviour { crashes_after_s: Some(0), ..crashes }))
        .then(60, Do::Say(CommandKind::Undo))
}

pub(crate) fn no_place_for_more(pause: bool) -> Scenario {
    let mut rollout = by("Canary");
    rollout["pause"] = json!(pause);
    let behaviour = Behaviour { at_most: 2, ..Behaviour::default() };
    let scenario = Scenario::new("no place for more", rollout).with("r2", behaviour).until(420);
    scenario.change(|world| world.replicas = 3).then(240, Do::Say(CommandKind::Promote))
}
