//! The gateway's life: open the ports, serve, drain, end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use wharf_api::ApiError;
use wharf_api::console::Overview;
use wharf_api::demand::DemandReport;
use wharf_listen::{
    BindError, Certificate, Connections, Limits, Listener, Refusal, Reload, TlsError, Workers, bind,
};
use wharf_telemetry::metrics::gateway as table;
use wharf_telemetry::trace::Tracer;

use crate::answer::Answer;
use crate::config::{GatewayConfig, seconds};
use crate::console::{self, Sight};
use crate::pool;
use crate::proxy::Worker;
use crate::service::ServiceSpec;
use crate::shared::{SetupError, Shared};
use crate::side::{self, Side};

/// Streams of one HTTP/2 connection at a time.
const H2_STREAMS: u32 = 1024;
/// Headers of one request, in bytes.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// How often a draining gateway looks whether its requests have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys or files are unusable.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The operating system refused threads or sockets.
    #[error("failed to start the gateway's threads")]
    Threads(#[source] io::Error),
}

/// Where a gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The HTTP API.
    pub http: SocketAddr,
    /// The HTTPS API, with a certificate.
    pub https: Option<SocketAddr>,
    /// Metrics, health and the demand stream.
    pub metrics: SocketAddr,
}

/// A gateway with its ports open.
pub struct Gateway {
    shared: Arc<Shared>,
    http: std::net::TcpListener,
    https: Option<(std::net::TcpListener, Arc<Certificate>)>,
    metrics: std::net::TcpListener,
    addresses: Addresses,
}

/// What whoever embeds a gateway may do while it runs. Clones are the same gateway's.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    /// These are all services now.
    pub fn set_services(&self, services: Vec<ServiceSpec>) {
        self.0.set_services(services);
    }

    /// This service is new or has changed; the others stay.
    pub fn set_service(&self, service: ServiceSpec) {
        self.0.set_service(service);
    }

    /// What the demand is now, as the demand stream would say.
    pub fn demand(&self) -> DemandReport {
        side::report(&self.0, 0)
    }

    /// Returns when demand has appeared that was not there before, or the gateway drains.
    pub async fn demand_changed(&self) {
        self.0.demand_changed.notified().await;
    }

    /// Services stay for which `keep` says so; requests that wait for the others are refused.
    pub fn retain_services(&self, keep: impl Fn(&str) -> bool) {
        let services = &self.0.table().services;
        let kept =
            services.iter().filter(|(name, _)| keep(name)).map(|(_, service)| (*service.spec()).clone());
        self.0.set_services(kept.collect());
    }

    /// Requests that this gateway has at each endpoint of a service.
    pub fn in_flight_by_endpoint(&self, service: &str) -> BTreeMap<String, u32> {
        let table = self.0.table();
        let states = table.services.get(service).map(|service| service.endpoints()).unwrap_or_default();
        states.into_iter().map(|state| (state.address, state.in_flight)).collect()
    }

    /// From now on this is asked what is known of services beyond what the gateway sees.
    pub fn set_console_source(&self, source: Arc<dyn console::Source>) {
        self.0.console.set_source(source);
    }

    /// The source would answer otherwise than before: open pages are told at once.
    pub fn console_changed(&self) {
        self.0.console.source_changed();
    }

    /// Everything at this moment, for whoever shows it. Rates need a gateway that has served for two seconds.
    pub fn overview(&self) -> Overview {
        console::overview(&self.0, &Sight::All)
    }

    /// Requests at endpoints, over all services.
    pub fn in_flight(&self) -> u64 {
        self.0.table().services.values().map(|service| service.demand().in_flight).sum()
    }
}

impl Gateway {
    /// Reads keys and certificate and opens all ports. Call it within a runtime.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(config: GatewayConfig) -> Result<Gateway, ServeError> {
        Gateway::bind_traced(config, Tracer::default())
    }

    /// The same, with a span for each request.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind_traced(config: GatewayConfig, tracer: Tracer) -> Result<Gateway, ServeError> {
        let certificate = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Some(Certificate::load(cert, key)?),
            _ => None,
        };
        let (http, http_address) = bind(&config.host, config.port, "HTTP")?;
        let (metrics, metrics_address) = bind(&config.host, config.metrics_port, "metrics")?;
        let mut https_address = None;
        let https = match certificate {
            Some(certificate) => {
                let (socket, address) = bind(&config.host, config.https_port, "HTTPS")?;
                https_address = Some(address);
                Some((socket, certificate))
            }
            None => None,
        };
        let services = config.services.clone();
        let shared = Shared::new(config, tracer)?;
        let specs = services.into_iter().map(side::with_keys).collect::<Result<Vec<_>, SetupError>>()?;
        shared.set_services(specs);
        let addresses = Addresses { http: http_address, https: https_address, metrics: metrics_address };
        Ok(Gateway { shared, http, https, metrics, addresses })
    }

    /// Where it listens; with port 0 in the configuration, the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// To tell it of services.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves until `shutdown`, then lets running requests end.
    ///
    /// # Errors
    /// [`ServeError::Threads`], [`ServeError::Tls`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Gateway { shared, http, https, metrics, addresses } = self;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = Workers::start(shared.config.threads.unwrap_or(cores)).map_err(ServeError::Threads)?;
        let workers = Arc::new(workers);
        let own: Arc<Vec<Worker>> = Arc::new(
            (0..workers.len())
                .map(|number| {
                    let _inside = workers.runtime(number).enter();
                    Worker { shared: Arc::clone(&shared), pool: pool::start() }
                })
                .collect(),
        );
        let connections = connections(&shared.config);
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        let mut listeners = JoinSet::new();
        let mut listen = |socket: std::net::TcpListener, tls| -> Result<(), ServeError> {
            let socket = TcpListener::from_std(socket).map_err(ServeError::Threads)?;
            let own = Arc::clone(&own);
            let limits = limits(&shared.config);
            let service = move |number: usize| Answering(own[number].clone());
            let listener =
                Listener { socket, tls, service, limits, connections: Some(Arc::clone(&connections)) };
            let (workers, stop) = (Arc::clone(&workers), stop.subscribe());
            listeners.spawn(async move { listener.run_on(&workers, stop).await });
            Ok(())
        };
        listen(http, None)?;
        if let Some((socket, certificate)) = https {
            listen(socket, Some(TlsAcceptor::from(certificate.server_config()?)))?;
            let shared = Arc::clone(&shared);
            tasks.spawn(certificate.watch(move |reload| count_reload(&shared, reload)));
        }
        let side = Side { shared: Arc::clone(&shared), connections };
        let metrics = TcpListener::from_std(metrics).map_err(ServeError::Threads)?;
        tasks.spawn(side::serve(side, metrics, limits(&shared.config), stop.subscribe()));
        tasks.spawn(crate::poll::run(Arc::clone(&shared)));
        tasks.spawn(console::sample(Arc::clone(&shared)));
        tasks.spawn(shared.tokens.clone().follow());
        tasks.spawn(crate::peers::run(Arc::clone(&shared)));
        tracing::info!(
            http = %addresses.http,
            https = addresses.https.map(tracing::field::display),
            metrics = %addresses.metrics,
            "listening"
        );

        shutdown.await;

        drain(&shared).await;
        stop.send_replace(true);
        while listeners.join_next().await.is_some() {}
        tasks.shutdown().await;
        Ok(())
    }
}

/// Answers a worker's connections.
#[derive(Clone)]
struct Answering(Worker);

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = http::Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let worker = self.0.clone();
        let running = Running::new(&worker.shared);
        Box::pin(async move { Ok(worker.answer(request).await.map(|body| body.counted(running))) })
    }
}

/// A request that is being answered, until its body has been sent.
pub(crate) struct Running(Arc<AtomicUsize>);

impl Running {
    pub(crate) fn new(shared: &Shared) -> Running {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(&shared.running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses new requests and waits for those that are being answered.
pub(crate) async fn drain(shared: &Shared) {
    shared.set_draining();
    let grace = seconds(shared.config.timeouts.drain);
    let deadline = Instant::now() + grace;
    let running = || shared.running.load(Ordering::Relaxed);
    tracing::info!(running = running(), grace_seconds = grace.as_secs_f64(), "draining");
    while running() > 0 && Instant::now() < deadline {
        sleep(DRAIN_LOOK).await;
    }
    match running() {
        0 => tracing::info!("drained"),
        rest => tracing::warn!(running = rest, "the grace period is over; the rest is cut off"),
    }
}

pub(crate) fn limits(config: &GatewayConfig) -> Limits {
    Limits {
        header_timeout: seconds(config.timeouts.header),
        max_header_bytes: MAX_HEADER_BYTES,
        h2_streams: H2_STREAMS,
    }
}

pub(crate) fn connections(config: &GatewayConfig) -> Arc<Connections> {
    let error = ApiError::Unavailable {
        reason: "the gateway has too many open connections".to_owned(),
        retry_after_seconds: 1,
    };
    let body = serde_json::to_string(&error.body()).unwrap_or_default();
    Connections::new(config.max_connections, Refusal { retry_after_seconds: 1, body })
}

pub(crate) fn count_reload(shared: &Shared, reload: Reload) {
    let result = match reload {
        Reload::Taken => "ok",
        Reload::Refused => "error",
    };
    shared.metrics.add(&table::TLS_RELOADS, &[result], 1.0);
}
