//! A look at a model: validate, observe its Jobs, say how far they are, start the next; and collect what nobody needs any more.

mod apply;
mod collect;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use wharf_cluster::Object;
use wharf_manifests::removal;
use wharf_rollout::Prepared;

use crate::apply::is_awaited;
use crate::context::Context;
use crate::error::Error;
use crate::jobs::{Fate, Progress};
use crate::probe::ask_makers;
use crate::users::{removed, user, users};
use crate::{jobs, status as write};
use collect::{Decision, Seen, decide};
use validate::Wanted;

/// Between two looks at a model that is being made: each may change its status.
const BEATS: u32 = 5;

/// What there is of a model.
struct Found {
    object: Object,
    /// Its Jobs.
    live: Vec<Object>,
    /// Their pods.
    pods: Vec<Object>,
}

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
    let found = observe(&context, &object);
    ask_makers(&context, &found.pods).await;
    let collected = collect(&context, &found, &wanted);
    let held = held(&context, &found, &wanted, &collected);
    let progress = match &held {
        Some(why) => waits(why),
        None => jobs::progress(&wanted.jobs, &found.live, &found.pods, |uid| context.said(uid)),
    };
    status::keep(&context, &found, &wanted, &progress, &collected).await?;
    apply::carry_out(&context, &found, &wanted, &progress, &collected).await?;
    let works = held.is_some() || jobs::running(&found.pods).next().is_some();
    let longest = if works { context.beat * BEATS } else { context.longest };
    let due = collected.due_ms.map(|due| Duration::from_millis(due.saturating_sub(context.now_ms()).max(1)));
    Ok(Action::requeue(due.map_or(longest, |due| due.min(longest))))
}

fn observe(context: &Context, object: &Object) -> Found {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let live = context
        .view
        .children(("batch/v1", "Job"), &namespace, |job| job.is_of_model(&name) && job.is_owned_by(&uid));
    let pods = context.view.children(("v1", "Pod"), &namespace, |pod| pod.is_of_model(&name));
    Found { object: Object::clone(object), live, pods }
}

/// What becomes of what its Jobs have made.
fn collect(context: &Context, found: &Found, wanted: &Wanted) -> Decision {
    let (object, before) = (&found.object, &wanted.before.artifacts);
    let namespace = object.namespace().unwrap_or_default();
    let mut users = users(context, &namespace, wanted.makes.iter().cloned(), before);
    for stored in &wanted.makes {
        // The watch may be late to say so.
        users.entry(stored.clone()).or_default().insert(user("Model", &object.name_any()));
    }
    // Jobs are gone from what is wanted when they are done.
    let said = |job: &serde_json::Value| jobs::results(std::slice::from_ref(job), &found.pods).bytes;
    let sizes = wanted.jobs.iter().map(said).chain(std::iter::repeat(None));
    let made: Vec<_> = wanted.makes.iter().cloned().zip(sizes).collect();
    let keep_ms = wanted.model.spec.keep_unused_for.get().as_millis();
    let seen = Seen {
        now_ms: context.now_ms(),
        keep_ms: u64::try_from(keep_ms).unwrap_or(u64::MAX),
        made: &made,
        before,
        users: &users,
    };
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    decide(&seen, |stored, mark| {
        let job = removal(&wanted.model, stored, mark, &context.settings);
        let name = job["metadata"]["name"].as_str().unwrap_or_default();
        let id = ("batch/v1".to_owned(), "Job".to_owned(), name.to_owned());
        match jobs::fate(name, &found.live, &found.pods) {
            Fate::Absent if is_awaited(context, uid, &id) => Fate::Works,
            fate => fate,
        }
    })
}

/// Why nothing may be made now: something of it is being removed.
fn held(context: &Context, found: &Found, wanted: &Wanted, collected: &Decision) -> Option<String> {
    if wanted.jobs.is_empty() {
        return None;
    }
    let marked = collected.artifacts.iter().filter(|artifact| artifact.removal.is_some());
    let mut needed = marked.filter(|artifact| {
        wanted.makes.iter().any(|made| made.claim == artifact.claim && made.name == artifact.name)
    });
    match needed.next() {
        Some(artifact) => Some(format!("waits until the removal of {} has ended", artifact.name)),
        None => removed(context, &found.object, &wanted.makes),
    }
}

fn waits(why: &str) -> Progress<'static> {
    Progress { next: None, verb: String::new(), prepared: Prepared::Pending(why.to_owned()), percent: None }
}
