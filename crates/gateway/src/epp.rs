//! The endpoint picker of the Gateway API Inference Extension: the same picker as the gateway's, behind Envoy's ext-proc.
//!
//! Envoy, or any proxy that speaks ext-proc, carries the requests; this decides where each goes, says so in a header and in dynamic metadata,
//! and follows the answer so that it knows what every endpoint has to do. It checks no keys and holds no requests: what arrives here was let
//! in by somebody, and a proxy can say 429 at once.

mod answering;
mod config;
mod conversation;
mod pick;
mod process;
mod tls;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wharf_listen::{BindError, Limits, Listener, TlsError, bind};
use wharf_telemetry::trace::Tracer;

use crate::config::ConfigError;
use crate::serve::{self, Handle};
use crate::shared::{SetupError, Shared};
use crate::side::{self, Side};

pub use config::{EppConfig, EppTls};

use pick::Picker;
use process::Processor;
use tls::Tls;

/// Requests of one connection at a time: a stream lives as long as its request.
const STREAMS: u32 = 65_536;
/// What probes ask the health service about.
const HEALTH_NAMES: [&str; 5] =
    ["", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"];

/// Why an endpoint picker could not start.
#[derive(Debug, thiserror::Error)]
pub enum EppError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificate could be made.
    #[error("failed to make a certificate")]
    SelfSigned(#[from] rcgen::Error),
    /// What is shared with gateways could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The operating system refused sockets.
    #[error("failed to use the endpoint picker's sockets")]
    Sockets(#[source] std::io::Error),
}

/// Where an endpoint picker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EppAddresses {
    /// The ext-proc service, with the health service beside it.
    pub grpc: SocketAddr,
    /// The health service alone, in plain text.
    pub health: SocketAddr,
    /// Metrics, health over HTTP and the demand stream.
    pub metrics: SocketAddr,
}

/// An endpoint picker with its ports open.
pub struct Epp {
    picker: Arc<Picker>,
    tls: Tls,
    grpc: std::net::TcpListener,
    health: std::net::TcpListener,
    metrics: std::net::TcpListener,
    addresses: EppAddresses,
}

impl Epp {
    /// Reads or makes the certificate and opens all ports. Call it within a runtime.
    ///
    /// # Errors
    /// [`EppError`].
    pub fn bind(config: EppConfig) -> Result<Epp, EppError> {
        config.check()?;
        let tls = Tls::new(&config.tls)?;
        let (grpc, grpc_address) = bind(&config.host, config.port, "ext-proc")?;
        let (health, health_address) = bind(&config.host, config.health_port, "gRPC health")?;
        let (metrics, metrics_address) = bind(&config.host, config.metrics_port, "metrics")?;
        let gateway = config.gateway();
        let services = gateway.services.iter().cloned().map(Into::into).collect();
        let shared = Shared::new(gateway, Tracer::default())?;
        shared.set_services(services);
        let EppConfig { pool, adapters, alternatives, shed_above, .. } = config;
        let picker = Arc::new(Picker { shared, pool, adapters, alternatives, shed_above });
        let addresses = EppAddresses { grpc: grpc_address, health: health_address, metrics: metrics_address };
        Ok(Epp { picker, tls, grpc, health, metrics, addresses })
    }

    /// Where it listens; with port 0 in the configuration, the ports that the system chose.
    pub fn addresses(&self) -> EppAddresses {
        self.addresses
    }

    /// To tell it of the pool's endpoints: the service that has the pool's name.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.picker.shared))
    }

    /// Serves until `shutdown`, then lets running requests end.
    ///
    /// # Errors
    /// [`EppError::Sockets`], [`EppError::Tls`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), EppError> {
        let Epp { picker, tls, grpc, health, metrics, addresses } = self;
        let shared = Arc::clone(&picker.shared);
        let reporter = HealthReporter::new();
        set_health(&reporter, ServingStatus::Serving).await;
        let health_server = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        let processor = ExternalProcessorServer::new(Processor(picker));
        let limits = Limits { h2_streams: STREAMS, ..serve::limits(&shared.config) };
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        let mut listeners = JoinSet::new();
        let acceptor = tls.acceptor()?;
        let health_routes = Routes::new(health_server.clone());
        let routes = health_routes.clone().add_service(processor);
        for (socket, tls, routes) in [(grpc, acceptor, routes), (health, None, health_routes)] {
            let socket = TcpListener::from_std(socket).map_err(EppError::Sockets)?;
            let service = TowerToHyperService::new(routes.prepare());
            let listener = Listener { socket, tls, service, limits: limits.clone(), connections: None };
            listeners.spawn(listener.run(stop.subscribe()));
        }
        tasks.spawn(tls.watch(Arc::clone(&shared)));
        let side = Side { shared: Arc::clone(&shared), connections: serve::connections(&shared.config) };
        let metrics = TcpListener::from_std(metrics).map_err(EppError::Sockets)?;
        tasks.spawn(side::serve(side, metrics, limits, stop.subscribe()));
        tasks.spawn(crate::poll::run(Arc::clone(&shared)));
        tracing::info!(
            grpc = %addresses.grpc,
            health = %addresses.health,
            metrics = %addresses.metrics,
            "listening"
        );

        shutdown.await;

        // Whoever asks now asks somebody else; liveness stays, since nothing is wrong.
        reporter.set_service_status("readiness", ServingStatus::NotServing).await;
        serve::drain(&shared).await;
        set_health(&reporter, ServingStatus::NotServing).await;
        stop.send_replace(true);
        while listeners.join_next().await.is_some() {}
        tasks.shutdown().await;
        Ok(())
    }
}

async fn set_health(reporter: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}
