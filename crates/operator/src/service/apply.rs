//! Does what a look decided: children first, then versions in the order in which the release wants them.

use std::sync::Arc;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::time::Instant;
use wharf_cluster::Object;
use wharf_manifests::names::{COLOUR, SERVICE};
use wharf_rollout::{Action, Colour, Prepared, Step, Version};
use wharf_spec::LLMService;

use super::build::{self, Built};
use super::dereference::Found;
use super::edits;
use super::look::held;
use super::slices;
use super::validate::Wanted;
use crate::apply::{apply, delete, learn, prune};
use crate::context::{Context, Warmth};
use crate::error::Error;
use crate::observe::is_serving;
use crate::scale::scale;
use crate::workload::{Workload, is_of};
use crate::{jobs, service};

/// Makes the cluster be as a step wants it.
///
/// # Errors
/// At the first thing that is refused; a kind that the cluster does not have is told of when the rest is done.
pub(crate) async fn carry_out(
    context: &Arc<Context>,
    found: &Found,
    wanted: &Wanted,
    step: &Step,
) -> Result<(), Error> {
    // A revision that cannot be rendered has no children; that it cannot is said in the status.
    let Ok(Built { mut children, jobs }) = build::children(&found.object, wanted, &context.settings) else {
        return Ok(());
    };
    learn(context, &found.object.metadata);
    children.extend(slices::slices(&found.object, &wanted.service.spec.expose, &found.gateways));
    let missing = match apply(context, &children).await {
        Err(error @ Error::Unserved { .. }) => Some(error),
        other => {
            other?;
            None
        }
    };
    start_job(context, found, wanted, &jobs).await?;
    let mut made = false;
    for action in &step.actions {
        made |= act(context, found, wanted, action).await?;
    }
    if made {
        // What it mounts belongs to something that the watch has not shown yet.
        return missing.map_or(Ok(()), Err);
    }
    let all: Vec<Value> = children.into_iter().chain(jobs).collect();
    prune(context, &found.object.metadata, &all, |child| is_spared(child, found, wanted)).await?;
    forget_pods(context, found);
    missing.map_or(Ok(()), Err)
}

/// Starts the Job whose turn it is, unless the wanted revision runs already.
async fn start_job(context: &Context, found: &Found, wanted: &Wanted, jobs: &[Value]) -> Result<(), Error> {
    let runs = found.workloads.iter().any(|workload| workload.revision == wanted.revision);
    let waits = matches!(wanted.model, Some(Prepared::Pending(_) | Prepared::Failed(_)));
    if runs || waits || held(context, found, wanted).is_some() {
        return Ok(());
    }
    match jobs::progress(jobs, &found.jobs, &found.makers, |_| None).next {
        // A Job cannot be changed: one that is there stays as it is.
        Some(next) if found.jobs.iter().all(|job| next["metadata"]["name"] != job.name_any()) => {
            apply(context, std::slice::from_ref(next)).await
        }
        _ => Ok(()),
    }
}

/// Does one of the things that a release wants. Says whether it made a workload.
async fn act(context: &Arc<Context>, found: &Found, wanted: &Wanted, action: &Action) -> Result<bool, Error> {
    match action {
        Action::EnsureVersion { version, replicas } => {
            ensure(context, found, wanted, version, *replicas).await
        }
        Action::WarmUp { colour, prompts } => {
            warm_up(context, found, wanted, *colour, *prompts);
            Ok(false)
        }
        Action::RemoveVersion { colour } => {
            for workload in found.workloads.iter().filter(|workload| workload.colour == *colour) {
                delete(context, &workload.object).await?;
            }
            Ok(false)
        }
        // In the status, which was written before; events, likewise told.
        Action::SetTraffic(_) | Action::Event { .. } => Ok(false),
    }
}

/// A version is there with so many replicas. What makes its pods is written once, and only scaled after that, or made again as it was. Says
/// whether it was written anew.
async fn ensure(
    context: &Context,
    found: &Found,
    wanted: &Wanted,
    version: &Version,
    replicas: u32,
) -> Result<bool, Error> {
    let there = found.workloads.iter().find(|workload| workload.colour == version.colour);
    if let Some(workload) = there {
        if workload.revision != version.revision {
            // In the way: the next look finds it gone.
            delete(context, &workload.object).await?;
        } else if !edits::put_right(context, found, workload, replicas).await?
            && workload.replicas != replicas
        {
            scale(context, workload, replicas).await?;
        }
        return Ok(false);
    }
    let known = wanted.specs.get(&version.revision).and_then(|spec| serde_json::from_str(spec).ok());
    let service = match (version.revision == wanted.revision, known) {
        (true, _) => wanted.service.clone(),
        (false, Some(spec)) => LLMService { spec, ..wanted.service.clone() },
        (false, None) => {
            let (service, revision) = (service::full_name(&found.object), &version.revision);
            tracing::error!(service, revision, "a version is gone, and with it what it was made from");
            return Ok(false);
        }
    };
    // One that cannot be rendered says so in the status.
    let image = wanted.images.get(&version.revision).map(String::as_str);
    let made = build::version(&found.object, (&service, image), &context.settings, version, replicas);
    apply(context, &made.unwrap_or_default()).await?;
    Ok(true)
}

/// Lets every ready replica that has not answered its prompts do so, each in a task of its own; the end of each asks for a look.
fn warm_up(context: &Arc<Context>, found: &Found, wanted: &Wanted, colour: Colour, prompts: u32) {
    let Some(workload) = found.workloads.iter().find(|workload| workload.colour == colour) else { return };
    let model = wanted.service.spec.model.name.clone().unwrap_or_else(|| found.object.name_any());
    for pod in found.servers.iter().filter(|pod| is_of(pod, workload) && is_serving(pod)) {
        let Some(uid) = pod.metadata.uid.clone() else { continue };
        if context.memory().warmth.contains_key(&uid) {
            continue;
        }
        context.memory().warmth.insert(uid.clone(), Warmth::Warming);
        let (context, pod, model) = (Arc::clone(context), Object::clone(pod), model.clone());
        let (namespace, name) = (found.object.namespace().unwrap_or_default(), found.object.name_any());
        tokio::spawn(async move {
            let began = Instant::now();
            let warmth = match context.probe.warm_up(&pod, &model, prompts).await {
                Ok(()) => Warmth::Warm(prompts, began.elapsed()),
                Err(why) => Warmth::Failed(why),
            };
            context.memory().warmth.insert(uid, warmth);
            context.services.ask(&namespace, &name);
        });
    }
}

/// Children that nobody lists but that stay: what makes pods is the release's, and what pods of an older version mount stays as long as they.
fn is_spared(child: &DynamicObject, found: &Found, wanted: &Wanted) -> bool {
    let kind = child.types.as_ref().map_or("", |types| types.kind.as_str());
    let is_workload = child.labels().contains_key(COLOUR);
    // While the model of another revision is made, what was made last is not looked at.
    let waits = matches!(wanted.model, Some(Prepared::Pending(_) | Prepared::Failed(_)));
    is_workload
        || !child.labels().contains_key(SERVICE)
        || waits
        || (kind == "ConfigMap" && found.workloads.iter().any(|workload| mounts(workload, &child.name_any())))
}

fn mounts(workload: &Workload, config: &str) -> bool {
    let mut volumes = workload.pod_specs().flat_map(|spec| spec["volumes"].as_array().into_iter().flatten());
    volumes.any(|volume| volume["configMap"]["name"] == config)
}

/// Nothing is remembered of pods that are gone. Those of other services are theirs to forget, so it is asked of all that there are.
fn forget_pods(context: &Context, found: &Found) {
    if context.memory().warmth.is_empty() {
        return;
    }
    let Some(types) = found.servers.first().and_then(|pod| pod.types.clone()) else { return };
    let pods = context.view.uids(&types.api_version, &types.kind);
    context.memory().warmth.retain(|uid, warmth| *warmth == Warmth::Warming || pods.contains(uid));
}
