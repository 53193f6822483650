//! Reads kubelets, one task for all of them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::usage::{NodeUse, Reading, between, read};

const PATIENCE: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 32;
/// A node that has not answered for so long has no value.
const STALE: Duration = Duration::from_secs(60);

/// How kubelets are reached.
#[derive(Clone, Debug)]
pub struct KubeletAccess {
    /// File with the token to show, read each time: the cluster renews it.
    pub token: PathBuf,
    /// Who signs kubelets' certificates, in PEM; nobody is asked about them if none.
    pub authority: Option<String>,
}

/// Why kubelets cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The authority is no certificate.
    #[error("failed to use the certificate authority of kubelets")]
    Authority(#[source] reqwest::Error),
    /// There is no client.
    #[error("failed to prepare a client for kubelets")]
    Client(#[source] reqwest::Error),
}

/// Why one could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the node has no address")]
    NoAddress,
    #[error("failed to read the token in {path}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("failed to ask")]
    Ask(#[source] reqwest::Error),
}

/// What all nodes use.
pub(crate) struct Kubelets {
    client: reqwest::Client,
    token: PathBuf,
    nodes: Store<DynamicObject>,
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    when: Instant,
    reading: Reading,
    used: Option<NodeUse>,
}

impl Kubelets {
    pub(crate) fn new(access: &KubeletAccess, nodes: Store<DynamicObject>) -> Result<Kubelets, KubeletError> {
        let mut client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().pool_max_idle_per_host(1);
        client = match &access.authority {
            Some(pem) => {
                let authorities =
                    reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(KubeletError::Authority)?;
                client.tls_certs_only(authorities)
            }
            None => client.danger_accept_invalid_certs(true),
        };
        let client = client.build().map_err(KubeletError::Client)?;
        Ok(Kubelets { client, token: access.token.clone(), nodes, known: Mutex::default() })
    }

    /// Reads all of them, for as long as it is polled.
    pub(crate) async fn run(&self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let nodes = self.nodes.state();
            self.known().retain(|name, _| nodes.iter().any(|node| node.name_any() == *name));
            futures_util::stream::iter(nodes)
                .for_each_concurrent(AT_ONCE, async |node| {
                    let name = node.name_any();
                    match self.ask(&node).await {
                        Ok(text) => self.hear(name, &text),
                        Err(error) => {
                            let error = wharf_telemetry::log::chain(&error);
                            tracing::warn!(node = name, error, "failed to read a kubelet");
                        }
                    }
                })
                .await;
        }
    }

    /// What each node uses that has said so lately.
    pub(crate) fn used(&self) -> HashMap<String, NodeUse> {
        let known = self.known();
        let fresh = known.iter().filter(|(_, known)| known.when.elapsed() < STALE);
        fresh.filter_map(|(name, known)| Some((name.clone(), known.used.clone()?))).collect()
    }

    async fn ask(&self, node: &DynamicObject) -> Result<String, ReadError> {
        let address = address(node).ok_or(ReadError::NoAddress)?;
        let path = &self.token;
        let token = tokio::fs::read_to_string(path).await;
        let token = token.map_err(|source| ReadError::Token { path: path.clone(), source })?;
        let request =
            self.client.get(format!("https://{address}/metrics/resource")).bearer_auth(token.trim());
        let answer =
            request.send().await.and_then(reqwest::Response::error_for_status).map_err(ReadError::Ask)?;
        answer.text().await.map_err(ReadError::Ask)
    }

    fn hear(&self, name: String, text: &str) {
        let (when, reading) = (Instant::now(), read(text));
        let mut known = self.known();
        let used = known.get(&name).map(|before| between(&before.reading, &reading, when - before.when));
        known.insert(name, Known { when, reading, used });
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `host:port` of a node's kubelet.
fn address(node: &DynamicObject) -> Option<String> {
    let status = &node.data["status"];
    let addresses = status["addresses"].as_array()?;
    let of = |kind: &str| addresses.iter().find(|address| address["type"] == kind)?["address"].as_str();
    let host = of("InternalIP").or_else(|| of("Hostname"))?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(10250);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}
