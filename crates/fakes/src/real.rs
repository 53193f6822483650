//! A real API server, for the scenarios that [`crate::cluster`] plays in memory.
//!
//! There is one where `KUBEBUILDER_ASSETS` names a folder with `etcd` and `kube-apiserver`, as controller-runtime's envtest has it: every
//! scenario starts its own. With `kube-controller-manager` beside them, its controllers work instead of [`crate::actors`], and what deleted
//! objects owned is collected. Or `WHARF_TEST_KUBECONFIG` is the kubeconfig of a cluster without nodes that tests may fill and empty; it is
//! used by one scenario at a time. Everything is read from the server when it is asked for.

mod plane;
mod record;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::client::ClientBuilder;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};

use crate::cluster::kinds::{self, Kind};
use crate::cluster::{Call, NotReached};
use crate::wire::lock;
use plane::Plane;

/// Namespaces that scenarios use; nothing of others is shown.
const NAMESPACES: [&str; 2] = ["demo", "wharf-system"];
/// The server is asked again after this where no watch tells.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a definition may take until it is served.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

/// A cluster that was given is used by one scenario at a time.
static GIVEN: LazyLock<Arc<tokio::sync::Mutex<()>>> = LazyLock::new(Arc::default);

/// A real API server. Clones are handles to the same one.
#[derive(Clone)]
pub struct RealCluster(Arc<Inner>);

struct Inner {
    config: Config,
    kubeconfig: String,
    client: Client,
    kinds: Mutex<Vec<Kind>>,
    calls: Arc<Mutex<Vec<Call>>>,
    plane: Mutex<Option<Plane>>,
    _alone: Option<OwnedMutexGuard<()>>,
}

/// Where the environment says that a real API server is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Binaries to start.
    Assets(PathBuf),
    /// A cluster that runs.
    Kubeconfig(PathBuf),
}

impl Asked {
    /// What the environment asks for; nothing if it does not.
    #[expect(clippy::disallowed_methods, reason = "envtest's convention: tests have no other configuration")]
    pub fn by_environment() -> Option<Asked> {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        path("WHARF_TEST_KUBECONFIG")
            .map(Asked::Kubeconfig)
            .or_else(|| path("KUBEBUILDER_ASSETS").map(Asked::Assets))
    }
}

impl RealCluster {
    /// Starts one, or connects to it and empties it.
    ///
    /// # Panics
    /// When it cannot be had: who asked for a real one does not want to be told that all is well without it.
    pub async fn start(asked: &Asked) -> RealCluster {
        let (kubeconfig, plane, alone) = match asked {
            Asked::Assets(folder) => {
                let plane = Plane::start(folder).await;
                (plane.kubeconfig(), Some(plane), None)
            }
            Asked::Kubeconfig(path) => {
                let alone = Arc::clone(&GIVEN).lock_owned().await;
                (std::fs::read_to_string(path).expect("WHARF_TEST_KUBECONFIG is a file"), None, Some(alone))
            }
        };
        let config = plane::config(&kubeconfig).await;
        let client = Client::try_from(config.clone()).expect("a client for the API server");
        let inner = Inner {
            config,
            kubeconfig,
            client,
            kinds: Mutex::new(kinds::own()),
            calls: Arc::default(),
            plane: Mutex::new(plane),
            _alone: alone,
        };
        let cluster = RealCluster(Arc::new(inner));
        cluster.empty().await;
        cluster
    }

    /// Starts what makes Pods of Deployments and collects what deleted objects owned, where it is at hand. Says whether it runs.
    pub fn start_controllers(&self) -> bool {
        // A cluster that was given has its own.
        lock(&self.0.plane).as_mut().is_none_or(Plane::start_controllers)
    }

    /// A configuration for kube's client that may do everything.
    pub fn config(&self) -> Config {
        self.0.config.clone()
    }

    /// A kubeconfig file's content, for programs of their own process.
    ///
    /// # Panics
    /// When the one that was given cannot be read.
    pub fn kubeconfig(&self) -> String {
        self.0.kubeconfig.clone()
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// A client whose calls are kept for [`RealCluster::calls`], from a configuration like [`RealCluster::config`].
    pub fn recorded(&self, config: Config, name: &str) -> Client {
        let layer = record::Recording::new(Arc::clone(&self.0.calls), name);
        let builder = ClientBuilder::try_from(config).expect("a client for the API server");
        builder.with_layer(&layer).build()
    }

    /// Calls of the clients that are kept.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.0.calls).clone()
    }

    /// Drops what was kept of calls.
    pub fn forget_calls(&self) {
        lock(&self.0.calls).clear();
    }

    /// Defines other projects' kinds of a group, without their schemas.
    pub async fn install(&self, group: &str) {
        for kind in kinds::foreign(group) {
            self.seed(definition(&kind)).await;
        }
    }

    /// Applies an object as the cluster's owner, status included, and returns it as it then is.
    ///
    /// # Panics
    /// When it is refused: a test that seeds nonsense should stop.
    pub async fn seed(&self, object: Value) -> Value {
        self.try_seed(&object).await.unwrap_or_else(|error| panic!("failed to seed {object}: {error}"))
    }

    /// Like [`RealCluster::seed`], for what may be refused.
    ///
    /// # Errors
    /// As the server says.
    pub async fn try_seed(&self, object: &Value) -> kube::Result<Value> {
        let api = self.api_of(object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let params = PatchParams::apply("seed").force();
        let mut whole = object.clone();
        let status = whole.as_object_mut().and_then(|fields| fields.remove("status"));
        let mut written = api.patch(&name, &params, &Patch::Apply(&whole)).await?;
        if let Some(status) = status {
            let status =
                json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "status": status});
            written = api.patch_status(&name, &params, &Patch::Apply(&status)).await?;
        }
        if object["kind"] == "CustomResourceDefinition" {
            let served = timeout(SERVED_WITHIN, self.until_served(object)).await;
            served.expect("a definition is served soon");
        }
        serde_json::to_value(written).map_err(kube::Error::SerdeError)
    }

    /// The object, if there is one. Names of namespaced objects are `namespace/name`.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let (api, name) = self.named(kind, name);
        let got = block(async { api.get_opt(&name).await }).expect("the API server answers");
        got.map(value)
    }

    /// The same without holding up a thread. None too when the server does not answer: it may end before who asks.
    pub(crate) async fn read(&self, kind: &str, name: &str) -> Option<Value> {
        let (api, name) = self.named(kind, name);
        api.get_opt(&name).await.ok().flatten().map(value)
    }

    /// Every object of a kind in the namespaces of scenarios, by namespace and name; those of kinds that are not served are none.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let Some(kind) = self.kind(kind) else { return Vec::new() };
        let api: Api<DynamicObject> = Api::all_with(self.client(), &resource(&kind));
        let list = block(async { api.list(&ListParams::default()).await }).expect("the API server answers");
        let ours = |object: &DynamicObject| {
            !kind.namespaced
                || object.metadata.namespace.as_deref().is_some_and(|name| NAMESPACES.contains(&name))
        };
        let mut objects: Vec<Value> = list.items.into_iter().filter(ours).map(value).collect();
        for object in &mut objects {
            // Items of Kubernetes' own lists do not say what they are.
            object["apiVersion"] = kind.api_version(kind.preferred()).into();
            object["kind"] = kind.kind.clone().into();
        }
        objects.sort_by_key(|object| {
            let metadata = &object["metadata"];
            (metadata["namespace"].to_string(), metadata["name"].to_string())
        });
        objects
    }

    /// Deletes an object as a user would, and says whether there was one.
    pub fn delete(&self, kind: &str, name: &str) -> bool {
        let (api, name) = self.named(kind, name);
        block(async { api.delete(&name, &DeleteParams::default()).await }).is_ok()
    }

    /// As [`crate::cluster::FakeCluster::await_object`]: sees every version of the object.
    ///
    /// # Errors
    /// When that does not happen within `deadline`.
    pub async fn await_object(
        &self,
        kind: &str,
        name: &str,
        deadline: Duration,
        reached: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Value, NotReached> {
        let (api, short) = self.named(kind, name);
        let mut last: Option<Value> = None;
        let wait = async {
            let config = watcher::Config::default().fields(&format!("metadata.name={short}"));
            let mut events = std::pin::pin!(watcher(api, config).default_backoff());
            let mut listed = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init) => last = None,
                    Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                        last = Some(value(object));
                    }
                    Ok(watcher::Event::Delete(_)) => last = None,
                    Ok(watcher::Event::InitDone) => listed = true,
                    // Watches end; the next one goes on.
                    Err(_) => continue,
                }
                if listed && reached(last.as_ref()) {
                    return;
                }
            }
        };
        let done = timeout(deadline, wait).await.is_ok();
        let last = last.unwrap_or_default();
        let named = |text: &str| text.to_owned();
        if done { Ok(last) } else { Err(NotReached { kind: named(kind), name: named(name), deadline, last }) }
    }

    /// Returns when a condition of several objects holds, and says whether it did within `deadline`.
    pub async fn until(&self, deadline: Duration, reached: impl Fn() -> bool) -> bool {
        let wait = async {
            while !reached() {
                sleep(AGAIN).await;
            }
        };
        timeout(deadline, wait).await.is_ok()
    }

    /// Returns when nobody has written anything for `quiet`, and says whether that happened within `deadline`.
    pub async fn settle(&self, quiet: Duration, deadline: Duration) -> bool {
        let wait = async {
            let mut before = self.versions();
            loop {
                sleep(quiet).await;
                let now = self.versions();
                if now == before {
                    return;
                }
                before = now;
            }
        };
        timeout(deadline, wait).await.is_ok()
    }

    /// Versions of everything that scenarios look at; Leases are renewed by themselves.
    fn versions(&self) -> BTreeMap<String, Value> {
        let kinds = lock(&self.0.kinds).clone();
        let looked_at = kinds.iter().filter(|kind| kind.namespaced && !kind.review && kind.kind != "Lease");
        let objects = looked_at.flat_map(|kind| self.list(&kind.qualified_kind()));
        objects
            .map(|object| {
                (object["metadata"]["uid"].to_string(), object["metadata"]["resourceVersion"].clone())
            })
            .collect()
    }

    /// Deletes the namespaces of scenarios and everything in them.
    async fn empty(&self) {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client());
        for name in NAMESPACES {
            let _ = api.delete(name, &DeleteParams::default()).await;
        }
        let there = async || {
            let list = api.list(&ListParams::default()).await.expect("the API server answers");
            list.items
                .iter()
                .any(|item| NAMESPACES.iter().any(|name| item.metadata.name.as_deref() == Some(name)))
        };
        while there().await {
            sleep(AGAIN).await;
        }
    }

    async fn until_served(&self, definition: &Value) {
        let kind = kinds::from_definition(definition).expect("a definition says what it defines");
        let api: Api<DynamicObject> = Api::all_with(self.client(), &resource(&kind));
        while api.list(&ListParams::default()).await.is_err() {
            sleep(AGAIN).await;
        }
        lock(&self.0.kinds).push(kind);
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        let kinds = lock(&self.0.kinds);
        let by_both = kinds.iter().find(|kind| kind.qualified_kind() == name);
        by_both.or_else(|| kinds.iter().find(|kind| kind.kind == name)).cloned()
    }

    fn named(&self, kind: &str, name: &str) -> (Api<DynamicObject>, String) {
        let known = self.kind(kind).unwrap_or_else(|| panic!("no kind {kind} is served"));
        let resource = resource(&known);
        match name.split_once('/') {
            Some((namespace, name)) => {
                (Api::namespaced_with(self.client(), namespace, &resource), name.to_owned())
            }
            None => (Api::all_with(self.client(), &resource), name.to_owned()),
        }
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let kinds = lock(&self.0.kinds);
        let known = kinds.iter().find(|known| known.group == group && known.kind == kind);
        let known = known.unwrap_or_else(|| panic!("no kind {kind} of {api_version} is served"));
        let gvk = GroupVersionKind::gvk(group, version, &kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, &known.plural);
        match known.namespaced {
            true => Api::namespaced_with(self.client(), &text(&object["metadata"]["namespace"]), &resource),
            false => Api::all_with(self.client(), &resource),
        }
    }
}

fn resource(kind: &Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(&kind.group, kind.preferred(), &kind.kind);
    ApiResource::from_gvk_with_plural(&gvk, &kind.plural)
}

fn value(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Waits in a test's closure. The test runs on several threads.
fn block<T>(wait: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(wait))
}

/// The definition of a kind that keeps whatever it is given.
fn definition(kind: &Kind) -> Value {
    let mut subresources = json!({});
    if kind.status {
        subresources["status"] = json!({});
    }
    if let Some(scale) = &kind.scale {
        let path = |pointer: &str| pointer.replace('/', ".");
        subresources["scale"] =
            json!({"specReplicasPath": path(&scale.replicas), "statusReplicasPath": path(&scale.actual)});
        if let Some(selector) = &scale.selector {
            subresources["scale"]["labelSelectorPath"] = path(selector).into();
        }
    }
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let replicas = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"replicas": {"type": "integer"}}});
    let properties = json!({"spec": if kind.scale.is_some() { &replicas } else { &open }, "status": open});
    let mut metadata = json!({"name": kind.qualified()});
    if kind.group.ends_with(".k8s.io") {
        // Groups of the community are protected by this.
        metadata["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, for tests"});
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
        "spec": {
            "group": kind.group, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "names": {"kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural, "singular": kind.singular},
            "versions": [{
                "name": kind.preferred(), "served": true, "storage": true, "subresources": subresources,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
            }],
        },
    })
}
