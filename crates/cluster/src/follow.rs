//! Keeps what a watch shows, so that reading costs the API server nothing.

use std::sync::Arc;

use futures_util::StreamExt;
use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

/// An object of any kind.
pub type Object = Arc<DynamicObject>;

/// What has changed.
#[derive(Clone, Debug)]
pub enum Changed {
    /// An object that belongs to what its labels say.
    Child(Object),
    /// A list was read anew: what was deleted in between left no event.
    Much,
    /// A watch of this kind broke off.
    Broke(String),
}

/// Objects of a kind in a namespace, or in all.
pub fn api(client: &Client, namespace: Option<&str>, resource: &ApiResource) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// Keeps a kind's objects, and tells of what changes.
pub fn follow(
    api: Api<DynamicObject>,
    resource: &ApiResource,
    config: watcher::Config,
    tell: impl Fn(Changed) + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> Store<DynamicObject> {
    let writer = reflector::store::Writer::new(resource.clone());
    let store = writer.as_reader();
    let kind = resource.kind.clone();
    let types = TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
    tasks.spawn(async move {
        let events = watcher::watcher(api, config).default_backoff().modify(move |object| {
            object.managed_fields_mut().clear();
            // Items of Kubernetes' own lists do not say what they are.
            object.types.get_or_insert_with(|| types.clone());
        });
        let mut events = std::pin::pin!(reflector::reflector(writer, events));
        let mut lists = 0;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::InitDone) => {
                    lists += 1;
                    // The first list is waited for; what it shows is looked at anyway.
                    if lists > 1 {
                        tell(Changed::Much);
                    }
                }
                Ok(Event::Apply(object) | Event::Delete(object)) => tell(Changed::Child(Arc::new(object))),
                Err(error) => {
                    tell(Changed::Broke(kind.clone()));
                    tracing::warn!(kind, error = %wharf_telemetry::log::chain(&error), "failed to watch; what was seen last holds");
                }
            }
        }
    });
    store
}

/// A reference to an object of this kind.
pub fn reference(resource: &ApiResource, namespace: &str, name: &str) -> ObjectRef<DynamicObject> {
    ObjectRef::new_with(name, resource.clone()).within(namespace)
}
