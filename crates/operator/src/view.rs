//! What the cluster has, as the watches last showed it. Reads of a look come from here, so that looking costs the API server nothing. There are
//! fourteen objects and more for each service: they are kept as text, and those of the object that is looked at become trees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use wharf_cluster::{Changed, Object, Packed, Watched, api, keep};
use wharf_manifests::Stored;
use wharf_manifests::names::{MODEL, REMOVES, SERVICE};

use crate::needs;
use crate::room::{Holds, holds};
use crate::trim::trim;
use crate::users::user;

/// Everything that Wharf makes has this label.
pub(crate) const OURS: &str = "app.kubernetes.io/managed-by=wharf";

/// Kinds that every cluster has and that are children of our objects, Pods by way of others.
const ALWAYS: &[(&str, &str, &str)] = &[
    ("", "v1", "ServiceAccount"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "Service"),
    ("", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("batch", "v1", "Job"),
    ("discovery.k8s.io", "v1", "EndpointSlice"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
];

/// Kinds of others, which a cluster may have.
const PERHAPS: &[(&str, &str, &str)] = &[
    ("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet"),
    ("keda.sh", "v1alpha1", "ScaledObject"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    ("inference.networking.k8s.io", "v1", "InferencePool"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor"),
    ("monitoring.coreos.com", "v1", "PrometheusRule"),
];

/// An object of the cluster, packed.
pub(crate) type Child = Packed<Marks>;

/// What children are found by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    service: Option<Box<str>>,
    model: Option<Box<str>>,
    /// Uid of what it belongs to.
    owner: Option<Box<str>>,
    /// What of a model's files it removes.
    removes: Option<Box<str>>,
    /// What of the files of models it needs.
    pub(crate) needs: Box<[Stored]>,
    /// What of its node's devices it holds.
    pub(crate) holds: Option<Box<Holds>>,
    /// It is being deleted.
    pub(crate) leaves: bool,
}

impl Marks {
    fn of(object: &DynamicObject) -> Marks {
        let label = |key: &str| object.labels().get(key).map(|name| name.as_str().into());
        let mut owners = object.metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true));
        Marks {
            service: label(SERVICE),
            model: label(MODEL),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            removes: label(REMOVES),
            needs: needs::of_child(object).into(),
            holds: holds(object).map(Box::new),
            leaves: object.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Whether it belongs to the object with this uid.
    pub(crate) fn is_owned_by(&self, uid: &str) -> bool {
        self.owner.as_deref() == Some(uid)
    }

    /// Whether it has the label of this service.
    pub(crate) fn is_of_service(&self, name: &str) -> bool {
        self.service.as_deref() == Some(name)
    }

    /// Whether it has the label of this Model.
    pub(crate) fn is_of_model(&self, name: &str) -> bool {
        self.model.as_deref() == Some(name)
    }

    /// The service or Model whose label it has, as somebody who needs something is called.
    pub(crate) fn user(&self) -> Option<String> {
        let of_service = self.service.as_deref().map(|name| user("LLMService", name));
        of_service.or_else(|| self.model.as_deref().map(|name| user("Model", name)))
    }

    /// What of a model's files it removes.
    pub(crate) fn removes(&self) -> Option<&str> {
        self.removes.as_deref()
    }
}

/// A kind of object and those that there are.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) resource: Arc<ApiResource>,
    store: Store<Child>,
}

impl Kept {
    /// The object of this name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<Child>> {
        self.store.get(&ObjectRef::new_with(name, Arc::clone(&self.resource)).within(namespace))
    }

    /// Objects of a namespace that satisfy `fits`, by name.
    pub(crate) fn find(&self, namespace: Option<&str>, fits: impl Fn(&Marks) -> bool) -> Vec<Arc<Child>> {
        let mut found = self.store.state_filter(|child| child.namespace() == namespace && fits(&child.marks));
        found.sort_by(|a, b| a.name().cmp(b.name()));
        found
    }
}

/// What the cluster has.
pub(crate) struct View {
    client: Client,
    namespace: Option<String>,
    kept: RwLock<BTreeMap<(String, String), Kept>>,
    tasks: RwLock<JoinSet<()>>,
    changes: UnboundedSender<Changed>,
}

impl View {
    /// Watches all kinds of children that the cluster has, and returns when each has been listed.
    pub(crate) async fn open(
        client: &Client,
        namespace: Option<&str>,
        changes: UnboundedSender<Changed>,
    ) -> View {
        let view = View {
            client: client.clone(),
            namespace: namespace.map(str::to_owned),
            kept: RwLock::default(),
            tasks: RwLock::default(),
            changes,
        };
        for (group, version, kind) in ALWAYS {
            view.keep(&GroupVersionKind::gvk(group, version, kind));
        }
        for (group, version, kind) in PERHAPS {
            view.find(&format!("{group}/{version}"), kind).await;
        }
        for kept in view.all_kinds() {
            // The task that fills the store lives as long as the view.
            let _ = kept.store.wait_until_ready().await;
        }
        view
    }

    /// A kind, if the cluster has it.
    pub(crate) async fn find(&self, api_version: &str, kind: &str) -> Option<Kept> {
        if let Some(kept) = self.kind(api_version, kind) {
            return Some(kept);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let served = self.client.list_api_group_resources(api_version).await.ok()?;
        served.resources.iter().find(|resource| resource.kind == kind)?;
        let kept = self.keep(&GroupVersionKind::gvk(group, version, kind));
        let _ = kept.store.wait_until_ready().await;
        Some(kept)
    }

    /// A kind that is watched.
    pub(crate) fn kind(&self, api_version: &str, kind: &str) -> Option<Kept> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    /// All kinds that are watched.
    pub(crate) fn all_kinds(&self) -> Vec<Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Objects of a kind in a namespace that satisfy `fits`.
    pub(crate) fn children(
        &self,
        kind: (&str, &str),
        namespace: &str,
        fits: impl Fn(&Marks) -> bool,
    ) -> Vec<Object> {
        let Some(kept) = self.kind(kind.0, kind.1) else { return Vec::new() };
        kept.find(Some(namespace), fits).iter().map(|child| child.object()).collect()
    }

    /// Uids of all objects of a kind.
    pub(crate) fn uids(&self, api_version: &str, kind: &str) -> BTreeSet<String> {
        let all = self.kind(api_version, kind).map(|kept| kept.store.state()).unwrap_or_default();
        all.iter().filter_map(|child| child.uid().map(str::to_owned)).collect()
    }

    /// What pods of all namespaces hold of their nodes' devices, but those that `spared` speaks for.
    pub(crate) fn held(&self, spared: impl Fn(&Child) -> bool) -> Vec<Holds> {
        let pods =
            self.kind("v1", "Pod").map(|kept| kept.store.state_filter(|pod| pod.marks.holds.is_some()));
        let pods = pods.unwrap_or_default();
        let held = pods.iter().filter(|pod| !spared(pod)).filter_map(|pod| pod.marks.holds.as_deref());
        held.cloned().collect()
    }

    fn keep(&self, kind: &GroupVersionKind) -> Kept {
        let resource = ApiResource::from_gvk(kind);
        let changes = self.changes.clone();
        let tell = move |change| {
            // Nobody listens any more when the operator ends.
            let _ = changes.send(change);
        };
        let api = api(&self.client, self.namespace.as_deref(), &resource);
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        let config = watcher::Config::default().labels(OURS);
        let trim = trim(&resource.kind);
        let store = keep(Watched { api, resource: &resource, config, trim }, Marks::of, tell, &mut tasks);
        let kept = Kept { resource: Arc::new(resource.clone()), store };
        let mut known = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        known.entry((resource.api_version, resource.kind)).or_insert(kept).clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_found_by_its_labels_and_by_what_it_belongs_to() {
        let object = |metadata: serde_json::Value| -> DynamicObject {
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}))
                .unwrap()
        };
        let owner = |uid: &str, controller: bool| json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": controller});
        let marks = Marks::of(&object(json!({
            "name": "c", "labels": {SERVICE: "a"}, "ownerReferences": [owner("other", false), owner("mine", true)],
        })));
        assert!(marks.is_of_service("a") && !marks.is_of_service("b") && !marks.is_of_model("a"));
        assert_eq!((marks.user().as_deref(), marks.removes()), (Some("LLMService a"), None));
        assert!(marks.is_owned_by("mine") && !marks.is_owned_by("other") && !marks.leaves);
        let marks = Marks::of(&object(
            json!({"name": "c", "labels": {MODEL: "m"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ));
        assert!(marks.is_of_model("m") && !marks.is_owned_by("") && marks.leaves);
        assert_eq!(marks.user().as_deref(), Some("Model m"));
    }
}
