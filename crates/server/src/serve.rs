//! The server's life: bind, answer probes while the model loads, serve, drain, end.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use wharf_access::{KeySet, KeySource, KeysError};
use wharf_api::ServeConfig;

use crate::drain::drain;
use crate::listen::{Listener, Port};
use crate::router;
use crate::state::{App, Loaded};
use crate::tls::{Certificate, TlsError};

/// Threads that move bytes between sockets and requests.
const IO_THREADS: usize = 2;

/// An error of the caller's.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be opened.
    #[error("failed to listen on {host}:{port} ({what})")]
    Bind {
        /// As configured.
        host: String,
        /// As configured.
        port: u16,
        /// What the port is for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
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
    loading: impl Future<Output = Result<Loaded, BoxError>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::bind(config).await?.serve(loading, shutdown).await
}

impl Server {
    /// Reads keys and certificate and opens all ports.
    ///
    /// # Errors
    /// [`ServeError::Keys`], [`ServeError::Tls`], [`ServeError::Bind`].
    pub async fn bind(config: ServeConfig) -> Result<Server, ServeError> {
        let single = config.api_key.as_ref().map(|key| key.reveal());
        let file = config.api_key_file.as_ref().map(KeySource::new);
        let keys = KeySet::load(file.as_ref(), single)?;
        let certificate = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Some(Certificate::load(cert, key)?),
            _ => None,
        };
        let (http, http_address) = listen(&config, config.port, "HTTP")?;
        let (metrics, metrics_address) = listen(&config, config.metrics_port, "metrics")?;
        let mut https_address = None;
        let https = match certificate {
            Some(certificate) => {
                let (socket, address) = listen(&config, config.https_port, "HTTPS")?;
                https_address = Some(address);
                Some((to_tokio(socket, &config, config.https_port, "HTTPS")?, certificate))
            }
            None => None,
        };
        let http = to_tokio(http, &config, config.port, "HTTP")?;
        let addresses = Addresses { http: http_address, https: https_address, metrics: metrics_address };
        Ok(Server { app: Arc::new(App::new(config, keys)), http, https, metrics, addresses })
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
            let listener = Listener { socket, tls, router: router::api(&app), port: Port::Api };
            listeners.spawn(listener.run(Arc::clone(&app), stop.subscribe()));
        };
        listen(http, None);
        let mut background = JoinSet::new();
        if let Some((socket, certificate)) = https {
            listen(socket, Some(TlsAcceptor::from(certificate.server_config()?)));
            background.spawn(certificate.watch(Arc::clone(&app)));
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
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        Some(reason) = lost => {
            tracing::error!(reason, "a part of the engine is gone: the server ends");
            Err(ServeError::Lost(reason))
        }
    };
    drain(app).await;
    ended
}

fn listen(
    config: &ServeConfig,
    port: u16,
    what: &'static str,
) -> Result<(std::net::TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { host: config.host.clone(), port, what, source };
    let address = (config.host.as_str(), port)
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(|| io::Error::other("the host has no address")))
        .map_err(failed)?;
    let socket = std::net::TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    Ok((socket, address))
}

fn to_tokio(
    socket: std::net::TcpListener,
    config: &ServeConfig,
    port: u16,
    what: &'static str,
) -> Result<TcpListener, ServeError> {
    TcpListener::from_std(socket).map_err(|source| ServeError::Bind {
        host: config.host.clone(),
        port,
        what,
        source,
    })
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
        let listener = Listener { socket, tls: None, router: router::metrics(&app), port: Port::Metrics };
        runtime.block_on(listener.run(app, stop));
    };
    std::thread::Builder::new().name("metrics".to_owned()).spawn(work).map_err(ServeError::Thread)?;
    Ok(ended)
}

/// An error with all its causes, for one log line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
