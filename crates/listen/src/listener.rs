//! One listening socket: opening it, accepting until told to stop, then letting connections end.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::connection::{Connections, Counted, Limits, Served, Serves};
use crate::workers::Workers;

/// Accepting fails when file descriptors run out; trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are told to end have this long to do so.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {host}:{port} ({what})")]
pub struct BindError {
    /// As configured.
    pub host: String,
    /// As configured.
    pub port: u16,
    /// What the port is for.
    pub what: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Opens a port, without a runtime yet; with port 0 the address has the one that the system chose.
///
/// # Errors
/// When the host has no address or the port is taken.
pub fn bind(
    host: &str,
    port: u16,
    what: &'static str,
) -> Result<(std::net::TcpListener, SocketAddr), BindError> {
    let open = || {
        let address = (host, port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other("the host has no address"))?;
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    open().map_err(|source| BindError { host: host.to_owned(), port, what, source })
}

/// One listening socket and what it serves.
pub struct Listener<S> {
    /// The socket.
    pub socket: TcpListener,
    /// For HTTPS.
    pub tls: Option<TlsAcceptor>,
    /// Answers requests.
    pub service: S,
    /// How long a peer may take and how much it may send before a request is there.
    pub limits: Limits,
    /// Counts and limits connections; probes and scrapers have ports without it.
    pub connections: Option<Arc<Connections>>,
}

impl<S: Serves> Listener<S> {
    /// Accepts until `stop` becomes true, then lets connections end.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        let Listener { socket, tls, service, limits, connections } = self;
        let served = Arc::new(Served { tls, service, limits, stop: stop.clone() });
        accept(&socket, stop, |stream| {
            let counted = Counted::new(connections.as_ref());
            tokio::spawn(Arc::clone(&served).run(stream, counted, graceful.watcher()));
        })
        .await;
        // What has not ended by then is cut when the runtime ends.
        let _ = timeout(CLOSE_TIME, graceful.shutdown()).await;
    }
}

impl<F> Listener<F> {
    /// As [`Listener::run`], with each connection on the worker that has the fewest; the service is made for each worker.
    pub async fn run_on<S: Serves>(self, workers: &Workers, stop: watch::Receiver<bool>)
    where
        F: Fn(usize) -> S,
    {
        let Listener { socket, tls, service, limits, connections } = self;
        let graceful = GracefulShutdown::new();
        let served: Vec<Arc<Served<S>>> = (0..workers.len())
            .map(|worker| {
                let (service, stop) = (service(worker), stop.clone());
                Arc::new(Served { tls: tls.clone(), service, limits: limits.clone(), stop })
            })
            .collect();
        accept(&socket, stop, |stream| {
            let counted = Counted::new(connections.as_ref());
            let watcher = graceful.watcher();
            workers.spawn(stream, |worker| {
                let served = Arc::clone(&served[worker]);
                move |stream| served.run(stream, counted, watcher)
            });
        })
        .await;
        let _ = timeout(CLOSE_TIME, graceful.shutdown()).await;
    }
}

async fn accept(
    socket: &TcpListener,
    mut stop: watch::Receiver<bool>,
    mut take: impl FnMut(tokio::net::TcpStream),
) {
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => take(stream),
            Err(e) if is_peers_fault(&e) => {}
            Err(e) => {
                tracing::error!(error = %e, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
