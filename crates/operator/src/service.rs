//! A look at a service: dereference, validate, observe, keep the status, apply.

pub(crate) mod apply;
mod build;
mod dereference;
mod direct;
mod edits;
mod look;
mod measured;
mod slices;
mod status;
mod validate;

use dereference::Found;
pub(crate) use dereference::referred;
pub(crate) use measured::Counted;
pub(crate) use validate::{COMMAND, Refusal, SPECS, checked, word};

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use wharf_cluster::Object;
use wharf_rollout::{Policy, step};

use crate::context::Context;
use crate::error::Error;
use crate::{events, status as write};

/// Looks at a service and does what follows. What it did not finish comes again.
pub(crate) async fn reconcile(object: Object, context: Arc<Context>) -> Result<Action, Error> {
    if object.metadata.deletion_timestamp.is_some() {
        // What it owns goes with it; nothing else is to be done.
        return Ok(Action::await_change());
    }
    if write::is_stale(&context, &object) {
        return Err(Error::Stale);
    }
    let found = dereference::dereference(&context, &object);
    let wanted = match validate::validate(&context, &found) {
        Ok(wanted) => wanted,
        Err(refusal) => {
            status::refuse(&context, &object, &refusal).await?;
            return Ok(Action::await_change());
        }
    };
    let observed = look::look(&context, &found, &wanted).await;
    let step = step(&wanted.state, &observed, &Policy::from(&wanted.service.spec.rollout));
    status::keep(&context, &found, &wanted, &observed, &step).await?;
    crate::apply::tell(&context, &object, events::of_step(&step.actions)).await;
    context.autoscalers.follow(&context, &object, wanted.policy.clone());
    apply::carry_out(&context, &found, &wanted, &step).await?;
    Ok(Action::requeue(again_in(&context, &found, &step)))
}

/// When to look again although nothing changed.
fn again_in(context: &Context, found: &Found, step: &wharf_rollout::Step) -> Duration {
    let busy = !step.state.phase.is_settled() || edits::is_held(context, &found.object);
    let due = step.look_again_ms.map(|ms| Duration::from_millis(ms.saturating_sub(context.now_ms()).max(1)));
    let longest = if busy { context.beat } else { context.longest };
    due.map_or(longest, |due| due.min(longest))
}

/// `namespace/name`, as gateways call it.
fn full_name(object: &kube::api::DynamicObject) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
