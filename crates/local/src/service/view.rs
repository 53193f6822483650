//! A service as people see it.

use std::collections::VecDeque;

use wharf_api::console::{EventView, ReplicaView, ScaleChange, ScalingView, ServiceFacts, VersionView};
use wharf_rollout::{Phase, describe};

use super::{REMEMBERED, Service};
use crate::prepare::Prepared;
use crate::replica::{Replica, State, Warmth};
use crate::supervisor::Context;

impl Service {
    /// Everything that there is to say.
    pub(crate) fn facts(&self, context: &Context) -> ServiceFacts {
        let (phase, message) = self.phase();
        let bounds = self.written().map_or((0, 0), |written| {
            let scaling = &written.object.spec.scaling;
            (scaling.min, scaling.most())
        });
        ServiceFacts {
            phase: phase.to_owned(),
            message: self.complaint.clone().unwrap_or(message),
            generation: self.generation,
            wanted: self.scaling.wanted(),
            bounds,
            replicas: self.replicas(context),
            versions: self.versions(),
            rollout: (self.rollout.phase != Phase::Idle).then(|| describe(&self.rollout)),
            scaling: self.scaling.status().map(|status| ScalingView {
                decided: status.decided.unwrap_or_default(),
                reason: status.reason,
                error: status.error,
                changes: self.changes.iter().cloned().collect(),
            }),
            cold_start: self.cold_start.as_ref().map(|(_, cold_start)| *cold_start),
            events: self.events.iter().cloned().collect::<Vec<EventView>>(),
        }
    }

    /// How it is, in the words of `status.phase`, and why.
    fn phase(&self) -> (&'static str, String) {
        let (ready, wanted) = (self.ready(), self.scaling.wanted());
        let trouble = self.versions.values().find_map(|version| version.failure.as_ref());
        let rollout = &self.rollout;
        if self.is_going() {
            return ("Pending", "it is in none of the files any more and ends".to_owned());
        }
        if ready == 0 {
            if rollout.phase == Phase::Failed {
                return ("Failed", rollout.reason.clone());
            }
            if let Some(failure) = trouble {
                return ("Starting", format!("a replica {}", failure.reason));
            }
            return match self.models.get(&self.revision) {
                Some(Prepared::Running { verb, said }) if rollout.active.is_none() => {
                    ("Preparing", format!("`wharf {verb}` runs: {said}").trim_end_matches(": ").to_owned())
                }
                Some(Prepared::Failed(reason)) if rollout.active.is_none() => ("Failed", reason.clone()),
                _ if wanted == 0 => ("Idle", asleep(self.is_gone(), self.scaling.status().is_some())),
                _ => ("Starting", "a replica starts".to_owned()),
            };
        }
        if rollout.active.is_some() && !rollout.phase.is_settled() {
            return ("RollingOut", rollout.reason.clone());
        }
        match trouble {
            Some(failure) => ("Degraded", format!("a replica {}", failure.reason)),
            None => ("Ready", format!("{ready} of {wanted} replicas take requests")),
        }
    }

    fn replicas(&self, context: &Context) -> Vec<ReplicaView> {
        let mut views = Vec::new();
        for (colour, version) in &self.versions {
            let view = |replica: &Replica| ReplicaView {
                name: replica.name.clone(),
                address: replica.address.clone(),
                colour: colour.name().to_owned(),
                state: match replica.state {
                    State::Starting => "starting",
                    State::Ready => "ready",
                    State::Draining => "draining",
                }
                .to_owned(),
                reason: match &replica.warmth {
                    Warmth::Failed(why) => why.clone(),
                    Warmth::Warming => "it answers its first prompts".to_owned(),
                    Warmth::Cold | Warmth::Warm => String::new(),
                },
                pid: Some(replica.child.pid()),
                restarts: version.restarts(),
                since_ms: replica.since_ms,
            };
            views.extend(version.replicas.iter().map(view));
            if let (true, Some(failure)) = (version.waits(), &version.failure) {
                views.push(ReplicaView {
                    name: format!("{}-{}", super::flat(&self.name), colour.name()),
                    colour: colour.name().to_owned(),
                    state: "waiting".to_owned(),
                    reason: failure.reason.clone(),
                    restarts: version.restarts(),
                    since_ms: context.now_ms(),
                    ..ReplicaView::default()
                });
            }
        }
        views
    }

    fn versions(&self) -> Vec<VersionView> {
        self.versions
            .iter()
            .map(|(colour, version)| VersionView {
                colour: colour.name().to_owned(),
                generation: version.of.generation,
                weight: self
                    .traffic
                    .iter()
                    .find(|traffic| traffic.colour.as_str() == colour.name())
                    .map_or(0, |traffic| traffic.weight),
                ready: version.count(State::Ready),
                wanted: version.wanted,
            })
            .collect()
    }

    /// The number of replicas changed.
    pub(crate) fn scaled(&mut self, from: u32, to: u32, reason: String, context: &Context) {
        let reason = without_count(&reason, to).to_owned();
        keep(&mut self.changes, ScaleChange { at_ms: context.now_ms(), from, to, reason: reason.clone() });
        self.tell(false, "Scaled", format!("from {from} to {to} replicas: {reason}"), context);
    }

    /// Somebody wants so many replicas.
    pub(crate) fn scale(&mut self, to: u32, context: &Context) {
        let from = self.scaling.wanted();
        self.scaling.set(to);
        if from != to {
            self.scaled(from, to, "somebody asked for it".to_owned(), context);
        }
    }
}

/// A reason without the number that it begins with, which stands before it anyway.
fn without_count(reason: &str, replicas: u32) -> &str {
    let counted = format!("{replicas} replica{}: ", if replicas == 1 { "" } else { "s" });
    reason.strip_prefix(&counted).unwrap_or(reason)
}

/// Why nothing runs, or soon nothing will; and what would start it.
fn asleep(is_gone: bool, wakes: bool) -> String {
    let why = match (is_gone, wakes) {
        (false, _) => "its last replica lets its requests end",
        (true, true) => "nobody has called for a while",
        (true, false) => "no replica is asked for",
    };
    let then = if wakes { "it wakes with the next request" } else { "`wharf scale` starts it" };
    format!("{why}; {then}")
}

/// Remembers the newest.
fn keep<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}
