//! The server's life: bind, answer probes while the model loads, serve, drain, end.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use wharf_access::{KeySet, KeySource, KeysError};
use wharf_api::{ApiError, ServeConfig};
use wharf_listen::{BindError, Certificate, Connections, Limits, Listener, Refusal, Reload, TlsError, bind};
use wharf_telemetry::metrics::server as table;
use wharf_telemetry::trace::Tracer;

use crate::drain::drain;
use crate::router;
use crate::state::{App, Loaded, RETRY_AFTER_SECONDS};

/// Threads that move bytes between sockets and requests.
const IO_THREADS: usize = 2;
/// Streams of one HTTP/2 connection at a time.
const H2_STREAMS: u32 = 256;
/// When a server that has become ready no longer uses what only its start needs.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Headers of one request, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// An error of the caller's.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The API keys are unusable.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The certificate is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system refused a thread.
    #[error("failed to start the thread of the metrics port")]
    Thread(#[source] io::Error),
    /// The model did not load.
    #[error("failed to load the model")]
    Load(#[source] BoxError),
    /// A part of the engine is gone, and with it all of it.
    #[error("the server cannot go on: {0}")]
    Lost(String),
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The HTTP API.
    pub http: SocketAddr,
    /// The HTTPS API, with a certificate.
    pub https: Option<SocketAddr>,
    /// Metrics and health.
    pub metrics: SocketAddr,
}

/// A server with its ports open.
pub struct Server {
    app: Arc<App>,
    http: TcpListener,
    https: Option<(TcpListener, Arc<Certificate>)>,
    metrics: std::net::TcpListener,
    addresses: Addresses,
}

/// The runtime that the configuration asks for. Its blocking threads do the text work (`max_workers`).
///
/// # Errors
/// When the operating system refuses a thread.
pub fn runtime(config: &ServeConfig) -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        // One more for address lookups and certificate files, which must not wait for long texts.
        .max_blocking_threads(config.max_workers + 1)
        .thread_name("http")
        .enable_all()
        .build()
}

/// Binds and serves.
///
/// # Errors
/// As [`Server::bind`] and [`Server::serve`].
pub async fn run(
    config: ServeConfig,
    tracer: Tracer,
    loading: impl Future<Output = Result<Loaded, BoxError>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::bind_traced(config, tracer).await?.serve(loading, shutdown).await
}

impl Server {
    /// Reads keys and certificate and opens all ports.
    ///
    /// # Errors
    /// [`ServeError::Keys`], [`ServeError::Tls`], [`ServeError::Bind`].
    pub async fn bind(config: ServeConfig) -> Result<Server, ServeError> {
        Server::bind_traced(config, Tracer::default()).await
    }

    /// The same, with a span for each request.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_traced(config: ServeConfig, tracer: Tracer) -> Result<Server, ServeError> {
        let single = config.api_key.as_ref().map(|key| key.reveal());
        let file = config.api_key_file.as_ref().map(KeySource::new);
        let keys = KeySet::load(file.as_ref(), single)?;
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
                Some((to_tokio(socket, &config, config.https_port, "HTTPS")?, certificate))
            }
            None => None,
        };
        let http = to_tokio(http, &config, config.port, "HTTP")?;
        let addresses = Addresses { http: http_address, https: https_address, metrics: metrics_address };
        Ok(Server { app: Arc::new(App::new(config, keys, tracer)), http, https, metrics, addresses })
    }

    /// Where it listens; with port 0 in the configuration, the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Answers probes until `loading` is done, then everything until `shutdown`, then drains. Returns when
    /// running requests have finished or their grace period is over.
    ///
    /// # Errors
    /// [`ServeError::Load`] with `loading`'s error, at once.
    pub async fn serve(
        self,
        loading: impl Future<Output = Result<Loaded, BoxError>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Server { app, http, https, metrics, addresses } = self;
        let stop = watch::Sender::new(false);
        let mut listeners = JoinSet::new();
        let mut listen = |socket, tls| {
            let listener = Listener {
                socket,
                tls,
                service: TowerToHyperService::new(router::api(&app)),
                limits: limits(&app.config),
                connections: Some(Arc::clone(&app.connections)),
            };
            listeners.spawn(listener.run(stop.subscribe()));
        };
        listen(http, None);
        let mut background = JoinSet::new();
        if let Some((socket, certificate)) = https {
            listen(socket, Some(TlsAcceptor::from(certificate.server_config()?)));
            let app = Arc::clone(&app);
            background.spawn(certificate.watch(move |reload| count_reload(&app, reload)));
        }
        let metrics_ended = start_metrics_thread(&app, metrics, stop.subscribe())?;
        tracing::info!(
            http = %addresses.http,
            https = addresses.https.map(tracing::field::display),
            metrics = %addresses.metrics,
            model = app.model_name,
            "listening"
        );

        let result = until_shutdown(&app, loading, shutdown).await;

        stop.send_replace(true);
        while listeners.join_next().await.is_some() {}
        // The thread ends on the same signal; it sends nothing, and drops its end even when it panics.
        let _ = metrics_ended.await;
        result
    }
}

async fn until_shutdown(
    app: &Arc<App>,
    loading: impl Future<Output = Result<Loaded, BoxError>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let started = Instant::now();
    let mut shutdown = std::pin::pin!(shutdown);
    let lost = tokio::select! {
        loaded = loading => {
            let mut loaded = loaded.map_err(ServeError::Load)?;
            let lost = loaded.lost.take();
            tracing::info!(
                seconds = started.elapsed().as_secs_f64(),
                max_model_len = loaded.engine.max_model_len(),
                "ready"
            );
            app.set_loaded(loaded, started.elapsed());
            // Loading a model needs more than serving it.
            wharf_memory::hand_back();
            lost
        }
        () = &mut shutdown => {
            tracing::info!("told to stop while the model was loading");
            return Ok(());
        }
    };
    let lost = async {
        match lost {
            // Who could tell has gone, and nothing was lost.
            Some(lost) => lost.await.ok(),
            None => None,
        }
    };
    // What only the start used is still mapped where its threads ended later than the model was there, and around what the first request uses.
    let settled = async {
        tokio::time::sleep(SETTLED_AFTER).await;
        wharf_memory::hand_back();
        std::future::pending::<Infallible>().await
    };
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        never = settled => match never {},
        Some(reason) = lost => {
            tracing::error!(reason, "a part of the engine is gone: the server ends");
            Err(ServeError::Lost(reason))
        }
    };
    drain(app).await;
    ended
}

/// What peers may do before a request is there.
fn limits(config: &ServeConfig) -> Limits {
    Limits {
        header_timeout: Duration::from_secs_f64(config.header_timeout_seconds),
        max_header_bytes: MAX_HEADER_BYTES,
        h2_streams: H2_STREAMS,
    }
}

/// The connections that a server accepts, and what one too many is told.
pub(crate) fn connections(config: &ServeConfig) -> Arc<Connections> {
    let error = ApiError::Unavailable {
        reason: "the server has too many open connections".to_owned(),
        retry_after_seconds: RETRY_AFTER_SECONDS,
    };
    let body = serde_json::to_string(&error.body()).expect("strings and nothing else");
    Connections::new(config.max_connections, Refusal { retry_after_seconds: RETRY_AFTER_SECONDS, body })
}

fn count_reload(app: &App, reload: Reload) {
    let result = match reload {
        Reload::Taken => "ok",
        Reload::Refused => "error",
    };
    app.metrics.add(&table::TLS_RELOADS, &[result], 1.0);
}

fn to_tokio(
    socket: std::net::TcpListener,
    config: &ServeConfig,
    port: u16,
    what: &'static str,
) -> Result<TcpListener, ServeError> {
    TcpListener::from_std(socket)
        .map_err(|source| BindError { host: config.host.clone(), port, what, source }.into())
}

/// Health and metrics have a thread and a runtime of their own, so that nothing that requests do delays them. The
/// receiver fails when the thread has closed its port.
fn start_metrics_thread(
    app: &Arc<App>,
    socket: std::net::TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<oneshot::Receiver<()>, ServeError> {
    let app = Arc::clone(app);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
    let socket = {
        let _inside = runtime.enter();
        TcpListener::from_std(socket).map_err(ServeError::Thread)?
    };
    let (running, ended) = oneshot::channel();
    let work = move || {
        let _running: oneshot::Sender<()> = running;
        let listener = Listener {
            socket,
            tls: None,
            service: TowerToHyperService::new(router::metrics(&app)),
            limits: limits(&app.config),
            connections: None,
        };
        runtime.block_on(listener.run(stop));
    };
    std::thread::Builder::new().name("metrics".to_owned()).spawn(work).map_err(ServeError::Thread)?;
    Ok(ended)
}
