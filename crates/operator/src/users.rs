//! Who needs what a model's Jobs have made, and whether somebody is removing it. Reads the watches, and calls nobody.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::api::DynamicObject;
use wharf_cluster::Object;
use wharf_manifests::Stored;
use wharf_spec::service::{ArtifactStatus, ModelStatus};

use crate::context::{Context, Followed};
use crate::observe::has_ended;
use crate::view::Marks;
use crate::workload::REVISION;
use crate::{jobs, needs};

/// Kinds that make pods, and say what these need.
const MAKERS: [(&str, &str); 3] =
    [("apps/v1", "Deployment"), ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"), ("batch/v1", "Job")];

/// Who needs what is in the status of a Model or is to be in it: by kind and name.
pub(crate) fn users(
    context: &Context,
    namespace: &str,
    made: impl Iterator<Item = Stored>,
    before: &[ArtifactStatus],
) -> BTreeMap<Stored, BTreeSet<String>> {
    let of =
        |artifact: &ArtifactStatus| Stored { claim: artifact.claim.clone(), name: artifact.name.clone() };
    let listed = made.chain(before.iter().map(of)).map(|stored| (stored, BTreeSet::new()));
    let mut users: BTreeMap<Stored, BTreeSet<String>> = listed.collect();
    let mut note = |user: &str, needs: &[Stored]| {
        for (stored, users) in &mut users {
            if needs.iter().any(|need| need.covers(stored)) {
                users.insert(user.to_owned());
            }
        }
    };
    let kinds: [(&Followed, needs::Read); 2] =
        [(&context.services, needs::of_service), (&context.models, needs::of_model)];
    for (followed, read) in kinds {
        for object in followed.store.state() {
            if object.metadata.namespace.as_deref() == Some(namespace) {
                note(&user(&followed.resource.kind, &object.name_any()), &context.needs(&object, read));
            }
        }
    }
    for (api_version, kind) in MAKERS {
        let Some(kept) = context.view.kind(api_version, kind) else { continue };
        for child in kept.find(Some(namespace), |marks| !marks.needs.is_empty()) {
            let owner = child.marks.user().unwrap_or_else(|| user(kind, child.name()));
            note(&owner, &child.marks.needs);
        }
    }
    for artifact in before {
        let Some(users) = users.get_mut(&of(artifact)) else { continue };
        let leaving = artifact.used_by.iter().filter(|user| !users.contains(*user));
        let leaving: Vec<&String> = leaving.filter(|user| leaves(context, namespace, user)).collect();
        users.extend(leaving.into_iter().cloned());
    }
    users
}

/// What somebody is called who needs something.
pub(crate) fn user(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

/// Whether somebody who needed something has pods left whose workload or Job is gone: they may still read or write it.
fn leaves(context: &Context, namespace: &str, user: &str) -> bool {
    let fits = |marks: &Marks| marks.user().as_deref() == Some(user);
    let pods = context.view.children(("v1", "Pod"), namespace, fits);
    let running: Vec<&Object> = pods.iter().filter(|pod| !has_ended(pod)).collect();
    if running.is_empty() {
        return false;
    }
    let makers: Vec<Object> =
        MAKERS.iter().flat_map(|kind| context.view.children(*kind, namespace, fits)).collect();
    running.iter().any(|pod| match (jobs::job_of(pod), pod.annotations().get(REVISION)) {
        (Some(job), _) => makers.iter().all(|maker| maker.name_any() != job),
        (None, Some(revision)) => {
            makers.iter().all(|maker| maker.annotations().get(REVISION) != Some(revision))
        }
        (None, None) => false,
    })
}

/// Why `asker` must not make or serve these yet: somebody else is removing one of them, or is about to.
pub(crate) fn removed(context: &Context, asker: &DynamicObject, needed: &[Stored]) -> Option<String> {
    let namespace = asker.metadata.namespace.as_deref().unwrap_or_default();
    for model in context.models.store.state() {
        if model.metadata.namespace.as_deref() != Some(namespace) || model.metadata.uid == asker.metadata.uid
        {
            continue;
        }
        let status: ModelStatus = serde_json::from_value(model.data["status"].clone()).unwrap_or_default();
        let mut marked = status.artifacts.iter().filter(|artifact| artifact.removal.is_some());
        let is_needed = |artifact: &&ArtifactStatus| {
            needed.iter().any(|need| need.claim == artifact.claim && need.name == artifact.name)
        };
        if let Some(artifact) = marked.find(is_needed) {
            return Some(format!("waits until the Model {} has removed {}", model.name_any(), artifact.name));
        }
    }
    let removes = |name: &str| needed.iter().any(|need| need.name == name);
    let pods = context.view.children(("v1", "Pod"), namespace, |marks| marks.removes().is_some_and(removes));
    let pod = pods.iter().find(|pod| !has_ended(pod))?;
    Some(format!("waits until the pod {} has removed what was there before", pod.name_any()))
}
