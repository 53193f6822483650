//! Writes children: applies those that are not as they should be, and deletes those that are wanted no longer.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use wharf_cluster::{Object, api};
use wharf_telemetry::metrics::operator as table;

use crate::MANAGER;
use crate::context::{Applied, ChildName, Context};
use crate::error::Error;
use crate::events::Happened;
use crate::live::{APPLIED, is_as_wanted};

/// Kinds that are never deleted because nobody wants them any more: volumes hold what took hours to make, and pods are others' children.
const KEPT: &[&str] = &["PersistentVolumeClaim", "Pod"];

/// Applies children in their order, as the owner of what they say. One that the cluster has no kind for does not hold up the others.
///
/// # Errors
/// At the first that is refused; otherwise when a kind is missing.
pub(crate) async fn apply(context: &Context, children: &[Value]) -> Result<(), Error> {
    let mut missing = None;
    for child in children {
        match apply_one(context, child).await {
            Ok(_) => {}
            Err(error @ Error::Unserved { .. }) => missing = missing.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    missing.map_or(Ok(()), Err)
}

/// Applies a child unless it is as it should be. Says whether that changed it.
///
/// # Errors
/// When it is refused, or its kind is missing.
pub(crate) async fn apply_one(context: &Context, child: &Value) -> Result<bool, Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&child["apiVersion"]), text(&child["kind"]));
    let (namespace, name) = (text(&child["metadata"]["namespace"]), text(&child["metadata"]["name"]));
    let Some(kept) = context.view.find(&api_version, &kind).await else {
        return Err(Error::Unserved { api_version, kind });
    };
    let live = kept.get(&namespace, &name);
    let is_there = live.is_some();
    let digest = text(&child["metadata"]["annotations"][APPLIED]);
    let owner = text(&child["metadata"]["ownerReferences"][0]["uid"]);
    let id = (api_version, kind.clone(), name.clone());
    let version = live.as_ref().and_then(|live| live.version().map(str::to_owned));
    if was_applied(context, (&owner, &id), &digest, &version) {
        return Ok(false);
    }
    if live.is_some_and(|live| is_as_wanted(child, &live.value())) {
        // The next look need not compare.
        let after = version.unwrap_or_default();
        note(context, owner, id, Applied { digest, before: None, after });
        return Ok(false);
    }
    let api = api(&context.client, Some(&namespace), &kept.resource);
    let done = match api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(child)).await {
        // What others put into a list can stand against our items, as a second port of the same name. A merge gives the whole list.
        Err(kube::Error::Api(status)) if status.code == 422 && is_there => {
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            api.patch(&name, &params, &Patch::Merge(child)).await
        }
        done => done,
    };
    let done = done.map_err(|error| Error::call("apply", &kind, &name, error))?;
    let after = done.metadata.resource_version.unwrap_or_default();
    let changed = version.as_ref() != Some(&after);
    note(context, owner, id, Applied { digest, before: changed.then_some(version), after });
    Ok(changed)
}

fn note(context: &Context, owner: String, id: ChildName, applied: Applied) {
    context.memory().applied.entry(owner).or_default().insert(id, applied);
}

/// Whether this was applied already, and what is there is what came of it, or what was there before it: then the watch is late, or the server
/// writes a value in another way than we do.
fn was_applied(
    context: &Context,
    (owner, id): (&str, &ChildName),
    digest: &str,
    version: &Option<String>,
) -> bool {
    let memory = context.memory();
    let Some(applied) = memory.applied.get(owner).and_then(|of| of.get(id)) else { return false };
    if applied.digest != digest {
        return false;
    }
    applied.before.as_ref() == Some(version) || version.as_deref() == Some(applied.after.as_str())
}

/// Whether a child of this owner was made that the watch has not shown yet.
pub(crate) fn is_awaited(context: &Context, owner: &str, id: &ChildName) -> bool {
    let memory = context.memory();
    memory.applied.get(owner).and_then(|of| of.get(id)).is_some_and(|applied| applied.before.is_some())
}

/// Takes note of what the watch shows of children that were applied: once it shows another version than before, it is not late any more, and
/// what is not there then was deleted.
pub(crate) fn learn(context: &Context, owner: &ObjectMeta) {
    let mut memory = context.memory();
    let uid = owner.uid.as_deref().unwrap_or_default();
    for ((api_version, kind, name), applied) in memory.applied.get_mut(uid).into_iter().flatten() {
        let Some(before) = &applied.before else { continue };
        let Some(kept) = context.view.kind(api_version, kind) else { continue };
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        if kept.get(namespace, name).as_ref().and_then(|live| live.version()) != before.as_deref() {
            applied.before = None;
        }
    }
}

/// Deletes children of an owner that are not among those that are wanted, unless `spared` speaks for them.
///
/// # Errors
/// When the API server refuses.
pub(crate) async fn prune(
    context: &Context,
    owner: &ObjectMeta,
    wanted: &[Value],
    spared: impl Fn(&DynamicObject) -> bool,
) -> Result<(), Error> {
    let uid = owner.uid.as_deref().unwrap_or_default();
    let wanted: BTreeSet<(&str, &str)> = wanted.iter().map(name).collect();
    for kept in context.view.all_kinds() {
        let kind = &kept.resource.kind;
        if KEPT.contains(&kind.as_str()) {
            continue;
        }
        let own = kept.find(owner.namespace.as_deref(), |child| child.is_owned_by(uid) && !child.leaves);
        for child in own {
            if wanted.contains(&(kind.as_str(), child.name())) {
                continue;
            }
            let child = child.object();
            if !spared(&child) {
                delete(context, &child).await?;
            }
        }
    }
    Ok(())
}

/// Kind and name.
fn name(object: &Value) -> (&str, &str) {
    (object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap_or_default())
}

/// Deletes an object, and what belongs to it after it.
///
/// # Errors
/// When the API server refuses; not when it is gone already.
pub(crate) async fn delete(context: &Context, object: &Object) -> Result<(), Error> {
    let types = object.types.clone().unwrap_or_default();
    let name = object.name_any();
    let Some(kept) = context.view.find(&types.api_version, &types.kind).await else { return Ok(()) };
    let api = api(&context.client, object.metadata.namespace.as_deref(), &kept.resource);
    let mut params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    if let Some(uid) = &object.metadata.uid {
        // One that was made anew under the same name is another.
        params =
            params.preconditions(kube::api::Preconditions { uid: Some(uid.clone()), resource_version: None });
    }
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(Error::call("delete", &types.kind, &name, error)),
    }
}

/// Tells people what happened to an object. One who cannot be told is no reason to stop.
pub(crate) async fn tell(context: &Context, about: &DynamicObject, happened: Vec<Happened>) {
    let namespace = about.metadata.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    for happened in happened {
        let kind = if happened.warning { "Warning" } else { "Normal" };
        context.metrics.add(&table::EVENTS, &[&happened.reason, kind], 1.0);
        let event = event_of(context, about, &happened);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            let (reason, error) = (&happened.reason, wharf_telemetry::log::chain(&error));
            tracing::warn!(object = about.name_any(), reason, error, "failed to write an Event");
        }
    }
}

/// Each happening is an Event of its own: what happens to a release happens once, and its note is worth more than a count.
fn event_of(context: &Context, about: &DynamicObject, happened: &Happened) -> Event {
    let types = about.types.clone().unwrap_or_default();
    let metadata = &about.metadata;
    let unique = fastrand::u64(..);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{unique:016x}", about.name_any())),
            namespace: metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Reconcile".to_owned()),
        reason: Some(happened.reason.clone()),
        note: Some(happened.note.clone()),
        type_: Some(if happened.warning { "Warning" } else { "Normal" }.to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some("wharf.dev/operator".to_owned()),
        reporting_instance: Some(context.identity.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(types.api_version),
            kind: Some(types.kind),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// Makes an owner's child of an object: it goes when the owner goes.
pub(crate) fn own(owner: &DynamicObject, child: &mut Value) {
    let types = owner.types.clone().unwrap_or_default();
    child["metadata"]["namespace"] = json!(owner.metadata.namespace);
    child["metadata"]["ownerReferences"] = json!([{
        "apiVersion": types.api_version, "kind": types.kind,
        "name": owner.metadata.name, "uid": owner.metadata.uid,
        "controller": true, "blockOwnerDeletion": true,
    }]);
}
