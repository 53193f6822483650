//! What the status of a service says: decided purely, kept before anything is done.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::json;
use wharf_cluster::Object;
use wharf_manifests::names::{PART, Part, SERVICE};
use wharf_rollout::{Action, Observed, Phase as Release, State, Step, VersionSeen};
use wharf_spec::scalar::LabelName;
use wharf_spec::service::{Phase, ServiceStatus};

use super::dereference::Found;
use super::look;
use super::validate::{IMAGES, Refusal, SPECS, Wanted, before, released};
use crate::context::Context;
use crate::error::Error;
use crate::observe;
use crate::status::{Says, applied, conditions, write};
use crate::workload::RELEASED;
use crate::{apply, events};

/// A second version does not fit beside the first.
const NO_ROOM: &str = "NoRoom";

/// Keeps the state of the release and says how the service is, if that is news.
pub(super) async fn keep(
    context: &Context,
    found: &Found,
    wanted: &Wanted,
    observed: &Observed,
    step: &Step,
) -> Result<(), Error> {
    let uid = found.object.metadata.uid.clone().unwrap_or_default();
    let trouble = context.memory().trouble.get(&uid).cloned();
    let mut status = describe(found, wanted, observed, step);
    let warmth = |uid: &str| context.memory().warmth.get(uid).cloned();
    let measured = observe::cold_start(&found.servers, warmth, wanted.before.cold_start.as_ref());
    status.cold_start = measured.or_else(|| wanted.before.cold_start.clone());
    let lately = context.memory().counted.get(&uid).and_then(|counted| counted.measured.clone());
    // A new operator does not know yet.
    status.measured = lately.unwrap_or_else(|| wanted.before.measured.clone());
    let lacks = look::lacks(context, found, wanted, &step.state);
    let mut says = says(&step.state, observed);
    says.extend(applied(trouble.as_ref()));
    says.extend(lacks.as_ref().map(|why| Says::new("Room", false, NO_ROOM, why.clone())));
    status.conditions = conditions(&wanted.before.conditions, says, wanted.generation, context.now_ms());
    let (specs, images) = (specs(found, wanted, &step.state), images(found, wanted, &step.state));
    let noted = wanted.specs == specs && wanted.images == images;
    let known = wanted.before.rollout.is_some() && wanted.state == step.state && noted;
    let same = ServiceStatus { rollout: None, ..status.clone() }
        == ServiceStatus { rollout: None, ..wanted.before.clone() };
    if known && same {
        return Ok(());
    }
    let mut rollout = serde_json::to_value(&step.state).unwrap_or_default();
    rollout[SPECS] = json!(specs);
    rollout[IMAGES] = json!(images);
    status.rollout = Some(rollout);
    put(context, &found.object, &status).await?;
    let new = trouble.filter(|(reason, message)| !was_told(&wanted.before, reason, message));
    let told = new.map(|(reason, message)| events::event(true, &reason, &message));
    // How much is free changes while it lacks; that it lacks is told once.
    let lacked = wanted.before.conditions.iter().any(|condition| condition.reason == NO_ROOM);
    let lacks = lacks.filter(|_| !lacked).map(|why| events::event(true, NO_ROOM, &why));
    apply::tell(context, &found.object, told.into_iter().chain(lacks).collect()).await;
    Ok(())
}

/// What each version was made from, so that one whose Deployment somebody deletes can be made again.
fn specs(found: &Found, wanted: &Wanted, state: &State) -> BTreeMap<String, String> {
    let spec = |revision: &String| match *revision == wanted.revision {
        true => Some(released(&wanted.service)),
        false => {
            let workload = found.workloads.iter().find(|workload| workload.revision == *revision);
            let noted = workload.and_then(|workload| workload.object.annotations().get(RELEASED));
            noted.or(wanted.specs.get(revision)).cloned()
        }
    };
    revisions(state).filter_map(|revision| Some((revision.clone(), spec(revision)?))).collect()
}

/// The image that the engine of each version ran first: one that is made again runs no other, whatever an upgrade of Wharf would bring.
fn images(found: &Found, wanted: &Wanted, state: &State) -> BTreeMap<String, String> {
    let image = |revision: &String| {
        let workload = found.workloads.iter().find(|workload| workload.revision == *revision);
        wanted.images.get(revision).cloned().or_else(|| workload?.image().map(str::to_owned))
    };
    revisions(state).filter_map(|revision| Some((revision.clone(), image(revision)?))).collect()
}

/// Revisions of the versions that there are.
fn revisions(state: &State) -> impl Iterator<Item = &String> {
    let kept = state.kept.as_ref().map(|kept| &kept.version);
    [state.active.as_ref(), state.candidate.as_ref(), kept]
        .into_iter()
        .flatten()
        .map(|version| &version.revision)
}

/// Says that nothing can be done with an object. What serves goes on.
pub(super) async fn refuse(context: &Context, object: &Object, refusal: &Refusal) -> Result<(), Error> {
    let before = before(object);
    let generation = object.metadata.generation.unwrap_or(0);
    let mut status = before.clone();
    status.observed_generation = Some(generation);
    let Refusal { reason, message } = refusal;
    let serves = before.ready_replicas > 0;
    if !serves {
        status.phase = Some(Phase::Failed);
    }
    let mut says = vec![
        Says::new("Ready", false, *reason, message.clone()),
        Says::new("Progressing", false, *reason, "nothing is changed until the object is corrected"),
        Says::new("Stalled", true, *reason, message.clone()),
    ];
    if !serves {
        says.push(Says::new("Failed", true, *reason, message.clone()));
    }
    status.conditions = conditions(&before.conditions, says, generation, context.now_ms());
    if status == before {
        return Ok(());
    }
    put(context, object, &status).await?;
    if !was_told(&before, reason, message) {
        apply::tell(context, object, vec![events::event(true, reason, message)]).await;
    }
    Ok(())
}

async fn put(context: &Context, object: &DynamicObject, status: &ServiceStatus) -> Result<(), Error> {
    let value = serde_json::to_value(status).unwrap_or_default();
    write(context, &context.services, object, &value).await
}

fn was_told(before: &ServiceStatus, reason: &str, message: &str) -> bool {
    before.conditions.iter().any(|condition| condition.reason == reason && condition.message == message)
}

/// Everything but conditions and the state of the release.
fn describe(found: &Found, wanted: &Wanted, observed: &Observed, step: &Step) -> ServiceStatus {
    let Wanted { service, generation, before, .. } = wanted;
    let state = &step.state;
    let traffic = step.actions.iter().find_map(|action| match action {
        Action::SetTraffic(traffic) => Some(traffic.clone()),
        _ => None,
    });
    let active = state.active.as_ref();
    let image = active.and_then(|active| image(found, active.colour));
    let name = found.object.name_any();
    ServiceStatus {
        observed_generation: Some(*generation),
        phase: Some(phase(state, observed)),
        conditions: Vec::new(),
        url: Some(url(found, wanted)),
        model: Some(service.spec.model.name.clone().unwrap_or_else(|| name.clone())),
        replicas: total(observed, |seen| seen.ready + seen.starting),
        ready_replicas: total(observed, |seen| seen.ready),
        selector: Some(format!("{SERVICE}={name},{PART}={}", Part::Server.name())),
        colour: active.map(|active| LabelName::from(active.colour)),
        image: image.or_else(|| before.image.clone()),
        traffic: traffic.unwrap_or_else(|| before.traffic.clone()),
        rollout: None,
        cold_start: None,
        measured: None,
    }
}

fn image(found: &Found, colour: wharf_rollout::Colour) -> Option<String> {
    let workload = found.workloads.iter().find(|workload| workload.colour == colour)?;
    workload.image().map(str::to_owned)
}

fn url(found: &Found, wanted: &Wanted) -> String {
    let expose = &wanted.service.spec.expose;
    let scheme = if expose.tls.is_some() { "https" } else { "http" };
    match &expose.host {
        Some(host) => format!("{scheme}://{host}"),
        None => format!(
            "{scheme}://{}.{}.svc",
            found.object.name_any(),
            found.object.namespace().unwrap_or_default()
        ),
    }
}

fn total(observed: &Observed, count: impl Fn(&VersionSeen) -> u32) -> i32 {
    i32::try_from(observed.versions.values().map(count).sum::<u32>()).unwrap_or(i32::MAX)
}

/// What there is of the version that serves.
fn serving<'a>(state: &State, observed: &'a Observed) -> Option<&'a VersionSeen> {
    observed.versions.get(&state.active.as_ref()?.colour)
}

/// Ready replicas of all versions that have traffic; before there is any, of the one that serves.
fn answering(state: &State, observed: &Observed) -> u32 {
    let candidate = state
        .candidate
        .as_ref()
        .filter(|_| matches!(state.phase, Release::Shifting { .. } | Release::Verifying));
    let of_candidate =
        candidate.and_then(|candidate| observed.versions.get(&candidate.colour)).map_or(0, |seen| seen.ready);
    serving(state, observed).map_or(0, |seen| seen.ready) + of_candidate
}

fn phase(state: &State, observed: &Observed) -> Phase {
    let ready = answering(state, observed);
    match state.phase {
        Release::Failed => Phase::Failed,
        Release::Preparing if state.active.is_none() => Phase::Preparing,
        Release::Idle if state.active.is_none() => Phase::Pending,
        _ if state.active.is_none() => Phase::Starting,
        Release::Idle | Release::Promoted | Release::RolledBack => match (ready, observed.desired.replicas) {
            (0, 0) => Phase::Idle,
            (0, _) if serving(state, observed).is_none_or(|seen| seen.failure.is_some()) => Phase::Degraded,
            (0, _) => Phase::Starting,
            _ => Phase::Ready,
        },
        Release::Preparing
        | Release::Draining
        | Release::Warming
        | Release::Shifting { .. }
        | Release::Verifying
        | Release::RollingBack => Phase::RollingOut,
    }
}

/// How the service is, in sentences.
fn says(state: &State, observed: &Observed) -> Vec<Says> {
    let word = state.phase.name();
    let reason =
        if state.reason.is_empty() { "nothing was released yet".to_owned() } else { state.reason.clone() };
    let mut says = vec![ready(state, observed, &reason)];
    if !state.phase.is_settled() {
        says.push(Says::new("Progressing", true, word, reason.clone()));
        says.push(Says::new("Reconciling", true, word, reason));
        return says;
    }
    says.push(Says::new("Progressing", false, word, reason.clone()));
    if matches!(state.phase, Release::RolledBack | Release::Failed) {
        says.push(Says::new("Stalled", true, word, reason.clone()));
    }
    if state.phase == Release::Failed {
        says.push(Says::new("Failed", true, word, reason));
    }
    says
}

fn ready(state: &State, observed: &Observed, reason: &str) -> Says {
    let ready = answering(state, observed);
    let asleep = state.active.is_some() && state.phase.is_settled() && observed.desired.replicas == 0;
    if ready > 0 {
        return Says::new("Ready", true, "Serving", format!("{ready} {} requests", answer(ready)));
    }
    if asleep {
        return Says::new("Ready", true, "Asleep", "it has no replica, and wakes when somebody calls");
    }
    match serving(state, observed) {
        Some(VersionSeen { failure: Some(failure), .. }) => {
            Says::new("Ready", false, "Unavailable", format!("no replica answers: {}", failure.reason))
        }
        Some(_) if state.phase.is_settled() => {
            Says::new("Ready", false, "Starting", "no replica answers yet; some start")
        }
        _ => Says::new("Ready", false, state.phase.name(), reason),
    }
}

fn answer(count: u32) -> &'static str {
    if count == 1 { "replica answers" } else { "replicas answer" }
}

#[cfg(test)]
mod tests {
    use wharf_rollout::{Colour, Desired, Failure, Version};

    use super::*;

    fn state(phase: Release, active: bool, reason: &str) -> State {
        let version = Version { colour: Colour::Blue, generation: 1, revision: "r".to_owned() };
        State { phase, reason: reason.to_owned(), active: active.then_some(version), ..State::default() }
    }

    fn observed(wanted: u32, ready: u32, failure: Option<&str>) -> Observed {
        let failure =
            failure.map(|reason| Failure { reason: reason.to_owned(), restarts: 3, lasting: false });
        let seen = VersionSeen { revision: "r".to_owned(), ready, failure, ..VersionSeen::default() };
        Observed {
            desired: Desired { replicas: wanted, ..Desired::default() },
            versions: BTreeMap::from([(Colour::Blue, seen)]),
            ..Observed::default()
        }
    }

    #[test]
    fn a_phase_is_one_word_for_how_the_service_is() {
        let cases = [
            (state(Release::Idle, false, ""), observed(1, 0, None), Phase::Pending),
            (state(Release::Preparing, false, "fetches"), observed(1, 0, None), Phase::Preparing),
            (state(Release::Warming, false, "starts"), observed(1, 0, None), Phase::Starting),
            (state(Release::Promoted, true, ""), observed(1, 1, None), Phase::Ready),
            (state(Release::Promoted, true, ""), observed(0, 0, None), Phase::Idle),
            (state(Release::Promoted, true, ""), observed(1, 0, Some("exits")), Phase::Degraded),
            (state(Release::Promoted, true, ""), observed(1, 0, None), Phase::Starting),
            (state(Release::Warming, true, ""), observed(1, 1, None), Phase::RollingOut),
            (state(Release::Failed, false, "exits"), observed(1, 0, None), Phase::Failed),
        ];
        for (state, observed, expected) in cases {
            assert_eq!(phase(&state, &observed), expected, "{state:?}");
        }
    }

    #[test]
    fn conditions_are_those_that_kstatus_knows() {
        let kinds = |state: &State, observed: &Observed| -> Vec<(&'static str, bool, String)> {
            says(state, observed).into_iter().map(|says| (says.kind, says.holds, says.message)).collect()
        };
        let releases = kinds(&state(Release::Warming, true, "0 of 1 replica ready"), &observed(1, 2, None));
        let message = "0 of 1 replica ready".to_owned();
        let expected = [
            ("Ready", true, "2 replicas answer requests".to_owned()),
            ("Progressing", true, message.clone()),
            ("Reconciling", true, message),
        ];
        assert_eq!(releases, expected);
        let back = kinds(&state(Release::RolledBack, true, "it exits"), &observed(1, 1, None));
        assert!(back.contains(&("Stalled", true, "it exits".to_owned())), "{back:?}");
        let broken = kinds(&state(Release::Promoted, true, ""), &observed(1, 0, Some("exits with code 1")));
        assert_eq!(broken[0], ("Ready", false, "no replica answers: exits with code 1".to_owned()));
    }
}
