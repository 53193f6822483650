//! Keeps what a watch shows, so that reading costs the API server nothing.

use std::hash::Hash;
use std::sync::Arc;

use futures_util::StreamExt;
use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::Packed;

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

/// Objects that are read at a time: each page is there as text and as trees before any of it is kept.
const PAGE: u32 = 100;

/// Keeps a kind's objects as trees, and tells of what changes.
pub fn follow(
    api: Api<DynamicObject>,
    resource: &ApiResource,
    config: watcher::Config,
    tell: impl Fn(Changed) + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> Store<DynamicObject> {
    let (writer, trim) = (Writer::new(resource.clone()), |_: &mut DynamicObject| {});
    run(Watched { api, resource, config, trim }, writer, DynamicObject::clone, tell, tasks)
}

/// What is watched, and what is left out of it.
pub struct Watched<'a, F> {
    /// Where.
    pub api: Api<DynamicObject>,
    /// Its kind.
    pub resource: &'a ApiResource,
    /// Which of them.
    pub config: watcher::Config,
    /// Takes away what nobody reads.
    pub trim: F,
}

/// Keeps a kind's objects as text, found by what `mark` reads off them, and tells of what changes.
pub fn keep<T: Clone + Send + Sync + 'static>(
    watched: Watched<'_, impl Fn(&mut DynamicObject) + Send + 'static>,
    mark: impl Fn(&DynamicObject) -> T + Send + 'static,
    tell: impl Fn(Changed) + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> Store<Packed<T>> {
    let writer = Writer::new(Arc::new(watched.resource.clone()));
    run(watched, writer, move |object| Packed::new(object, mark(object)), tell, tasks)
}

fn run<K>(
    watched: Watched<'_, impl Fn(&mut DynamicObject) + Send + 'static>,
    mut writer: Writer<K>,
    kept: impl Fn(&DynamicObject) -> K + Send + 'static,
    tell: impl Fn(Changed) + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> Store<K>
where
    K: Lookup<DynamicType: Eq + Hash + Clone + Send + Sync> + Clone + Send + Sync + 'static,
{
    let Watched { api, resource, config, trim } = watched;
    let store = writer.as_reader();
    let kind = resource.kind.clone();
    let types = TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
    tasks.spawn(async move {
        let events = watcher::watcher(api, config.page_size(PAGE)).default_backoff().modify(move |object| {
            object.metadata.managed_fields = None;
            // Items of Kubernetes' own lists do not say what they are.
            object.types.get_or_insert_with(|| types.clone());
            trim(object);
        });
        let mut events = std::pin::pin!(events);
        let mut lists = 0;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    writer.apply_watcher_event(&match &event {
                        Event::Init => Event::Init,
                        Event::InitApply(object) => Event::InitApply(kept(object)),
                        Event::InitDone => Event::InitDone,
                        Event::Apply(object) => Event::Apply(kept(object)),
                        Event::Delete(object) => Event::Delete(kept(object)),
                    });
                    match event {
                        Event::Init | Event::InitApply(_) => {}
                        Event::InitDone => {
                            lists += 1;
                            // The first list is waited for; what it shows is looked at anyway.
                            if lists > 1 {
                                tell(Changed::Much);
                            }
                        }
                        Event::Apply(object) | Event::Delete(object) => tell(Changed::Child(Arc::new(object))),
                    }
                }
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
