//! What services there are, read from Kubernetes and told to a gateway.
//!
//! This watches and never writes. What was seen last holds until something newer is seen: while the API server is down, or refuses, the gateway
//! goes on with what it knows, and a list is taken over only when it is whole. What the operator waits for (which shares of traffic are in force)
//! is served on the gateway's side port as a [`TrafficReport`], straight from the table that requests are routed by.

mod keys;
mod pool;
mod rights;
mod services;
mod watched;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wharf_spec::LLMService;
use wharf_spec::service::Traffic;

use crate::serve::Handle;
use crate::service::ServiceSpec;

pub use pool::pool;
pub use rights::rights;

use keys::Secrets;
use services::{Found, Seen};
use watched::{Watched, watch};

/// The service that an object belongs to. The same labels as `wharf_manifests::names` gives.
const SERVICE: &str = "wharf.dev/service";
/// The pods that answer requests.
const SERVERS: &str = "wharf.dev/part=server";
/// Changes come in groups; the table is made anew once for each group.
const GROUP: Duration = Duration::from_millis(20);

/// Which shares of traffic a gateway routes by: the answer of `GET /wharf/v1/traffic` on its side port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// The gateway's name.
    pub gateway: String,
    /// `status.traffic` as it is in force, by `namespace/name`.
    pub services: BTreeMap<String, Vec<Traffic>>,
}

/// Follows all LLMServices of these namespaces, of all if none is named, and tells the gateway, for as long as it is polled.
///
/// The gateway's services are those of the cluster from the first whole look on; until then it keeps what it was configured with.
pub async fn cluster(client: Client, namespaces: Vec<String>, gateway: Handle) {
    let changed = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let scopes: Vec<Option<String>> = match namespaces.is_empty() {
        true => vec![None],
        false => namespaces.into_iter().map(Some).collect(),
    };
    let scopes: Vec<Scope> = scopes
        .iter()
        .map(|namespace| Scope {
            services: watch(&client, namespace.as_deref(), watcher::Config::default(), &changed, &mut tasks),
            slices: watch(
                &client,
                namespace.as_deref(),
                watcher::Config::default().labels(SERVICE),
                &changed,
                &mut tasks,
            ),
            pods: watch(
                &client,
                namespace.as_deref(),
                watcher::Config::default().labels(SERVERS),
                &changed,
                &mut tasks,
            ),
        })
        .collect();
    for Scope { services, slices, pods } in &scopes {
        services.seen().await;
        slices.seen().await;
        pods.seen().await;
    }
    let mut secrets = Secrets::new(client, Arc::clone(&changed));
    loop {
        let found = services::find(&Seen {
            services: scopes.iter().flat_map(|scope| scope.services.all()).collect(),
            slices: scopes.iter().flat_map(|scope| scope.slices.all()).collect(),
            pods: scopes.iter().flat_map(|scope| scope.pods.all()).collect(),
        });
        secrets.keep(found.iter().filter_map(|found| found.secret.clone()).collect());
        secrets.settle().await;
        let specs = found.into_iter().map(|found| with_keys(found, &secrets)).collect();
        gateway.set_services(specs);
        changed.notified().await;
        tokio::time::sleep(GROUP).await;
    }
}

/// What is watched of a namespace, or of all.
struct Scope {
    services: Watched<LLMService>,
    slices: Watched<EndpointSlice>,
    pods: Watched<services::PodLabels>,
}

/// An address with its port; one of IP version 6 in brackets.
fn joined(address: &str, port: impl Display) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn with_keys(found: Found, secrets: &Secrets) -> ServiceSpec {
    let Found { config, trouble, traffic, secret } = found;
    ServiceSpec { config, keys: secret.and_then(|secret| secrets.keys(&secret)), trouble, traffic }
}
