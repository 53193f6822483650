//! A driver of the state machine that checks what must always hold, and dies when told.

use std::fmt::Write;

use wharf_rollout::{
    Action, Colour, Command, CommandKind, Observed, Phase, Policy, Room, State, Step, Strategy, describe,
    step,
};
use wharf_spec::service::Rollout;

use crate::world::{Behaviour, EPOCH_MS, World};

/// Something happens to the world.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    /// The object changes so that replicas have to restart.
    Release(&'static str),
    /// It changes otherwise.
    Label,
    Replicas(u32),
    Rate(u64),
    Say(CommandKind),
    RestartGateways,
    Room(Room),
    Behave(&'static str, Behaviour),
    LoseState,
}

/// How a driver dies, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before it kept the state.
    BeforeKeeping,
    /// After it kept the state, with half of the actions done.
    HalfDone,
    /// It did everything, but keeping the state failed.
    NotKept,
    /// It did everything twice.
    Twice,
}

pub(crate) const DEATHS: [Death; 4] = [Death::BeforeKeeping, Death::HalfDone, Death::NotKept, Death::Twice];

/// A release from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    pub(crate) world: World,
    /// What happens when, in seconds.
    pub(crate) script: Vec<(u64, Do)>,
    pub(crate) until_s: u64,
    /// From when on the story is told.
    pub(crate) told_from_s: u64,
}

/// A moment from which a release may be told again.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) world: World,
    /// The state in its written form.
    kept: serde_json::Value,
    last: Vec<Action>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    /// Transitions and answers, one a line.
    pub(crate) trace: String,
    /// Moments just before what should be changed.
    pub(crate) turns: Vec<Moment>,
    pub(crate) state: State,
    pub(crate) world: Option<World>,
}

impl Scenario {
    /// A service with two replicas that serves generation 1, as `rollout` says; generation 2 comes after 20 seconds.
    pub(crate) fn new(name: &'static str, rollout: serde_json::Value) -> Scenario {
        let rollout: Rollout = serde_json::from_value(rollout).unwrap();
        let policy = Policy { keep_old_for_ms: 60_000, deadline_ms: 120_000, ..Policy::from(&rollout) };
        let script = vec![(20, Do::Release("r2"))];
        Scenario { name, policy, world: World::new(), script, until_s: 240, told_from_s: 20 }
    }

    pub(crate) fn with(mut self, revision: &'static str, behaviour: Behaviour) -> Scenario {
        self.world.behaviours.insert(revision, behaviour);
        self
    }

    pub(crate) fn then(mut self, at_s: u64, what: Do) -> Scenario {
        self.script.push((at_s, what));
        self
    }

    pub(crate) fn until(mut self, until_s: u64) -> Scenario {
        self.until_s = until_s;
        self
    }

    pub(crate) fn change(mut self, change: impl Fn(&mut World)) -> Scenario {
        change(&mut self.world);
        self
    }

    pub(crate) fn run(&self) -> Story {
        self.run_with(|_| None)
    }

    /// Runs with a driver that dies at the seconds for which `dies` says how.
    pub(crate) fn run_with(&self, dies: impl Fn(u64) -> Option<Death>) -> Story {
        let kept = serde_json::to_value(State::default()).unwrap();
        self.run_from(Moment { world: self.world.clone(), kept, last: Vec::new() }, dies)
    }

    pub(crate) fn run_from(&self, from: Moment, dies: impl Fn(u64) -> Option<Death>) -> Story {
        let Moment { mut world, mut kept, mut last } = from;
        let mut story = Story::default();
        let scripted_s = self.script.iter().map(|(at, _)| *at).max().unwrap_or(0);
        let mut quiet_s = 0;
        // Long after everything is over nothing more will happen.
        while world.now_s < self.until_s && quiet_s < 30 {
            let moment = Moment { world: world.clone(), kept: kept.clone(), last: last.clone() };
            world.tick();
            let now_s = world.now_s;
            for (_, what) in self.script.iter().filter(|(at, _)| *at == now_s) {
                happen(&mut world, &mut kept, what);
            }
            let state = State::read(kept.clone()).unwrap();
            let seen = world.observe();
            let Step { state: next, actions, look_again_ms } = step(&state, &seen, &self.policy);
            check(self.name, &self.policy, &seen, &next, &actions);
            assert!(look_again_ms.is_none_or(|at| at > seen.now_ms), "{}: looks again at once", self.name);
            if world.now_s >= self.told_from_s {
                story.note(&world, &actions);
            }
            let lasting = lasting(&actions);
            let turned = last != lasting || state.phase != next.phase;
            let over = world.now_s > scripted_s && next.phase.is_settled() && next.kept.is_none();
            quiet_s = if over && !turned { quiet_s + 1 } else { 0 };
            last = lasting;
            if turned {
                story.turns.push(moment);
            }
            let death = dies(world.now_s);
            if !matches!(death, Some(Death::BeforeKeeping | Death::NotKept)) {
                kept = serde_json::to_value(&next).unwrap();
            }
            let done = match death {
                Some(Death::BeforeKeeping) => 0,
                Some(Death::HalfDone) => actions.len() / 2,
                Some(Death::NotKept | Death::Twice) | None => actions.len(),
            };
            for _ in 0..if death == Some(Death::Twice) { 2 } else { 1 } {
                actions.iter().take(done).for_each(|action| act(&mut world, action));
            }
            story.state = next;
        }
        let view = describe(&story.state);
        let failed = world.requests;
        writeln!(story.trace, "{} {:?} {failed:?}", view.phase, world.running()).unwrap();
        story.world = Some(world);
        story
    }
}

impl Story {
    fn note(&mut self, world: &World, actions: &[Action]) {
        for action in actions {
            if let Action::Event { warning, reason, message } = action {
                let mark = if *warning { "!" } else { " " };
                writeln!(self.trace, "{:>3}{mark}{reason}: {message}", world.now_s).unwrap();
            }
        }
    }

    /// What does not depend on when the driver died.
    pub(crate) fn end(&self) -> String {
        let State { phase, active, candidate, kept, refused, .. } = &self.state;
        let revision =
            |version: &Option<wharf_rollout::Version>| version.as_ref().map(|v| v.revision.clone());
        let refused = refused.as_ref().map(|refused| &refused.revision);
        let running = self.world.as_ref().unwrap().running();
        format!(
            "{phase:?} {:?} {:?} {} {refused:?} {running:?}",
            revision(active),
            revision(candidate),
            kept.is_some()
        )
    }
}

fn lasting(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|action| !matches!(action, Action::Event { .. })).cloned().collect()
}

fn happen(world: &mut World, kept: &mut serde_json::Value, what: &Do) {
    match what {
        Do::Release(revision) => {
            (world.revision, world.revision_since_s) = (revision, world.now_s);
            world.generation += 1;
        }
        Do::Label => world.generation += 1,
        Do::Replicas(replicas) => world.replicas = *replicas,
        Do::Rate(rate) => world.rate = *rate,
        Do::Say(kind) => {
            let sequence = EPOCH_MS + world.now_s;
            world.commands.push(Command { sequence, kind: *kind });
        }
        Do::RestartGateways => world.gateways.iter_mut().for_each(|gateway| gateway.restart()),
        Do::Room(room) => world.room = room.clone(),
        Do::Behave(revision, behaviour) => _ = world.behaviours.insert(revision, behaviour.clone()),
        Do::LoseState => *kept = serde_json::json!({}),
    }
}

fn act(world: &mut World, action: &Action) {
    match action {
        Action::EnsureVersion { version, replicas } => world.ensure(version, *replicas),
        Action::WarmUp { colour, prompts: _ } => world.warm_up(*colour),
        Action::SetTraffic(traffic) => world.set_traffic(traffic),
        Action::RemoveVersion { colour } => world.remove(*colour),
        Action::Event { .. } => {}
    }
}

/// What must hold at every step of everything.
fn check(name: &str, policy: &Policy, seen: &Observed, state: &State, actions: &[Action]) {
    let said = || format!("{name}: {state:#?}\n{actions:#?}\n{seen:#?}");
    let again = step(state, seen, policy);
    assert_eq!(&again.state, state, "{name}: a second look at the same things changes nothing");
    assert_eq!(again.actions, lasting(actions), "{name}: and asks for nothing else");

    let asleep = seen.desired.replicas == 0;
    // Recreate is the strategy that pauses the service.
    let pauses = state.strategy == Strategy::Recreate && !state.phase.is_settled();
    let revision_of = |colour: Colour| {
        let kept = state.kept.as_ref().map(|kept| &kept.version);
        let versions = [state.active.as_ref(), state.candidate.as_ref(), kept];
        versions.into_iter().flatten().find(|v| v.colour == colour).map(|v| v.revision.clone())
    };
    let is_ready = |colour: Colour| {
        let there = seen.versions.get(&colour);
        there.is_some_and(|there| there.ready > 0 && Some(&there.revision) == revision_of(colour).as_ref())
    };
    let only_ready = |colour: Colour| is_ready(colour) && !is_ready(colour.other());
    let any_ready = is_ready(Colour::Blue) || is_ready(Colour::Green);
    let mut total = 0;
    for action in actions {
        match action {
            Action::SetTraffic(traffic) => {
                total = traffic.iter().map(|share| share.weight).sum();
                for share in traffic.iter().filter(|share| share.weight > 0) {
                    let colour = if share.colour.as_str() == "blue" { Colour::Blue } else { Colour::Green };
                    let bad = !is_ready(colour) && is_ready(colour.other());
                    assert!(!bad || asleep || pauses, "traffic to what is not ready: {}", said());
                }
            }
            Action::RemoveVersion { colour } => {
                assert!(!only_ready(*colour) || asleep || pauses, "removes what serves: {}", said());
            }
            Action::EnsureVersion { version, replicas: 0 } => {
                assert!(
                    !only_ready(version.colour) || asleep || pauses,
                    "takes down what serves: {}",
                    said()
                );
            }
            Action::EnsureVersion { .. } | Action::WarmUp { .. } | Action::Event { .. } => {}
        }
    }
    let known = state.active.is_some() || (state.candidate.is_some() && state.phase != Phase::Preparing);
    assert!(total == 100 || !any_ready || !known, "shares sum to {total}: {}", said());
    let colour = |version: &Option<wharf_rollout::Version>| version.as_ref().map(|v| v.colour);
    assert!(state.active.is_none() || colour(&state.active) != colour(&state.candidate), "{}", said());
}
