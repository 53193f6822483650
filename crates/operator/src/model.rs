//! A look at a model: validate, observe its Jobs, say how far they are, start the next.

mod apply;
mod status;
mod validate;

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use wharf_cluster::Object;

use crate::context::Context;
use crate::error::Error;
use crate::probe::ask_makers;
use crate::{jobs, status as write};

/// Between two looks at a model that is being made: each may change its status.
const BEATS: u32 = 5;

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
    let live = context
        .view
        .children(("batch/v1", "Job"), &namespace, |job| job.is_of_model(&name) && job.is_owned_by(&uid));
    let pods = context.view.children(("v1", "Pod"), &namespace, |pod| pod.is_of_model(&name));
    ask_makers(&context, &pods).await;
    let progress = jobs::progress(&wanted.jobs, &live, &pods, |uid| context.said(uid));
    let results = jobs::results(&wanted.jobs, &pods);
    status::keep(&context, &object, &wanted, &progress, results).await?;
    apply::carry_out(&context, &object, &wanted, &progress, &live).await?;
    let works = jobs::running(&pods).next().is_some();
    Ok(Action::requeue(if works { context.beat * BEATS } else { context.longest }))
}
