//! Does what a look at a model decided: its volume and rights, then one Job after the other.

use kube::ResourceExt;
use serde_json::Value;
use wharf_cluster::Object;

use super::validate::Wanted;
use crate::apply::{apply, learn, prune};
use crate::context::Context;
use crate::error::Error;
use crate::jobs::Progress;

pub(super) async fn carry_out(
    context: &Context,
    object: &Object,
    wanted: &Wanted,
    progress: &Progress<'_>,
    live: &[Object],
) -> Result<(), Error> {
    learn(context, &object.metadata);
    apply(context, &wanted.children).await?;
    // A Job cannot be changed: one that is there stays as it is.
    if let Some(next) = progress.next
        && live.iter().all(|job| next["metadata"]["name"] != job.name_any())
    {
        apply(context, std::slice::from_ref(next)).await?;
    }
    let all: Vec<Value> = wanted.children.iter().chain(&wanted.jobs).cloned().collect();
    // Jobs of a model that is ready are kept for their logs.
    let ready = wanted.jobs.is_empty();
    prune(context, &object.metadata, &all, |child| {
        ready && child.types.as_ref().is_some_and(|types| types.kind == "Job")
    })
    .await
}
