//! One kind of objects, kept as they were last seen.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Objects of a kind; filled by a task of its own.
pub(super) struct Watched<K: Resource + Clone + 'static>(Store<K>)
where
    K::DynamicType: Eq + Hash + Clone;

impl<K: Resource + Clone + 'static> Watched<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// Returns when they have been listed once.
    pub(super) async fn seen(&self) {
        // The task that fills it lives as long as whoever asks.
        let _ = self.0.wait_until_ready().await;
    }

    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.0.state()
    }
}

/// Watches objects of a kind; of `PartialObjectMeta` the server sends no more than that.
pub(super) fn watch<K>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
    changed: &Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> Watched<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K: Send + Sync + 'static,
{
    follow(watcher::watcher(api::<K>(client, namespace), config), changed, tasks)
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn follow<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    changed: &Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let changed = Arc::clone(changed);
    let kind = K::kind(&());
    tasks.spawn(async move {
        let events = reflector::reflector(writer, events.default_backoff());
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                // A list that is not whole yet has changed nothing.
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => changed.notify_one(),
                Err(error) => {
                    tracing::warn!(%kind, error = %wharf_telemetry::log::chain(&error), "failed to watch; what was seen last holds");
                }
            }
        }
    });
    Watched(store)
}
