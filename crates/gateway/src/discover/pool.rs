//! The endpoints of an InferencePool (`inference.networking.k8s.io/v1`): every address of its pods with every port that it names.
//!
//! Only the pool of this name and the pods that it selects are watched, as the endpoint picker's Role allows. When the pool changes, what it
//! selected before stays until what it selects now has been seen whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use wharf_routing::Endpoint;

use super::services::COLOUR;
use super::watched::{self, Watched};
use super::{GROUP, joined};
use crate::config::{EndpointConfig, ServiceConfig};
use crate::serve::Handle;

/// What a pool says of its endpoints.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pool {
    selector: Selector,
    target_ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Port {
    number: u16,
}

/// Follows a pool and its pods, and tells the endpoint picker, whose pool is called `namespace/name`, for as long as it is polled.
pub async fn pool(client: Client, namespace: String, name: String, picker: Handle) {
    let (sender, mut pools) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(client.clone(), namespace.clone(), name.clone(), sender));
    loop {
        let pool = pools.borrow_and_update().clone();
        let service = format!("{namespace}/{name}");
        let changed = match pool {
            None => pools.changed().await,
            Some(pool) => tokio::select! {
                changed = pools.changed() => changed,
                () = follow_pods(&client, &namespace, &pool, &service, &picker) => Ok(()),
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Tells of every change of the pool.
async fn follow(client: Client, namespace: String, name: String, sender: watch::Sender<Option<Pool>>) {
    let kind = GroupVersionKind::gvk("inference.networking.k8s.io", "v1", "InferencePool");
    let resource = ApiResource::from_gvk(&kind);
    let pools: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher::watcher(pools, config).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                match serde_json::from_value::<Pool>(object.data["spec"].clone()) {
                    Ok(pool) => {
                        sender.send_if_modified(|known| {
                            let differs = known.as_ref() != Some(&pool);
                            *known = Some(pool);
                            differs
                        });
                    }
                    Err(error) => tracing::error!(pool = name, %error, "failed to read the InferencePool"),
                }
            }
            // A pool that is deleted while its picker still gets requests is about to be made anew, or nobody asks any more.
            Ok(Event::Delete(_)) => {
                tracing::warn!(pool = name, "the InferencePool is gone; its last pods hold")
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                tracing::warn!(pool = name, error = %wharf_telemetry::log::chain(&error), "failed to watch; what was seen last holds");
            }
        }
    }
}

async fn follow_pods(client: &Client, namespace: &str, pool: &Pool, service: &str, picker: &Handle) {
    let changed = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let labels: Vec<String> =
        pool.selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let config = watcher::Config::default().labels(&labels.join(","));
    let pods: Watched<Pod> = watched::watch(client, Some(namespace), config, &changed, &mut tasks);
    pods.seen().await;
    loop {
        let config = ServiceConfig {
            name: service.to_owned(),
            endpoints: endpoints(pool, &pods.all()).into_iter().map(EndpointConfig::Full).collect(),
            ..ServiceConfig::default()
        };
        picker.set_service(config.into());
        changed.notified().await;
        tokio::time::sleep(GROUP).await;
    }
}

/// Every pod with every port, in order.
fn endpoints(pool: &Pool, pods: &[Arc<Pod>]) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = pods.iter().flat_map(|pod| of_pod(pool, pod)).collect();
    found.sort_by(|a, b| a.address.cmp(&b.address));
    found
}

fn of_pod(pool: &Pool, pod: &Pod) -> Vec<Endpoint> {
    let Some(status) = &pod.status else { return Vec::new() };
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let Some(ip) = status.pod_ip.as_deref().filter(|_| !has_ended) else { return Vec::new() };
    let conditions = status.conditions.iter().flatten();
    let ready =
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let endpoint = |port: &Port| Endpoint {
        address: joined(ip, port.number),
        colour: pod.labels().get(COLOUR).cloned().unwrap_or_default(),
        ready,
        draining: pod.metadata.deletion_timestamp.is_some(),
    };
    pool.target_ports.iter().map(endpoint).collect()
}
