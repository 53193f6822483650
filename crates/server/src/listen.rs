//! Sockets: accepting connections, TLS, time limits, and telling connections to end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use wharf_api::ApiError;

use crate::state::{App, RETRY_AFTER_SECONDS};

/// Streams of one HTTP/2 connection at a time.
const H2_STREAMS: u32 = 256;
/// A dead HTTP/2 peer is noticed after the sum of these.
const H2_PING_EVERY: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Headers of one request, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Accepting fails when file descriptors run out; trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are told to end have this long to do so.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Who is counted in the connection limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// Clients: counted and limited.
    Api,
    /// Probes and scrapers: neither.
    Metrics,
}

/// One listening socket and what it serves.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) router: Router,
    pub(crate) port: Port,
}

impl Listener {
    /// Accepts until `stop` becomes true, then lets connections end.
    pub(crate) async fn run(self, app: Arc<App>, mut stop: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        let shared = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = shared.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Connection {
                        listener: Arc::clone(&shared),
                        counted: Counted::new(&app, shared.port),
                        app: Arc::clone(&app),
                    };
                    tokio::spawn(connection.run(stream, graceful.watcher()));
                }
                Err(e) if is_peers_fault(&e) => {}
                Err(e) => {
                    tracing::error!(error = %e, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // What has not ended by then is cut when the runtime ends.
        let _ = timeout(CLOSE_TIME, graceful.shutdown()).await;
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

struct Connection {
    listener: Arc<Listener>,
    counted: Counted,
    app: Arc<App>,
}

impl Connection {
    async fn run(self, mut stream: TcpStream, watcher: Watcher) {
        if self.counted.over_limit {
            // Best effort: the peer may be gone.
            let _ = timeout(Duration::from_secs(1), refuse(&mut stream)).await;
            return;
        }
        // Tokens are small and must not wait for each other. A socket that cannot do it still works.
        let _ = stream.set_nodelay(true);
        let header_timeout = Duration::from_secs_f64(self.app.config.header_timeout_seconds);
        match &self.listener.tls {
            None => self.serve(stream, watcher, header_timeout).await,
            Some(tls) => match timeout(header_timeout, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream, watcher, header_timeout).await,
                Ok(Err(e)) => tracing::debug!(error = %e, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            },
        }
    }

    async fn serve<S>(&self, stream: S, watcher: Watcher, header_timeout: Duration)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let first_request = Arc::new(Notify::new());
        let service = {
            let router = self.listener.router.clone();
            let first_request = Arc::clone(&first_request);
            service_fn(move |request: Request<Incoming>| {
                first_request.notify_one();
                let router = router.clone();
                async move { Ok::<_, Infallible>(answer(router, request).await) }
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(MAX_HEADER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING_EVERY)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        // hyper starts its clock when it knows the protocol; a client that sends nothing at all, or half of HTTP/2's
        // preface, never gets that far.
        let no_request_at_all = async {
            if timeout(header_timeout, first_request.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = watcher.watch(connection) => if let Err(e) = result {
                tracing::debug!(error = %e, "a connection ended early");
            },
            () = no_request_at_all => tracing::debug!("a connection sent no request in time"),
        }
    }
}

async fn answer(router: Router, request: Request<Incoming>) -> axum::response::Response {
    match router.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Says why, then reads until the peer closes: closing with unread data resets the connection, and the peer would
/// not see the answer.
async fn refuse(stream: &mut TcpStream) -> io::Result<()> {
    let reason = "the server has too many open connections".to_owned();
    let error = ApiError::Unavailable { reason, retry_after_seconds: RETRY_AFTER_SECONDS };
    let body = serde_json::to_string(&error.body())?;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {RETRY_AFTER_SECONDS}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// Counts a connection while it lives.
struct Counted {
    app: Option<Arc<App>>,
    over_limit: bool,
}

impl Counted {
    fn new(app: &Arc<App>, port: Port) -> Counted {
        match port {
            Port::Api => {
                let over_limit = app.connection_opened() > app.config.max_connections;
                Counted { app: Some(Arc::clone(app)), over_limit }
            }
            Port::Metrics => Counted { app: None, over_limit: false },
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(app) = &self.app {
            app.connection_closed();
        }
    }
}
