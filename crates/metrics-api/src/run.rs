//! Puts the parts together, and runs them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api as Objects, Client, Resource, ResourceExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use wharf_cluster::{DemandStreams, Find, follow};
use wharf_listen::side::{self, HowItIs};
use wharf_listen::{Limits, Listener};
use wharf_manifests::Peer;
use wharf_manifests::names::{PART, Part};
use wharf_spec::LLMService;
use wharf_telemetry::build;
use wharf_telemetry::metrics::{EncodeError, Metrics, metrics_api as table};

use crate::apis::Api;
use crate::claim::Home;
use crate::guard::Guard;
use crate::kubelets::{KubeletAccess, KubeletError, Kubelets};
use crate::look::{Look, LookError};
use crate::prometheus::Prometheus;
use crate::sampler::Sampler;
use crate::scaler::Scaler;
use crate::serve::Server;
use crate::services::Services;
use crate::sources::{Resources, Sources};
use crate::tls::Tls;

/// How long until a look that failed is taken again.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How long a gateway may take to answer; its stream says something more often than that.
const PATIENCE: Duration = Duration::from_secs(2);
const LIMITS: Limits =
    Limits { header_timeout: Duration::from_secs(10), max_header_bytes: 64 << 10, h2_streams: 250 };

/// What is served, and from what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace whose pods are known; all if none.
    pub namespace: Option<String>,
    /// APIs to serve, if they are nobody else's.
    pub apis: Vec<Api>,
    /// Where the API server finds this server.
    pub home: Home,
    /// Gateways.
    pub gateway: Peer,
    /// Node agents, or dcgm-exporter's pods.
    pub node_agents: Peer,
    /// For [`Api::Resource`].
    pub kubelets: Option<KubeletAccess>,
    /// A Prometheus that is asked for metrics that are none of ours, by its address.
    pub prometheus: Option<String>,
    /// Finds where pods listen.
    pub find: Find,
    /// How often what is looked at.
    pub every: Every,
}

/// How often what is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    /// The certificate, the front proxy and the APIServices.
    pub look: Duration,
    /// Kubelets; they themselves look every ten seconds.
    pub kubelets: Duration,
}

impl Default for Every {
    fn default() -> Self {
        Every { look: Duration::from_secs(30), kubelets: Duration::from_secs(10) }
    }
}

/// Ports.
#[derive(Debug)]
pub struct Sockets {
    /// HTTPS, for the API server.
    pub api: TcpListener,
    /// gRPC without TLS, for KEDA.
    pub scaler: TcpListener,
    /// Health, readiness and metrics.
    pub side: TcpListener,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// TLS.
    #[error("failed to set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// HTTP clients.
    #[error("failed to prepare HTTP clients")]
    Client(#[source] reqwest::Error),
    /// Kubelets.
    #[error(transparent)]
    Kubelets(#[from] KubeletError),
}

/// How the server is.
struct Shown {
    metrics: Arc<Metrics>,
    looked: AtomicBool,
    listed: AtomicBool,
}

impl HowItIs for Shown {
    fn ready(&self) -> Result<&'static str, &'static str> {
        match (self.listed.load(Ordering::Relaxed), self.looked.load(Ordering::Relaxed)) {
            (true, true) => Ok("working"),
            (false, _) => Err("reading what the cluster has"),
            (true, false) => {
                Err("the API server has not said whom to believe, or there is no certificate yet")
            }
        }
    }

    fn metrics(&self) -> Result<String, EncodeError> {
        self.metrics.encode()
    }
}

/// Serves until `stop`.
///
/// # Errors
/// When it cannot begin. The cluster being away is no error: it is waited for.
pub async fn run(
    client: Client,
    options: Options,
    sockets: Sockets,
    stop: watch::Receiver<bool>,
) -> Result<(), StartError> {
    let metrics = Arc::new(Metrics::new(table::ALL));
    metrics.set(&table::BUILD_INFO, &[build::VERSION, build::COMMIT], 1.0);
    let shown = Arc::new(Shown { metrics: Arc::clone(&metrics), looked: false.into(), listed: false.into() });
    let mut tasks = JoinSet::new();
    let Sockets { api, scaler, side } = sockets;
    tasks.spawn(side::serve(Arc::clone(&shown), side, stop.clone()));

    let gateways_changed = Arc::new(Notify::new());
    let gateways = peers(&client, &options.gateway, Some(&gateways_changed), &mut tasks);
    let sources = Arc::new(sources(&client, &options, &metrics, &mut tasks)?);
    let http = reqwest::Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE).build();
    let http = http.map_err(StartError::Client)?;
    let streams = DemandStreams::follow(http, gateways, gateways_changed, options.find);
    let guard = Arc::new(Guard::new(client.clone()));
    let tls = Tls::new();
    let acceptor = TlsAcceptor::from(tls.server_config().map_err(|error| StartError::Tls(Box::new(error)))?);
    let apis: Arc<[Api]> = options.apis.clone().into();
    let look = Look {
        client,
        home: options.home,
        apis: Arc::clone(&apis),
        guard: Arc::clone(&guard),
        tls,
        metrics: Arc::clone(&metrics),
        said: Mutex::default(),
    };

    let server = Server { guard, sources: Arc::clone(&sources), metrics: Arc::clone(&metrics), apis };
    let service = service_fn(move |request: http::Request<Incoming>| server.clone().answer(request));
    let api = Listener { socket: api, tls: Some(acceptor), service, limits: LIMITS, connections: None };
    let keda = Scaler(Arc::clone(&sources));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let answering = keda.clone().answer(request);
        async move { Ok::<_, std::convert::Infallible>(answering.await) }
    });
    let scaler = Listener { socket: scaler, tls: None, service, limits: LIMITS, connections: None };

    let working = async {
        tokio::join!(
            looks(&look, options.every.look, &shown),
            listed(&sources, &shown),
            sources.sampler.run(),
            sources.services.follow(&streams),
            async {
                if let Some(resources) = &sources.resources {
                    resources.kubelets.run(options.every.kubelets).await;
                }
            },
            count(&metrics, &streams),
        );
    };
    let serving = async { tokio::join!(api.run(stop.clone()), scaler.run(stop.clone())) };
    tokio::select! {
        () = working => {}
        _ = serving => {}
    }
    Ok(())
}

fn sources(
    client: &Client,
    options: &Options,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Result<Sources, StartError> {
    let namespace = options.namespace.as_deref();
    let servers = watcher::Config::default().labels(&format!("{PART}={}", Part::Server.name()));
    let pods = kept::<Pod>(client, namespace, servers, tasks);
    let llm_services = kept::<LLMService>(client, namespace, watcher::Config::default(), tasks);
    let agents = peers(client, &options.node_agents, None, tasks);
    let sampler = Sampler::new(options.find, Arc::clone(metrics)).map_err(StartError::Client)?;
    let resources = match (&options.kubelets, options.apis.contains(&Api::Resource)) {
        (Some(access), true) => {
            let nodes = kept::<Node>(client, None, watcher::Config::default(), tasks);
            let kubelets = Kubelets::new(access, nodes.clone())?;
            Some(Resources { kubelets, nodes, pods: labels_of_pods(client, tasks) })
        }
        _ => None,
    };
    let prometheus =
        options.prometheus.as_deref().map(Prometheus::new).transpose().map_err(StartError::Client)?;
    let services = Services::default();
    Ok(Sources { pods, llm_services, agents, sampler, services, prometheus, resources })
}

/// Objects of a kind, without what no value is made of.
fn kept<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
    tasks: &mut JoinSet<()>,
) -> Store<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    follow(wharf_cluster::api(client, namespace, &resource), &resource, config, |_| {}, tasks)
}

fn peers(
    client: &Client,
    peer: &Peer,
    changed: Option<&Arc<Notify>>,
    tasks: &mut JoinSet<()>,
) -> Store<DynamicObject> {
    let labels: Vec<String> = peer.pods.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let config = watcher::Config::default().labels(&labels.join(","));
    let resource = ApiResource::erase::<Pod>(&());
    let changed = changed.cloned();
    let tell = move |_| {
        if let Some(changed) = &changed {
            // One permit is kept for whoever does not wait at the moment.
            changed.notify_one();
        }
    };
    follow(wharf_cluster::api(client, Some(&peer.namespace), &resource), &resource, config, tell, tasks)
}

/// All pods of the cluster, by metadata alone.
fn labels_of_pods(client: &Client, tasks: &mut JoinSet<()>) -> Store<PartialObjectMeta<Pod>> {
    let writer = reflector::store::Writer::default();
    let store = writer.as_reader();
    let pods: Objects<PartialObjectMeta<Pod>> = Objects::all(client.clone());
    tasks.spawn(async move {
        let events = watcher(pods, watcher::Config::default()).default_backoff().modify(|pod| {
            pod.managed_fields_mut().clear();
            pod.annotations_mut().clear();
        });
        let mut events = std::pin::pin!(reflector::reflector(writer, events));
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                let error = wharf_telemetry::log::chain(&error);
                tracing::warn!(error, "failed to watch pods; what was seen last holds");
            }
        }
    });
    store
}

/// Looks for as long as it is polled. The same failure is told once.
async fn looks(look: &Look, every: Duration, shown: &Shown) {
    let mut told = String::new();
    loop {
        let looked: Result<(), LookError> = look.once().await;
        match looked {
            Ok(()) => {
                shown.looked.store(true, Ordering::Relaxed);
                told.clear();
                sleep(every).await;
            }
            Err(error) => {
                let error = wharf_telemetry::log::chain(&error);
                if error != told {
                    tracing::error!(error, "the metrics API is not as it should be; looking again");
                    told = error;
                }
                sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn listed(sources: &Sources, shown: &Shown) {
    // The tasks that fill the stores end with us.
    let _ = sources.pods.wait_until_ready().await;
    let _ = sources.llm_services.wait_until_ready().await;
    shown.listed.store(true, Ordering::Relaxed);
    std::future::pending().await
}

async fn count(metrics: &Metrics, streams: &DemandStreams) {
    loop {
        metrics.set(&table::GATEWAYS, &[], streams.followed() as f64);
        sleep(PATIENCE).await;
    }
}
