//! A version of a service: its replicas, how they come, go and end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use wharf_api::console::ColdStartView;
use wharf_rollout::{Failure, Version as Of, VersionSeen};

use super::gateway::served_name;
use super::model::Known;
use super::{Service, flat};
use crate::backoff::Backoff;
use crate::child::Exit;
use crate::converge::{Standing, converge};
use crate::options::Written;
use crate::place::{Device, place};
use crate::prepare::Prepared;
use crate::refusal::fewer;
use crate::replica::{Replica, Start, State, Warmth};
use crate::supervisor::{Context, Message, Seen};
use crate::waiting::{Times, Waited, waited};

/// How long a replica that was told to end may take beyond the longest answer.
const GOODBYE: Duration = Duration::from_secs(30);
/// Exit code of Wharf for input that is wrong: another start would not help.
const BAD_INPUT: i32 = 2;

/// A version that runs, or is to run.
pub(super) struct Version {
    pub(super) of: Of,
    pub(super) written: Arc<Written>,
    pub(super) wanted: u32,
    /// Nothing of it should be there any more.
    pub(super) removed: bool,
    pub(super) replicas: Vec<Replica>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    /// Since when a replica is missing.
    missing: Option<Instant>,
    pub(super) failure: Option<Failure>,
}

impl Version {
    pub(super) fn new(of: Of, written: Arc<Written>) -> Version {
        Version {
            of,
            written,
            wanted: 0,
            removed: false,
            replicas: Vec::new(),
            backoff: Backoff::default(),
            retry_at: None,
            missing: None,
            failure: None,
        }
    }

    /// It is there with so many replicas. Those of another revision go.
    pub(super) fn ensure(&mut self, of: Of, written: Arc<Written>, replicas: u32) {
        if self.of.revision != of.revision {
            self.replicas.iter_mut().for_each(drain);
            let replicas = std::mem::take(&mut self.replicas);
            *self = Version { replicas, ..Version::new(of.clone(), Arc::clone(&written)) };
        }
        (self.of, self.written, self.wanted, self.removed) = (of, written, replicas, false);
    }

    pub(super) fn count(&self, state: State) -> u32 {
        let count = self.replicas.iter().filter(|replica| replica.state == state).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub(super) fn has_draining(&self) -> bool {
        self.count(State::Draining) > 0
    }

    /// A replica waits to be started again.
    pub(super) fn waits(&self) -> bool {
        self.retry_at.is_some()
    }

    pub(super) fn restarts(&self) -> u32 {
        self.backoff.ends()
    }

    /// As the state machine sees it.
    pub(super) fn seen(&self, seen: &Seen) -> VersionSeen {
        let ready = || self.replicas.iter().filter(|replica| replica.state == State::Ready);
        let warm = ready().filter(|replica| replica.warmth == Warmth::Warm).count();
        let cold = self.replicas.iter().find_map(|replica| match &replica.warmth {
            Warmth::Failed(why) => Some(why.clone()),
            Warmth::Cold | Warmth::Warming | Warmth::Warm => None,
        });
        let in_flight = seen.requests(self.replicas.iter().map(|replica| &replica.address));
        let ready = self.count(State::Ready);
        VersionSeen {
            generation: self.of.generation,
            revision: self.of.revision.clone(),
            ready,
            starting: u32::try_from(self.replicas.len()).unwrap_or(u32::MAX).saturating_sub(ready),
            warmed: u32::try_from(warm).unwrap_or(u32::MAX),
            warmup_failed: cold,
            failure: self.failure.clone(),
            in_flight,
        }
    }

    /// Lets every ready replica that is cold answer its first prompts.
    pub(super) fn warm_up(&mut self, service: &str, prompts: u32, context: &Context) {
        let model = served_name(&self.written.object);
        for replica in &mut self.replicas {
            if replica.state != State::Ready || replica.warmth != Warmth::Cold {
                continue;
            }
            replica.warmth = Warmth::Warming;
            let (prober, address, model) = (context.prober.clone(), replica.address.clone(), model.clone());
            let (service, name) = (service.to_owned(), replica.name.clone());
            let messages = context.messages.clone();
            tokio::spawn(async move {
                let began = Instant::now();
                let outcome = prober.warm_up(&address, &model, prompts).await;
                let took = began.elapsed();
                let _ = messages.send(Message::Warmed { service, replica: name, outcome, took });
            });
        }
    }
}

/// It takes nothing new.
fn drain(replica: &mut Replica) {
    if replica.state != State::Draining {
        (replica.state, replica.since) = (State::Draining, Instant::now());
    }
}

impl Service {
    /// Starts what is missing, ends what is too much.
    pub(super) fn converge(&mut self, context: &Context, seen: &Seen) {
        let colours: Vec<_> = self.versions.keys().copied().collect();
        for colour in colours {
            let Some(mut version) = self.versions.remove(&colour) else { continue };
            self.converge_version(&mut version, context, seen);
            if !(version.removed && version.replicas.is_empty()) {
                self.versions.insert(colour, version);
            }
        }
    }

    fn converge_version(&mut self, version: &mut Version, context: &Context, seen: &Seen) {
        let standing = |replica: &Replica| Standing {
            ready: replica.state == State::Ready,
            draining: replica.state == State::Draining,
        };
        let standings: Vec<Standing> = version.replicas.iter().map(standing).collect();
        let change = converge(&standings, version.wanted as usize);
        change.drain.iter().for_each(|index| drain(&mut version.replicas[*index]));
        if version.wanted == 0 {
            (version.retry_at, version.failure) = (None, None);
        }
        let waits = version.retry_at.is_some_and(|at| Instant::now() < at);
        let prepared = matches!(self.models.get(&version.of.revision), Some(Prepared::Ready));
        version.missing = (change.start > 0).then(|| version.missing.unwrap_or_else(Instant::now));
        if prepared && !waits {
            version.retry_at = None;
            let before = version.replicas.len();
            // Where one does not fit, the next does not either.
            while version.replicas.len() - before < change.start && self.start(version, context) {}
            match version.replicas.len() - before {
                0 => {}
                started => {
                    if started == change.start {
                        version.missing = None;
                    }
                    // Those that start from now on have not waited for the model.
                    if let Some(known) = self.known.get_mut(&version.of.revision) {
                        known.made = None;
                    }
                }
            }
        }
        let longest = version.written.object.spec.server.longest_answer.get();
        for replica in &mut version.replicas {
            let busy = seen.requests([&replica.address]) > 0;
            let overdue = replica.since.elapsed() > longest;
            match (replica.state, replica.told) {
                // The gateway must have heard of it, or it could send one more.
                (State::Draining, None) if (replica.announced && !busy) || overdue => {
                    replica.child.terminate();
                    replica.told = Some(Instant::now());
                }
                (State::Draining, Some(told)) if told.elapsed() > longest + GOODBYE => replica.child.kill(),
                _ => {}
            }
        }
        self.too_slow(version);
    }

    /// A replica that does not become ready in its time is ended; its end says why.
    fn too_slow(&self, version: &mut Version) {
        let longest = version.written.object.spec.server.longest_start.get();
        for replica in &mut version.replicas {
            if replica.state == State::Starting && replica.started.elapsed() > longest {
                replica.child.terminate();
            }
        }
    }

    /// Starts one more replica; says whether it runs.
    fn start(&mut self, version: &mut Version, context: &Context) -> bool {
        let unknown = Known::default();
        let known = self.known.get(&version.of.revision).unwrap_or(&unknown);
        let placed = match place(&context.machine, &context.division, &context.taken(), &known.ask) {
            Ok(placed) => placed,
            Err(refusal) => {
                let fewer = fewer(version.replicas.len(), &version.written.object.spec.scaling);
                let why = refusal.told(known.needs.as_ref(), fewer.as_slice());
                self.not_started(version, format!("does not fit: {why}"), context);
                return false;
            }
        };
        let made = known.made;
        self.replicas_started += 1;
        let name = format!("{}-{}-{}", flat(&self.name), version.of.colour.name(), self.replicas_started);
        let start = Start {
            service: &self.name,
            object: &version.written.object,
            name: name.clone(),
            place: placed,
            wharf: context.wharf.clone(),
            folder: &context.folder,
            folders: &context.folders,
            prober: context.prober.clone(),
            messages: context.messages.clone(),
            now_ms: context.now_ms(),
        };
        match start.start() {
            Ok(mut replica) => {
                context.take(&replica.name, &replica.place);
                let missing = version.missing.unwrap_or(replica.started);
                let wanted = self.wanted_since.unwrap_or(missing);
                replica.waited = waited(Times { wanted, missing, started: replica.started }, made);
                if replica.place.device == Device::Cpu {
                    let message = format!(
                        "{name} computes on the CPU: no GPU of this machine has so much left for it; \
                         resources.gpu asks for one of its own"
                    );
                    self.tell(true, "ReplicaOnCpu", message, context);
                }
                version.replicas.push(replica);
                true
            }
            Err(why) => {
                self.not_started(version, why, context);
                false
            }
        }
    }

    fn not_started(&mut self, version: &mut Version, why: String, context: &Context) {
        let wait = version.backoff.ended(Duration::ZERO);
        version.retry_at = Some(Instant::now() + wait);
        let news = version.failure.as_ref().is_none_or(|failure| failure.reason != why);
        version.failure =
            Some(Failure { reason: why.clone(), restarts: version.backoff.ends(), lasting: false });
        if news {
            self.tell(true, "ReplicaNotStarted", format!("a replica {why}"), context);
        }
    }

    /// A replica takes requests.
    pub(crate) fn became_ready(&mut self, name: &str, context: &Context) {
        let Some((version, index)) = self.find(name) else { return };
        let replica = &mut version.replicas[index];
        if replica.state != State::Starting {
            return;
        }
        (replica.state, replica.since, replica.since_ms) = (State::Ready, Instant::now(), context.now_ms());
        // What keeps another one from starting is still so.
        if version.retry_at.is_none() {
            version.failure = None;
        }
        let load = replica.started.elapsed().as_secs_f64();
        let message = format!("{name} answers on {} after {load:.2} s", replica.address);
        let Waited { schedule, fetch } = replica.waited;
        let cold_start = ColdStartView {
            schedule: schedule.as_secs_f64(),
            fetch: fetch.as_secs_f64(),
            load,
            ..ColdStartView::default()
        };
        self.cold_start = Some((name.to_owned(), cold_start));
        self.tell(false, "ReplicaReady", message, context);
    }

    /// A replica has answered its first prompts, or not.
    pub(crate) fn warmed(&mut self, name: &str, outcome: Result<(), String>, took: Duration) {
        let Some((version, index)) = self.find(name) else { return };
        version.replicas[index].warmth = match outcome {
            Ok(()) => Warmth::Warm,
            Err(why) => Warmth::Failed(why),
        };
        if let Some((of, cold_start)) = &mut self.cold_start
            && of == name
        {
            cold_start.warm = took.as_secs_f64();
        }
    }

    /// A replica that lived does not answer any more: it is ended, and started again as one that ended by itself.
    pub(crate) fn silent(&mut self, name: &str) {
        if let Some((version, index)) = self.find(name) {
            version.replicas[index].child.kill();
        }
    }

    /// A replica ended.
    pub(crate) fn exited(&mut self, name: &str, exit: &Exit, context: &Context) {
        let Some((version, index)) = self.find(name) else { return };
        let replica = version.replicas.remove(index);
        context.release(name);
        if replica.told.is_some() || replica.state == State::Draining {
            return;
        }
        let ready_for = if replica.state == State::Ready { replica.since.elapsed() } else { Duration::ZERO };
        let wait = version.backoff.ended(ready_for);
        let slow = replica.state == State::Starting
            && replica.started.elapsed() > version.written.object.spec.server.longest_start.get();
        let reason = match slow {
            true => format!("it was not ready in the time of server.longestStart; it {}", exit.reason()),
            false => exit.reason(),
        };
        let lasting = replica.state == State::Starting
            && exit.code == Some(BAD_INPUT)
            && version.written.object.spec.runtime.engine == wharf_spec::service::Engine::Wharf;
        version.failure = Some(Failure { reason: reason.clone(), restarts: version.backoff.ends(), lasting });
        version.retry_at = Some(Instant::now() + wait);
        let again = match version.wanted {
            0 => String::new(),
            _ => format!("; it is started again in {:.1} s", wait.as_secs_f64()),
        };
        self.tell(true, "ReplicaExited", format!("{name} {reason}{again}"), context);
    }

    fn find(&mut self, name: &str) -> Option<(&mut Version, usize)> {
        self.versions.values_mut().find_map(|version| {
            let index = version.replicas.iter().position(|replica| replica.name == name)?;
            Some((version, index))
        })
    }

    pub(super) fn ready(&self) -> u32 {
        self.versions.values().map(|version| version.count(State::Ready)).sum()
    }

    pub(super) fn starting(&self) -> u32 {
        self.versions.values().map(|version| version.count(State::Starting)).sum()
    }

    /// Everything ends now: replicas are asked to, and after `kill` made to.
    pub(crate) fn end(&mut self, kill: bool) {
        self.preparing.values().for_each(AbortHandle::abort);
        for replica in self.versions.values_mut().flat_map(|version| &mut version.replicas) {
            drain(replica);
            match (kill, replica.told) {
                (true, _) => replica.child.kill(),
                (false, None) => {
                    replica.child.terminate();
                    replica.told = Some(Instant::now());
                }
                (false, Some(_)) => {}
            }
        }
    }

    /// Names of replicas and whether they are of the version that serves.
    pub(crate) fn replica_names(&self) -> BTreeMap<String, bool> {
        let active = self.rollout.active.as_ref().map(|active| active.colour);
        self.versions
            .iter()
            .flat_map(|(colour, version)| {
                let serves = Some(*colour) == active;
                version.replicas.iter().map(move |replica| (replica.name.clone(), serves))
            })
            .collect()
    }
}
