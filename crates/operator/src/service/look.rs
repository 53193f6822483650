//! What a release sees at a moment: versions, the model, gateways.

use std::collections::BTreeMap;

use wharf_rollout::{Desired, GatewaySeen, Observed, Prepared, Room};
use wharf_spec::LLMService;
use wharf_spec::service::ScalingMode;

use super::build;
use super::dereference::Found;
use super::full_name;
use super::validate::Wanted;
use crate::context::Context;
use crate::gateways::Heard;
use crate::jobs;
use crate::observe;
use crate::probe::ask_makers;

pub(super) async fn look(context: &Context, found: &Found, wanted: &Wanted) -> Observed {
    ask_makers(context, &found.makers).await;
    let direct = wanted.service.spec.expose.direct;
    let heard = match direct {
        true => vec![follows_itself(wanted)],
        false => context.gateways.hear(&full_name(&found.object)).await,
    };
    let mut busy: BTreeMap<String, u64> = BTreeMap::new();
    for (address, requests) in heard.iter().flat_map(|heard| &heard.busy) {
        let known = busy.entry(address.clone()).or_default();
        // Endpoints say this of themselves, so gateways repeat each other.
        *known = (*known).max(*requests);
    }
    let memory = context.memory();
    let warmth = |uid: &str| memory.warmth.get(uid).cloned();
    Observed {
        now_ms: context.now_ms(),
        desired: Desired {
            generation: wanted.generation,
            revision: wanted.revision.clone(),
            replicas: replicas(&wanted.service),
            prepared: prepared(context, found, wanted),
            // Whether it fits is seen when its pods find no node; they say so.
            room: Room::Fits,
        },
        versions: observe::versions(&found.workloads, &found.servers, warmth, &busy),
        gateways: heard.into_iter().map(|heard| heard.gateway).collect(),
        commands: wanted.commands.clone(),
    }
}

/// Where a Service selects the pods, it sends what was applied; nobody counts.
fn follows_itself(wanted: &Wanted) -> Heard {
    let gateway = GatewaySeen {
        name: "service".to_owned(),
        traffic: wanted.before.traffic.clone(),
        ..GatewaySeen::default()
    };
    Heard { gateway, busy: BTreeMap::new() }
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

/// Whether the model of the wanted revision is there.
fn prepared(context: &Context, found: &Found, wanted: &Wanted) -> Prepared {
    if let Some(of_model @ (Prepared::Pending(_) | Prepared::Failed(_))) = &wanted.model {
        return of_model.clone();
    }
    // What runs has its model: an upgrade of Wharf, whose Jobs have other names, makes nothing anew.
    if found.workloads.iter().any(|workload| workload.revision == wanted.revision) {
        return Prepared::Ready;
    }
    match build::children(&found.object, wanted, &context.settings) {
        Ok(built) => {
            jobs::progress(&built.jobs, &found.jobs, &found.makers, |uid| context.said(uid)).prepared
        }
        Err(error) => Prepared::Failed(error.to_string()),
    }
}
