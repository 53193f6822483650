//! API keys in Secrets: only those that a service names are read, each by its name, so that the gateway needs no right to any other.
//!
//! A Secret that cannot be found, or that has no key, lets nobody in; one that cannot be read as keys changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use wharf_access::keys::from_entries;
use wharf_access::{KeySet, WatchedKeys};

/// Services are told of without waiting longer than this for their keys; until those are there nobody may call.
const SETTLE: Duration = Duration::from_secs(5);

/// Namespace and name.
pub(super) type SecretName = (String, String);

/// The Secrets that are watched.
pub(super) struct Secrets {
    client: Client,
    changed: Arc<Notify>,
    known: BTreeMap<SecretName, Known>,
    tasks: JoinSet<()>,
}

struct Known {
    keys: WatchedKeys,
    read: watch::Receiver<bool>,
    /// It was waited for: once is enough, others have waited with it.
    awaited: bool,
    task: AbortHandle,
}

impl Secrets {
    pub(super) fn new(client: Client, changed: Arc<Notify>) -> Secrets {
        Secrets { client, changed, known: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// These are watched from now on, and no others.
    pub(super) fn keep(&mut self, names: BTreeSet<SecretName>) {
        self.known.retain(|name, known| {
            let stays = names.contains(name);
            if !stays {
                known.task.abort();
            }
            stays
        });
        for name in names {
            let (client, changed, tasks) = (&self.client, &self.changed, &mut self.tasks);
            self.known.entry(name).or_insert_with_key(|(namespace, name)| {
                let keys = WatchedKeys::fixed(nobody());
                let (sender, read) = watch::channel(false);
                let api = Api::namespaced(client.clone(), namespace);
                let follow = follow(api, name.clone(), keys.clone(), sender, Arc::clone(changed));
                Known { keys, read, awaited: false, task: tasks.spawn(follow) }
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Returns when all that are new have been looked at once.
    pub(super) async fn settle(&mut self) {
        let end = Instant::now() + SETTLE;
        for known in self.known.values_mut().filter(|known| !known.awaited) {
            known.awaited = true;
            // Late ones are still followed; their services answer 401 until then.
            let _ = timeout_at(end, known.read.wait_for(|read| *read)).await;
        }
    }

    pub(super) fn keys(&self, name: &SecretName) -> Option<WatchedKeys> {
        self.known.get(name).map(|known| known.keys.clone())
    }
}

fn nobody() -> KeySet {
    KeySet::closed([]).unwrap_or_default()
}

async fn follow(
    secrets: Api<Secret>,
    name: String,
    keys: WatchedKeys,
    read: watch::Sender<bool>,
    changed: Arc<Notify>,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher::watcher(secrets, config).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = false,
            Ok(Event::InitApply(secret)) => {
                listed = true;
                take(&name, &secret, &keys);
            }
            Ok(Event::Apply(secret)) => take(&name, &secret, &keys),
            Ok(Event::InitDone) => {
                if !listed {
                    gone(&name, &keys);
                }
                read.send_replace(true);
                changed.notify_one();
            }
            Ok(Event::Delete(_)) => gone(&name, &keys),
            Err(error) => {
                tracing::warn!(secret = name, error = %wharf_telemetry::log::chain(&error), "failed to watch API keys; the last ones hold");
            }
        }
    }
}

fn gone(name: &str, keys: &WatchedKeys) {
    tracing::warn!(
        secret = name,
        "there is no Secret of this name; nobody may call the services that name it"
    );
    keys.replace(nobody());
}

fn take(name: &str, secret: &Secret, keys: &WatchedKeys) {
    let texts: Result<Vec<(&str, &str)>, _> = secret
        .data
        .iter()
        .flatten()
        .map(|(entry, bytes)| std::str::from_utf8(&bytes.0).map(|text| (entry.as_str(), text)))
        .collect();
    let Ok(texts) = texts else {
        return tracing::error!(secret = name, "an entry of the API keys is no text; the last ones hold");
    };
    match from_entries(Path::new(name), texts) {
        Ok(new) => keys.replace(new),
        Err(error) => {
            tracing::error!(secret = name, error = %wharf_telemetry::log::chain(&error), "failed to read API keys; the last ones hold");
        }
    }
}
