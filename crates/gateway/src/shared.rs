//! What all requests of a gateway share.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::Notify;
use wharf_access::limits::Settings;
use wharf_access::shares::SecretError;
use wharf_access::token::TokenConfigError;
use wharf_access::{KeySet, KeySource, KeysError, Limiter, Moment, Tokens, WatchedKeys};
use wharf_telemetry::metrics::{Metrics, gateway as table};
use wharf_telemetry::trace::Tracer;

use crate::config::GatewayConfig;
use crate::console::{Console, Past};
use crate::ledger::Ledger;
use crate::peers::Peers;
use crate::service::{ServiceSpec, ServiceState};
use crate::table::Table;

/// Requests that the console's log goes back.
const REQUESTS: usize = 500;

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) keys: WatchedKeys,
    pub(crate) tokens: Tokens,
    pub(crate) endpoint_key: Option<HeaderValue>,
    pub(crate) limiter: Limiter,
    /// The other gateways, if there are any.
    pub(crate) peers: Option<Peers>,
    pub(crate) ledger: Ledger,
    pub(crate) metrics: Metrics,
    pub(crate) console: Console,
    /// What the console is told of hours and days, if a Prometheus is named.
    pub(crate) past: Option<Past>,
    pub(crate) tracer: Tracer,
    pub(crate) started: Instant,
    /// Milliseconds since 1970 at the start: tells this life from the last.
    pub(crate) epoch: u64,
    table: ArcSwap<Table>,
    /// Held while the table is made anew.
    changing: Mutex<()>,
    /// Told when demand appears, and when the gateway begins to drain.
    pub(crate) demand_changed: Arc<Notify>,
    draining: AtomicBool,
    /// Requests that are being answered.
    pub(crate) running: Arc<AtomicUsize>,
}

/// Why a gateway cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The issuers of tokens cannot be used.
    #[error(transparent)]
    Issuers(#[from] TokenConfigError),
    /// The secret that gateways share cannot be used.
    #[error(transparent)]
    Peers(#[from] SecretError),
    /// No client for Prometheus can be made.
    #[error("failed to prepare an HTTP client for Prometheus")]
    Prometheus(#[source] reqwest::Error),
    /// A file cannot be read or opened.
    #[error("failed to open {what} {path}")]
    Open {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The key for endpoints is no header value.
    #[error("the key in {path} is not printable ASCII")]
    EndpointKey {
        /// The file.
        path: String,
    },
}

impl Shared {
    /// Reads keys and files. Call it within a runtime: keys are followed from then on.
    pub(crate) fn new(config: GatewayConfig, tracer: Tracer) -> Result<Arc<Shared>, SetupError> {
        let keys = match &config.api_keys {
            Some(path) => WatchedKeys::follow(KeySource::new(path))?,
            None => WatchedKeys::fixed(KeySet::open()),
        };
        let tokens = Tokens::new(config.issuers.clone())?;
        let endpoint_key = config.endpoint_key_file.as_deref().map(read_key).transpose()?;
        let kept = if config.console { REQUESTS } else { 0 };
        let ledger = Ledger::open(config.usage_log.as_deref(), kept).map_err(|source| {
            let path = config.usage_log.as_deref().unwrap_or(Path::new("")).display().to_string();
            SetupError::Open { what: "the usage log", path, source }
        })?;
        let past = config.prometheus.as_deref().map(Past::new).transpose().map_err(SetupError::Prometheus)?;
        let metrics = Metrics::new(table::ALL);
        let build = [wharf_telemetry::build::VERSION, wharf_telemetry::build::COMMIT];
        metrics.set(&table::BUILD_INFO, &build, 1.0);
        let peers = config.peers.as_ref().map(|peers| Peers::new(&config.name, peers)).transpose()?;
        let gateway = peers.as_ref().map_or(config.name.as_str(), Peers::name).to_owned();
        let limiter = Limiter::new(Settings { gateway, ..Settings::default() }, Moment::now());
        if let Some(peers) = &peers {
            // Before anybody is let in: what is not known to be free belongs to the others.
            peers.tell(&limiter);
        }
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Ok(Arc::new(Shared {
            keys,
            tokens,
            endpoint_key,
            limiter,
            peers,
            ledger,
            metrics,
            console: Console::default(),
            past,
            tracer,
            started: Instant::now(),
            epoch: u64::try_from(epoch).unwrap_or(u64::MAX),
            table: ArcSwap::default(),
            changing: Mutex::default(),
            demand_changed: Arc::default(),
            draining: AtomicBool::new(false),
            running: Arc::default(),
            config,
        }))
    }

    /// The services as they are now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// These are all services now. What is known of one that stays stays known.
    pub(crate) fn set_services(&self, specs: Vec<ServiceSpec>) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.table();
        let services: BTreeMap<Arc<str>, Arc<ServiceState>> = specs
            .into_iter()
            .map(|spec| {
                let service = self.service(&before, spec);
                (Arc::clone(&service.name), service)
            })
            .collect();
        for (name, service) in &before.services {
            if !services.contains_key(name) {
                let gone = ServiceSpec {
                    trouble: Some("the service was deleted".to_owned()),
                    ..(*service.spec()).clone()
                };
                service.update(gone, self.config.routing.clone());
            }
        }
        self.table.store(Arc::new(Table::new(services)));
    }

    /// One service has changed, or is new.
    pub(crate) fn set_service(&self, spec: ServiceSpec) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.table();
        let service = self.service(&before, spec);
        let mut services = before.services.clone();
        services.insert(Arc::clone(&service.name), service);
        self.table.store(Arc::new(Table::new(services)));
    }

    fn service(&self, before: &Table, spec: ServiceSpec) -> Arc<ServiceState> {
        let policy = spec.config.routing.clone().unwrap_or_else(|| self.config.routing.clone());
        match before.services.get(spec.config.name.as_str()) {
            Some(service) => {
                service.update(spec, policy);
                Arc::clone(service)
            }
            None => {
                let changed = Arc::clone(&self.demand_changed);
                Arc::new(ServiceState::new(spec, policy, self.started, changed))
            }
        }
    }

    /// Whether the other gateways' usage is known, or has been waited for long enough.
    pub(crate) fn is_settled(&self) -> bool {
        self.peers.is_none() || self.limiter.is_settled(Moment::now())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.demand_changed.notify_waiters();
    }
}

/// The key as a header's value.
fn read_key(path: &Path) -> Result<HeaderValue, SetupError> {
    let shown = path.display().to_string();
    let key = std::fs::read_to_string(path).map_err(|source| SetupError::Open {
        what: "the endpoints' key",
        path: shown.clone(),
        source,
    })?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.trim()))
        .map_err(|_| SetupError::EndpointKey { path: shown })?;
    value.set_sensitive(true);
    Ok(value)
}
