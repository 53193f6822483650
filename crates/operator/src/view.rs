//! What the cluster has, as the watches last showed it. Reads of a look come from here, so that looking costs the API server nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use wharf_cluster::{Changed, Object, api, follow};

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

/// A kind of object and those that there are.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) resource: ApiResource,
    pub(crate) store: Store<DynamicObject>,
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
        fits: impl Fn(&DynamicObject) -> bool,
    ) -> Vec<Object> {
        let Some(kept) = self.kind(kind.0, kind.1) else { return Vec::new() };
        let here = |object: &Object| object.metadata.namespace.as_deref() == Some(namespace) && fits(object);
        let mut found: Vec<Object> = kept.store.state().into_iter().filter(here).collect();
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        found
    }

    /// Uids of all objects of a kind.
    pub(crate) fn uids(&self, api_version: &str, kind: &str) -> BTreeSet<String> {
        let all = self.kind(api_version, kind).map(|kept| kept.store.state()).unwrap_or_default();
        all.iter().filter_map(|object| object.metadata.uid.clone()).collect()
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
        let store = follow(api, &resource, watcher::Config::default().labels(OURS), tell, &mut tasks);
        let kept = Kept { resource: resource.clone(), store };
        let mut known = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        known.entry((resource.api_version, resource.kind)).or_insert(kept).clone()
    }
}

/// Whether an object belongs to the one with this uid.
pub(crate) fn is_owned_by(object: &DynamicObject, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.uid == uid && owner.controller == Some(true))
}
