//! A Kubernetes API server that keeps objects in memory: as much of one as clients, controllers and `kubectl` notice.
//!
//! It answers over HTTP on loopback. It runs no controllers but the garbage collector: what a cluster does by itself, [`crate::actors`]
//! do through the API. It checks no credentials; who may what is scripted with [`FakeCluster::on_review`] and
//! [`FakeCluster::fail_next`].

mod act;
mod apply;
mod calls;
mod control;
mod defaults;
mod discovery;
mod failure;
mod fields;
pub(crate) mod kinds;
mod patch;
mod propose;
mod rbac;
mod remove;
pub(crate) mod request;
mod rules;
mod schema;
mod selector;
pub(crate) mod serve;
mod shape;
mod store;
mod table;
mod view;
mod watch;
mod write;

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::watch as signal;

pub use calls::{Call, Injected};
pub use control::NotReached;
pub use rbac::allows;

use apply::Force;
use calls::Calls;
use remove::DeleteOptions;
use store::{Id, Store};
use watch::Signals;
use write::{Intent, Target, Writer};

use crate::wire::{Port, lock, loopback};

/// Namespaces that every cluster has.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Answers reviews: gets the kind and the spec, returns the status.
type Reviews = Arc<dyn Fn(&str, &Value) -> Value + Send + Sync>;

/// A running API server. Clones are handles to the same one; it ends with the last of them.
#[derive(Clone)]
pub struct FakeCluster(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    port: Port,
}

/// What requests and handles share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    calls: Mutex<Calls>,
    reviews: Mutex<Reviews>,
    signals: signal::Sender<Signals>,
}

impl Shared {
    /// Wakes watchers and those who wait for a condition.
    fn changed(&self) {
        self.signals.send_modify(|signals| signals.writes += 1);
    }
}

impl FakeCluster {
    /// Starts an API server on a free port of loopback, with Kubernetes' own kinds.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start() -> io::Result<FakeCluster> {
        FakeCluster::start_on(0).await
    }

    /// Starts an API server on this port of loopback.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start_on(port: u16) -> io::Result<FakeCluster> {
        let deny: Reviews = Arc::new(|kind, _| match kind {
            "TokenReview" => json!({"authenticated": false}),
            _ => json!({"allowed": true}),
        });
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            calls: Mutex::default(),
            reviews: Mutex::new(deny),
            signals: signal::channel(Signals::default()).0,
        });
        let port = Port::open(loopback(port), Arc::<Shared>::clone(&shared)).await?;
        let cluster = FakeCluster(Arc::new(Running { shared, port }));
        for namespace in NAMESPACES {
            cluster.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        }
        Ok(cluster)
    }

    /// `http://127.0.0.1:…`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.port.address())
    }

    /// A configuration for kube's client.
    pub fn config(&self) -> kube::Config {
        let url = self.url().parse().expect("an address of a socket makes a URL");
        kube::Config::new(url)
    }

    /// A client. Its user agent is not ours to choose; a test that tells clients apart makes its own from [`FakeCluster::config`].
    ///
    /// # Panics
    /// Never for plain HTTP.
    pub fn client(&self) -> kube::Client {
        kube::Client::try_from(self.config())
            .expect("a client for plain HTTP needs nothing that could be missing")
    }

    /// A kubeconfig file's content, for programs of their own process.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url()}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}],
        })
        .to_string()
    }

    /// Serves other projects' kinds of a group: `monitoring.coreos.com`, `gateway.networking.k8s.io`,
    /// `inference.networking.k8s.io`, `leaderworkerset.x-k8s.io`, `keda.sh`, `cert-manager.io`.
    ///
    /// # Panics
    /// When no kinds of the group are known.
    pub fn install(&self, group: &str) {
        let kinds = kinds::foreign(group);
        assert!(!kinds.is_empty(), "no kinds of {group} are known; create their CustomResourceDefinitions");
        let mut store = lock(&self.0.shared.store);
        store.kinds.retain(|kind| kind.group != group);
        store.kinds.extend(kinds);
    }

    /// Serves a group no longer; its objects are gone.
    pub fn uninstall(&self, group: &str) {
        lock(&self.0.shared.store).drop_kinds(|kind| kind.group == group);
        self.0.shared.changed();
    }

    /// Writes an object as the cluster's owner: created or merged in by an apply that takes every field, status included. Returns
    /// it as it then is.
    ///
    /// # Panics
    /// When it is refused: a test that seeds nonsense should stop.
    pub fn seed(&self, object: Value) -> Value {
        self.try_seed(&object).unwrap_or_else(|message| panic!("failed to seed {object}: {message}"))
    }

    /// Like [`FakeCluster::seed`], for what may be refused.
    ///
    /// # Errors
    /// What the server says.
    pub fn try_seed(&self, object: &Value) -> Result<Value, String> {
        let seeded = self.write_seed(object);
        self.0.shared.changed();
        seeded
    }

    fn write_seed(&self, object: &Value) -> Result<Value, String> {
        let mut store = lock(&self.0.shared.store);
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let kind = store.kind_of(&api_version, &kind).ok_or("the kind is not served")?.clone();
        let version = api_version.rsplit('/').next().unwrap_or("").to_owned();
        let namespace = if kind.namespaced { text(&object["metadata"]["namespace"]) } else { String::new() };
        let namespace =
            if kind.namespaced && namespace.is_empty() { "default".to_owned() } else { namespace };
        let id = Id { kind: kind.key(), namespace, name: text(&object["metadata"]["name"]) };
        let writer = Writer { manager: "seed".to_owned(), dry_run: false, strict: false };
        let mut target = Target { kind, version, id, part: write::Part::Whole };
        let mut written = None;
        let parts = [write::Part::Whole, write::Part::Status];
        for part in
            parts.into_iter().filter(|part| *part == write::Part::Whole || object["status"].is_object())
        {
            target.part = part;
            if part == write::Part::Status && !target.kind.status {
                continue;
            }
            let done = store.write(&target, Intent::Apply(object.clone(), Force::Yes), &writer);
            written = Some(done.map_err(|failure| failure.body().to_string())?.object);
        }
        Ok(written.map(|object| Value::clone(&object)).unwrap_or_default())
    }

    /// The object, if there is one. Names of namespaced objects are `namespace/name`.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let store = lock(&self.0.shared.store);
        let id = id(&store, kind, name)?;
        store.get(&id).map(|object| Value::clone(object))
    }

    /// Every object of a kind, by namespace and name.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let store = lock(&self.0.shared.store);
        let Some(kind) = store.kind_named(kind) else { return Vec::new() };
        store
            .list(&kind.key(), "", &selector::Selector::default())
            .iter()
            .map(|(_, object)| Value::clone(object))
            .collect()
    }

    /// Deletes an object as a user would, and says whether there was one.
    pub fn delete(&self, kind: &str, name: &str) -> bool {
        let deleted = {
            let mut store = lock(&self.0.shared.store);
            let target = id(&store, kind, name).and_then(|id| store.target(&id));
            target.is_some_and(|target| store.delete(&target, &DeleteOptions::default()).is_ok())
        };
        self.0.shared.changed();
        deleted
    }
}

fn id(store: &Store, kind: &str, name: &str) -> Option<Id> {
    let kind = store.kind_named(kind)?;
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (namespace, name),
        None if kind.namespaced => ("default", name),
        None => ("", name),
    };
    Some(Id { kind: kind.key(), namespace: namespace.to_owned(), name: name.to_owned() })
}
