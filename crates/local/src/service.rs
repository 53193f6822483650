//! One service: what is wanted, what there is, and the steps between. Decisions are those of `wharf_rollout` and `wharf_autoscaler`; here
//! they meet processes.

mod gateway;
mod model;
mod scaling;
mod versions;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use wharf_api::console::{ColdStartView, EventView, ScaleChange};
use wharf_manifests::{Mode, Settings, revision};
use wharf_rollout::{
    Action, Command, CommandKind, Desired, GatewaySeen, Observed, Policy, Prepared as Model, Room, State,
    step,
};
use wharf_spec::LLMService;
use wharf_spec::service::{Colour, Strategy, Traffic};

use crate::options::Written;
use crate::place::place;
use crate::prepare::Prepared;
use crate::supervisor::{Context, Seen};

use self::gateway::Pushed;
use self::model::Known;
use self::scaling::Scaling;
use self::versions::Version;

/// Events and changes of scale that are remembered.
const REMEMBERED: usize = 100;
/// How long to wait at most before looking again.
const LOOK_AGAIN_MS: u64 = 1000;
/// How long while something is under way that nobody tells the end of.
const LOOK_SOON_MS: u64 = 100;

/// What of a service outlives its supervisor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Remembered {
    /// Generation of the newest object.
    generation: i64,
    /// The newest object's revision.
    revision: String,
    /// Objects of the newest revision and of those that are released, by revision.
    objects: BTreeMap<String, Written>,
    /// The release.
    rollout: serde_json::Value,
    /// The last command that somebody gave.
    sequence: u64,
}

/// A service that runs.
pub(crate) struct Service {
    pub(crate) name: String,
    generation: i64,
    revision: String,
    objects: BTreeMap<String, Arc<Written>>,
    rollout: State,
    commands: Vec<Command>,
    sequence: u64,
    versions: BTreeMap<Colour, Version>,
    models: BTreeMap<String, Prepared>,
    known: BTreeMap<String, Known>,
    /// When models began to be made.
    begun: BTreeMap<String, Instant>,
    preparing: BTreeMap<String, AbortHandle>,
    scaling: Scaling,
    /// Since when there should be replicas; none while there should not.
    wanted_since: Option<Instant>,
    traffic: Vec<Traffic>,
    pushed: Option<Pushed>,
    replicas_started: u64,
    pub(crate) events: VecDeque<EventView>,
    changes: VecDeque<ScaleChange>,
    /// The last cold start, and of which replica.
    cold_start: Option<(String, ColdStartView)>,
    /// It is in none of the files any more, or everything ends.
    going: bool,
    /// What is wrong with the files as they are now.
    pub(crate) complaint: Option<String>,
    remembered: Option<Remembered>,
}

impl Service {
    /// A service as it was left, or a new one.
    pub(crate) fn new(name: String, remembered: Option<Remembered>, context: &Context) -> Service {
        let Remembered { generation, revision, objects, rollout, sequence } = remembered.unwrap_or_default();
        let rollout = match rollout.is_null() {
            true => State::default(),
            false => State::read(rollout).unwrap_or_else(|error| {
                tracing::warn!(service = name, error = %wharf_telemetry::log::chain(&error), "the release begins anew");
                State::default()
            }),
        };
        Service {
            scaling: Scaling::new(&name, context),
            name,
            generation,
            revision,
            objects: objects.into_iter().map(|(revision, object)| (revision, Arc::new(object))).collect(),
            rollout,
            commands: Vec::new(),
            sequence,
            versions: BTreeMap::new(),
            models: BTreeMap::new(),
            known: BTreeMap::new(),
            begun: BTreeMap::new(),
            preparing: BTreeMap::new(),
            wanted_since: None,
            traffic: Vec::new(),
            pushed: None,
            replicas_started: 0,
            events: VecDeque::new(),
            changes: VecDeque::new(),
            cold_start: None,
            going: false,
            complaint: None,
            remembered: None,
        }
    }

    /// The object changed, or is new.
    pub(crate) fn want(&mut self, written: Written, context: &Context) {
        let revision = match revision(&written.object, &Settings::default(), Mode::Local) {
            Ok(revision) => revision,
            Err(error) => {
                self.complaint = Some(error.to_string());
                return;
            }
        };
        self.going = false;
        self.complaint = None;
        let before = self.objects.get(&self.revision);
        let same = before.is_some_and(|before| before.object.spec == written.object.spec);
        if !same || revision != self.revision {
            self.generation += 1;
        }
        self.revision.clone_from(&revision);
        let written = Arc::new(written);
        self.objects.insert(revision, Arc::clone(&written));
        if let Err(reason) = self.scaling.follow(&self.name, &written.object, context) {
            self.tell(true, "ScalingRefused", reason, context);
        }
        self.prepare(&self.revision.clone(), context);
    }

    /// The newest object.
    pub(crate) fn written(&self) -> Option<&Arc<Written>> {
        self.objects.get(&self.revision)
    }

    /// It is in none of the files any more.
    pub(crate) fn leave(&mut self) {
        self.going = true;
    }

    pub(crate) fn is_going(&self) -> bool {
        self.going
    }

    /// Nothing of it runs.
    pub(crate) fn is_gone(&self) -> bool {
        self.versions.values().all(|version| version.replicas.is_empty())
    }

    /// Somebody gave a command; the answer is there after the next look.
    pub(crate) fn command(&mut self, kind: CommandKind) {
        self.sequence += 1;
        self.commands.push(Command { sequence: self.sequence, kind });
        if kind == CommandKind::Retry {
            self.models.retain(|_, how| !matches!(how, Prepared::Failed(_)));
        }
    }

    /// What became of the last command.
    pub(crate) fn answer(&self) -> Option<(bool, String)> {
        let answer = self.rollout.answer.as_ref()?;
        (answer.sequence == self.sequence).then(|| (answer.done, answer.message.clone()))
    }

    /// Looks at everything and does what follows. Says after how many milliseconds to look again at the latest.
    pub(crate) fn look(&mut self, context: &Context, seen: &Seen) -> u64 {
        let mut look_again = LOOK_AGAIN_MS;
        self.wanted_since =
            (self.scaling.wanted() > 0).then(|| self.wanted_since.unwrap_or_else(Instant::now));
        let written = self.written().map(Arc::clone);
        if let (false, Some(written)) = (self.going, &written) {
            let observed = self.observe(context, seen, &written.object);
            let policy = Policy::from(&written.object.spec.rollout);
            let step = step(&self.rollout, &observed, &policy);
            self.rollout = step.state;
            self.commands.clear();
            look_again = look_again.min(step.look_again_ms.unwrap_or(LOOK_AGAIN_MS));
            // What is decided is kept before anything is done.
            self.remember(context);
            for action in step.actions {
                self.act(action, context);
            }
        }
        if self.going {
            self.versions.values_mut().for_each(|version| version.wanted = 0);
        }
        self.converge(context, seen);
        self.push(context);
        self.scaling.publish(self.ready(), self.starting());
        self.forget();
        let busy = !self.rollout.phase.is_settled()
            || self.versions.values().any(|version| version.has_draining() || version.waits());
        if busy { look_again.min(LOOK_SOON_MS) } else { look_again }
    }

    fn observe(&self, context: &Context, seen: &Seen, object: &LLMService) -> Observed {
        let model = match self.models.get(&self.revision) {
            None => Model::default(),
            Some(Prepared::Running { verb, said }) if said.is_empty() => {
                Model::Pending(format!("`wharf {verb}` runs"))
            }
            Some(Prepared::Running { verb, said }) => Model::Pending(format!("`wharf {verb}`: {said}")),
            Some(Prepared::Ready) => Model::Ready,
            Some(Prepared::Failed(reason)) => Model::Failed(reason.clone()),
        };
        let counts = [Colour::Blue, Colour::Green]
            .into_iter()
            .filter_map(|colour| Some((colour, seen.demand.versions.get(colour.name())?.clone())))
            .collect();
        // The gateway is in this process: it follows at once.
        let gateway = GatewaySeen {
            name: "local".to_owned(),
            epoch: context.epoch,
            traffic: self.traffic.clone(),
            counts,
        };
        Observed {
            now_ms: context.now_ms(),
            desired: Desired {
                generation: self.generation,
                revision: self.revision.clone(),
                replicas: self.scaling.wanted(),
                prepared: model,
                room: self.room(context, object),
            },
            versions: self.versions.iter().map(|(colour, version)| (*colour, version.seen(seen))).collect(),
            gateways: vec![gateway],
            commands: self.commands.clone(),
        }
    }

    /// Whether the newest revision has room beside what runs.
    fn room(&self, context: &Context, object: &LLMService) -> Room {
        let there = self.versions.values().any(|version| version.of.revision == self.revision);
        let alone = self.versions.values().all(|version| version.replicas.is_empty());
        let strategy = object.spec.rollout.strategy;
        let Some(known) = self.known.get(&self.revision).filter(|_| !there && !alone) else {
            return Room::Fits;
        };
        if strategy == Strategy::Recreate {
            return Room::Fits;
        }
        let mut taken = context.taken();
        let wanted = if strategy == Strategy::Rolling { 1 } else { self.scaling.wanted().max(1) };
        for number in 0..wanted {
            match place(&context.machine, &context.division, &taken, &known.ask) {
                Ok(place) => drop(taken.insert(format!("asked for {number}"), place)),
                Err(refusal) => {
                    let recreate = "rollout.strategy: Recreate, which needs no room for both".to_owned();
                    let why = refusal.told(known.needs.as_ref(), &[recreate]);
                    return Room::Lacks(format!("the new version does not fit beside the old one: {why}"));
                }
            }
        }
        Room::Fits
    }

    fn act(&mut self, action: Action, context: &Context) {
        match action {
            Action::EnsureVersion { version, replicas } => {
                let Some(written) = self.objects.get(&version.revision).map(Arc::clone) else {
                    // Remembered state that lost its object: nothing can be started from it.
                    tracing::error!(
                        service = self.name,
                        revision = version.revision,
                        "the object of a version is not known any more"
                    );
                    return;
                };
                if !self.models.contains_key(&version.revision) {
                    self.prepare(&version.revision, context);
                }
                self.versions
                    .entry(version.colour)
                    .or_insert_with(|| Version::new(version.clone(), Arc::clone(&written)))
                    .ensure(version, written, replicas);
            }
            Action::WarmUp { colour, prompts } => {
                if let Some(version) = self.versions.get_mut(&colour) {
                    version.warm_up(&self.name, prompts, context);
                }
            }
            Action::SetTraffic(traffic) => self.traffic = traffic,
            Action::RemoveVersion { colour } => {
                if let Some(version) = self.versions.get_mut(&colour) {
                    version.wanted = 0;
                    version.removed = true;
                }
            }
            Action::Event { warning, reason, message } => self.tell(warning, &reason, message, context),
        }
    }

    /// Something happened.
    pub(crate) fn tell(&mut self, warning: bool, reason: &str, message: String, context: &Context) {
        let event = EventView { at_ms: context.now_ms(), warning, reason: reason.to_owned(), message };
        (context.listener)(&self.name, &event);
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Writes down what must outlive this process, if it changed.
    fn remember(&mut self, context: &Context) {
        let now = Remembered {
            generation: self.generation,
            revision: self.revision.clone(),
            objects: self
                .objects
                .iter()
                .map(|(revision, object)| (revision.clone(), (**object).clone()))
                .collect(),
            rollout: serde_json::to_value(&self.rollout).unwrap_or_default(),
            sequence: self.sequence,
        };
        if self.remembered.as_ref() == Some(&now) {
            return;
        }
        match context.folder.remember(&file(&self.name), &now) {
            Ok(()) => self.remembered = Some(now),
            Err(error) => {
                tracing::error!(service = self.name, error = %wharf_telemetry::log::chain(&error), "failed to write the state down");
            }
        }
    }

    /// Drops objects and models that no version can come back to.
    fn forget(&mut self) {
        let state = &self.rollout;
        let released =
            [state.active.as_ref(), state.candidate.as_ref(), state.kept.as_ref().map(|kept| &kept.version)];
        let running = self.versions.values().map(|version| &version.of);
        let used: Vec<&str> = released
            .into_iter()
            .flatten()
            .chain(running)
            .map(|version| version.revision.as_str())
            .chain([self.revision.as_str()])
            .collect();
        self.objects.retain(|revision, _| used.contains(&revision.as_str()));
        self.models.retain(|revision, _| used.contains(&revision.as_str()));
        self.known.retain(|revision, _| used.contains(&revision.as_str()));
        self.begun.retain(|revision, _| used.contains(&revision.as_str()));
        // Dropping the handle lets a step run on; abandoning a revision ends it.
        self.preparing.retain(|revision, task| {
            let keep = used.contains(&revision.as_str());
            if !keep {
                task.abort();
            }
            keep && !task.is_finished()
        });
    }
}

/// A service's name as a part of a file's name.
pub(crate) fn flat(name: &str) -> String {
    name.replace('/', ".")
}

/// Where a service is written down.
pub(crate) fn file(name: &str) -> String {
    format!("service-{}.json", flat(name))
}
