//! A look at a model: validate, observe its Jobs, say how far they are, start the next.

mod apply;
mod status;
mod validate;

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use wharf_manifests::names::MODEL;

use crate::context::Context;
use crate::error::Error;
use crate::view::{Object, is_owned_by};
use crate::{jobs, status as write};

/// Looks at a model and does what follows. What it did not finish comes again.
pub(crate) async fn reconcile(object: Object, context: Arc<Context>) -> Result<Action, Error> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if write::is_stale(&context, &object) {
        return Err(Error::Stale);
    }
    let wanted = match validate::validate(&context, &object) {
        Ok(wanted) => wanted,
        Err(refusal) => {
            status::refuse(&context, &object, &refusal).await?;
            return Ok(Action::await_change());
        }
    };
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let is_ours = |child: &kube::api::DynamicObject| child.labels().get(MODEL) == Some(&name);
    let live =
        context.view.children(("batch/v1", "Job"), &namespace, |job| is_ours(job) && is_owned_by(job, &uid));
    let pods = context.view.children(("v1", "Pod"), &namespace, is_ours);
    let progress = jobs::progress(&wanted.jobs, &live, &pods);
    status::keep(&context, &object, &wanted, &progress).await?;
    apply::carry_out(&context, &object, &wanted, &progress, &live).await?;
    Ok(Action::requeue(context.longest))
}
