//! Does what a look at a model decided: its volume and rights, one Job after the other, and Jobs that remove what nobody needs.

use kube::ResourceExt;
use serde_json::Value;
use wharf_cluster::Object;
use wharf_manifests::names::REMOVES;
use wharf_manifests::{Stored, removal};

use super::Found;
use super::collect::Decision;
use super::validate::Wanted;
use crate::apply::{apply, delete, learn, own, prune};
use crate::context::Context;
use crate::error::Error;
use crate::jobs::{self, Progress};
use crate::live::mark;

pub(super) async fn carry_out(
    context: &Context,
    found: &Found,
    wanted: &Wanted,
    progress: &Progress<'_>,
    collected: &Decision,
) -> Result<(), Error> {
    let metadata = &found.object.metadata;
    learn(context, metadata);
    apply(context, &wanted.children).await?;
    // A Job cannot be changed: one that is there stays as it is.
    if let Some(next) = progress.next
        && found.live.iter().all(|job| next["metadata"]["name"] != job.name_any())
    {
        apply(context, std::slice::from_ref(next)).await?;
    }
    remove(context, found, wanted, collected).await?;
    let all: Vec<Value> = wanted.children.iter().chain(&wanted.jobs).cloned().collect();
    // Jobs of a model that is ready are kept for their logs; those that remove something go by themselves.
    let ready = wanted.jobs.is_empty();
    prune(context, metadata, &all, |child| {
        let is_job = child.types.as_ref().is_some_and(|types| types.kind == "Job");
        is_job && (ready || child.labels().contains_key(REMOVES))
    })
    .await
}

/// Starts and stops the Jobs that remove what nobody needs.
async fn remove(
    context: &Context,
    found: &Found,
    wanted: &Wanted,
    collected: &Decision,
) -> Result<(), Error> {
    let job = |(stored, of): &(Stored, String)| {
        let mut job = removal(&wanted.model, stored, of, &context.settings);
        own(&found.object, &mut job);
        mark(&mut job);
        job
    };
    // A Job that has made it would still say that it is there.
    let is_over = |maker: &&Object| jobs::has_ended(maker) && !maker.labels().contains_key(REMOVES);
    for maker in found.live.iter().filter(is_over) {
        if collected.start.iter().any(|(stored, _)| maker.data.to_string().contains(&stored.name)) {
            delete(context, maker).await?;
        }
    }
    let started: Vec<Value> = collected.start.iter().map(job).collect();
    apply(context, &started).await?;
    for stopped in collected.stop.iter().map(job) {
        if let Some(live) = found.live.iter().find(|live| stopped["metadata"]["name"] == live.name_any()) {
            delete(context, live).await?;
        }
    }
    Ok(())
}
