//! The port beside the API: health, metrics, the demand stream that the autoscaler follows, usage for the other gateways. It is for the platform,
//! and needs no key; only those who share the gateways' secret learn what keys have used.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use wharf_access::{KeySource, WatchedKeys};
use wharf_api::ApiError;
use wharf_api::demand::DemandReport;
use wharf_listen::{Connections, Limits, Listener};
use wharf_telemetry::metrics::{Metrics, gateway as table};

use crate::answer::{self, Answer};
use crate::config::ServiceConfig;
use crate::discover::TrafficReport;
use crate::peers::{self, USAGE_PATH};
use crate::service::{ServiceSpec, ServiceState};
use crate::shared::{SetupError, Shared};

/// How long a line of the demand stream holds.
const LEASE: Duration = Duration::from_secs(3);
/// A line is sent at least this often.
const BEAT: Duration = Duration::from_millis(500);
/// Lines are at least this far apart: a burst of arrivals is one line.
const APART: Duration = Duration::from_millis(2);

/// The demand stream.
pub(crate) const DEMAND_PATH: &str = "/wharf/v1/demand";

/// Where the operator learns which shares of traffic are in force here: an old version may go when every gateway has said so.
pub(crate) const TRAFFIC_PATH: &str = "/wharf/v1/traffic";

/// What this port shows.
#[derive(Clone)]
pub(crate) struct Side {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connections: Arc<Connections>,
}

/// Serves the port until `stop`.
pub(crate) async fn serve(side: Side, socket: TcpListener, limits: Limits, stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let side = side.clone();
        async move { Ok::<_, Infallible>(side.answer(request).await) }
    });
    Listener { socket, tls: None, service, limits, connections: None }.run(stop).await;
}

impl Side {
    async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        match (request.method().as_str(), request.uri().path()) {
            ("GET", "/health") => Response::new(Answer::empty()),
            ("GET", "/ready") => answer::readiness(&self.shared),
            ("GET", "/metrics") => self.metrics(),
            ("GET", DEMAND_PATH) => self.demand(),
            ("GET", USAGE_PATH) => peers::answer(&self.shared, request.headers()),
            ("GET", TRAFFIC_PATH) => answer::json(&traffic(&self.shared)),
            (method, path) => {
                answer::failure(&ApiError::NotFound { method: method.to_owned(), path: path.to_owned() })
            }
        }
    }

    fn metrics(&self) -> Response<Answer> {
        let metrics = &self.shared.metrics;
        metrics.set(&table::CONNECTIONS, &[], self.connections.open() as f64);
        self.shared.ledger.show(metrics);
        if let Some(peers) = &self.shared.peers {
            peers.show(metrics);
        }
        // Services come and go.
        let text = metrics.encode_anew(&[&table::IN_FLIGHT, &table::QUEUED, &table::ENDPOINTS], || {
            for service in self.shared.table().services.values() {
                let demand = service.demand();
                let name = &*service.name;
                metrics.set(&table::IN_FLIGHT, &[name], demand.in_flight as f64);
                metrics.set(&table::QUEUED, &[name], demand.queued as f64);
                let states = service.endpoints();
                let ready = states.iter().filter(|state| state.ready && !state.broken).count();
                let broken = states.iter().filter(|state| state.ready && state.broken).count();
                for (state, count) in
                    [("ready", ready), ("broken", broken), ("out", states.len() - ready - broken)]
                {
                    metrics.set(&table::ENDPOINTS, &[name, state], count as f64);
                }
            }
        });
        match text {
            Ok(text) => answer::text(Metrics::CONTENT_TYPE, text),
            Err(error) => answer::failure(&ApiError::Internal(format!("failed to write metrics: {error}"))),
        }
    }

    /// Lines for as long as somebody reads them.
    fn demand(&self) -> Response<Answer> {
        let (sender, pieces) = mpsc::channel(4);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            loop {
                let changed = shared.demand_changed.notified();
                let report = report(&shared, next_sequence());
                let mut line = serde_json::to_string(&report).unwrap_or_default();
                line.push('\n');
                if sender.send(Ok(Bytes::from(line))).await.is_err() || shared.is_draining() {
                    return;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    _ = timeout(BEAT, changed) => {}
                }
                tokio::time::sleep(APART).await;
            }
        });
        let mut response = Response::new(Answer::sent(pieces));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        response
    }
}

/// Sequence numbers are this process's, whoever reads: they only have to grow.
fn next_sequence() -> u64 {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    SEQUENCE.fetch_add(1, Ordering::Relaxed)
}

/// What the demand is now.
pub(crate) fn report(shared: &Shared, sequence: u64) -> DemandReport {
    let services = shared.table().services.values().map(|s| (s.name.to_string(), s.demand())).collect();
    DemandReport {
        gateway: shared.config.name.clone(),
        epoch: shared.epoch,
        sequence,
        lease_ms: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
        services,
    }
}

/// The shares of traffic in force, as the operator wrote them.
fn traffic(shared: &Shared) -> TrafficReport {
    let of = |service: &Arc<ServiceState>| (service.name.to_string(), service.spec().traffic.clone());
    TrafficReport {
        gateway: shared.config.name.clone(),
        services: shared.table().services.values().map(of).collect(),
    }
}

/// A listed service with its keys read.
pub(crate) fn with_keys(config: ServiceConfig) -> Result<ServiceSpec, SetupError> {
    let keys = match &config.api_keys {
        Some(path) => Some(WatchedKeys::follow(KeySource::new(path))?),
        None => None,
    };
    Ok(ServiceSpec { keys, ..ServiceSpec::from(config) })
}
