//! What a release sees at a moment: versions, the model, gateways.

use std::collections::BTreeMap;

use kube::ResourceExt;
use tokio::time::Instant;
use wharf_cluster::Object;
use wharf_manifests::names::COLOUR;
use wharf_manifests::{Stored, service_needs};
use wharf_rollout::{Desired, Observed, Phase, Prepared, Room, State, Strategy};
use wharf_spec::LLMService;
use wharf_spec::service::ScalingMode;

use super::build;
use super::dereference::Found;
use super::direct;
use super::full_name;
use super::measured;
use super::validate::Wanted;
use crate::context::Context;
use crate::gateways::Heard;
use crate::jobs;
use crate::probe::ask_makers;
use crate::users::removed;
use crate::view::Child;
use crate::{observe, room};

pub(super) async fn look(context: &Context, found: &Found, wanted: &Wanted) -> Observed {
    ask_makers(context, &found.makers).await;
    let heard = match wanted.service.spec.expose.direct {
        true => direct::hear(context, found, &wanted.before.traffic).await,
        false => context.gateways.hear(&full_name(&found.object)).await,
    };
    count(context, found, &heard);
    let mut busy: BTreeMap<String, u64> = BTreeMap::new();
    for (address, requests) in heard.iter().flat_map(|heard| &heard.busy) {
        let known = busy.entry(address.clone()).or_default();
        // Endpoints say this of themselves, so gateways repeat each other.
        *known = (*known).max(*requests);
    }
    // Others ask the memory in between.
    let warmth = |uid: &str| context.memory().warmth.get(uid).cloned();
    Observed {
        now_ms: context.now_ms(),
        desired: Desired {
            generation: wanted.generation,
            revision: wanted.revision.clone(),
            replicas: replicas(&wanted.service),
            prepared: prepared(context, found, wanted),
            // A node that is added for pods that wait is added for none that are held back: what is lacking is said, and waited for by them.
            room: Room::Fits,
        },
        versions: observe::versions(&found.workloads, &found.servers, warmth, &busy),
        gateways: heard.into_iter().map(|heard| heard.gateway).collect(),
        commands: wanted.commands.clone(),
    }
}

/// Takes note of what gateways have counted, over stretches as long as a settled service is left alone.
fn count(context: &Context, found: &Found, heard: &[Heard]) {
    let Some(uid) = found.object.metadata.uid.clone() else { return };
    let mut memory = context.memory();
    let before = memory.counted.remove(&uid);
    memory.counted.insert(uid, measured::count(before, heard, Instant::now(), context.longest));
}

/// Replicas that are asked for, within the bounds of scaling.
pub(super) fn replicas(service: &LLMService) -> u32 {
    let scaling = &service.spec.scaling;
    match scaling.mode {
        ScalingMode::None => service.spec.replicas,
        ScalingMode::Native | ScalingMode::Hpa | ScalingMode::Keda => {
            service.spec.replicas.clamp(scaling.min, scaling.most())
        }
    }
}

/// Why a version that is about to start has no room beside the one that serves; nothing where nobody asked to foresee it.
pub(super) fn lacks(context: &Context, found: &Found, wanted: &Wanted, state: &State) -> Option<String> {
    let (nodes, candidate) = (context.nodes.as_ref()?, state.candidate.as_ref()?);
    let begins = matches!(state.phase, Phase::Preparing | Phase::Warming)
        && found.workloads.iter().all(|workload| workload.revision != candidate.revision);
    if !begins || state.active.is_none() || state.strategy != Strategy::BlueGreen {
        return None;
    }
    let nodes: Vec<Object> = nodes.state().iter().map(|node| node.object()).collect();
    let (namespace, name) = (found.object.namespace(), found.object.name_any());
    // What is kept in its colour goes before it comes.
    let goes = |pod: &Child| {
        let is_own = pod.namespace() == namespace.as_deref() && pod.marks.is_of_service(&name);
        is_own && pod.object().labels().get(COLOUR).map(String::as_str) == Some(candidate.colour.name())
    };
    room::lacks(&wanted.service, replicas(&wanted.service), &nodes, &context.view.held(goes))
}

/// Whether the model of the wanted revision is there.
fn prepared(context: &Context, found: &Found, wanted: &Wanted) -> Prepared {
    if let Some(of_model @ (Prepared::Pending(_) | Prepared::Failed(_))) = &wanted.model {
        return of_model.clone();
    }
    // What runs has its model: an upgrade of Wharf, whose Jobs have other names, makes nothing anew.
    if found.workloads.iter().any(|workload| workload.revision == wanted.revision) {
        return Prepared::Ready;
    }
    if let Some(why) = held(context, found, wanted) {
        return Prepared::Pending(why);
    }
    match build::children(&found.object, wanted, &context.settings) {
        Ok(built) => {
            jobs::progress(&built.jobs, &found.jobs, &found.makers, |uid| context.said(uid)).prepared
        }
        Err(error) => Prepared::Failed(error.to_string()),
    }
}

/// Why the model of the wanted revision must not be made or served yet: in a volume that is shared with a Model, it is being removed.
pub(super) fn held(context: &Context, found: &Found, wanted: &Wanted) -> Option<String> {
    let needed: Vec<Stored> =
        service_needs(&found.object.name_any(), &wanted.service.spec.model).into_iter().collect();
    removed(context, &found.object, &needed)
}
