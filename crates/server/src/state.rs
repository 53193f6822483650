//! What all requests share: configuration, the loaded model, the phase, the count of requests in flight.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{oneshot, watch};
use wharf_access::KeySet;
use wharf_api::{ApiError, ServeConfig};
use wharf_engine::EngineHandle;
use wharf_listen::Connections;
use wharf_model::{ChatTemplate, GenerationDefaults, Tokenizer};
use wharf_telemetry::metrics::{Metrics, server as table};
use wharf_telemetry::trace::Tracer;

use crate::text::Text;
use crate::workers::Workers;

/// A loaded model: what loading yields.
pub struct Loaded {
    /// The running engine.
    pub engine: EngineHandle,
    /// Its tokenizer and chat template.
    pub text: Arc<Text>,
    /// Tokens that end an answer, rising.
    pub eos_tokens: Vec<u32>,
    /// What its authors recommend for sampling; configuration and requests go first.
    pub defaults: GenerationDefaults,
    /// Tells why when a part of the engine is gone for good, which ends the server.
    pub lost: Option<oneshot::Receiver<String>>,
}

impl Loaded {
    /// Brings the parts of a model together. Without a chat template chat requests are refused.
    pub fn new(
        engine: EngineHandle,
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        defaults: GenerationDefaults,
    ) -> Loaded {
        // Checkpoints name one end token; chat formats end turns with others.
        let mut eos_tokens = defaults.eos_token_ids.clone();
        eos_tokens.extend(tokenizer.eos());
        eos_tokens.extend(tokenizer.stop_tokens());
        eos_tokens.sort_unstable();
        eos_tokens.dedup();
        let text = Arc::new(Text::new(Arc::new(tokenizer), chat_template));
        Loaded { engine, text, eos_tokens, defaults, lost: None }
    }
}

/// Where the server is in its life; only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Loading,
    Ready,
    Draining,
}

/// Seconds after which a client should try again when this server is loading or full.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

pub(crate) struct App {
    pub(crate) config: ServeConfig,
    pub(crate) model_name: String,
    pub(crate) keys: KeySet,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    pub(crate) workers: Workers,
    /// Unix seconds at start: the `created` of the model card.
    pub(crate) created: u64,
    pub(crate) connections: Arc<Connections>,
    model: OnceLock<Loaded>,
    phase: watch::Sender<Phase>,
    in_flight: watch::Sender<usize>,
    /// True once the grace period is over.
    abort: watch::Sender<bool>,
}

impl App {
    pub(crate) fn new(config: ServeConfig, keys: KeySet, tracer: Tracer) -> App {
        let metrics = Metrics::new(table::ALL);
        metrics.set(
            &table::BUILD_INFO,
            &[wharf_telemetry::build::VERSION, wharf_telemetry::build::COMMIT],
            1.0,
        );
        App {
            model_name: config.served_name(),
            workers: Workers::new(&config),
            connections: crate::serve::connections(&config),
            config,
            keys,
            metrics,
            tracer,
            created: unix_seconds(),
            model: OnceLock::new(),
            phase: watch::Sender::new(Phase::Loading),
            in_flight: watch::Sender::new(0),
            abort: watch::Sender::new(false),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Begins to answer requests.
    pub(crate) fn set_loaded(self: &Arc<App>, loaded: Loaded, took: Duration) {
        let app = Arc::downgrade(self);
        // The engine must not keep the server alive that keeps the engine alive.
        loaded.engine.observe_steps(Box::new(move |tokens| {
            if let Some(app) = app.upgrade() {
                crate::record::step(&app, tokens);
            }
        }));
        self.metrics.set(&table::LOAD_SECONDS, &[&self.model_name], took.as_secs_f64());
        if self.model.set(loaded).is_ok() {
            self.advance(Phase::Ready);
        }
    }

    /// Refuses new requests from now on.
    pub(crate) fn set_draining(&self) {
        self.advance(Phase::Draining);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }

    /// The loaded model, whatever the phase.
    pub(crate) fn model(&self) -> Option<&Loaded> {
        self.model.get()
    }

    /// The model, if requests are welcome.
    pub(crate) fn serving(&self) -> Result<&Loaded, ApiError> {
        let unavailable = |reason: &str| ApiError::Unavailable {
            reason: reason.to_owned(),
            retry_after_seconds: RETRY_AFTER_SECONDS,
        };
        match self.phase() {
            Phase::Loading => Err(unavailable("the model is loading")),
            Phase::Draining => Err(unavailable("the server is shutting down")),
            Phase::Ready => self.model().ok_or_else(|| unavailable("the model is loading")),
        }
    }

    /// Counts a request in and checks, in this order, that requests are welcome: a drain that begins in between
    /// sees the count.
    pub(crate) fn enter(self: &Arc<App>) -> Result<InFlight, ApiError> {
        self.in_flight.send_modify(|count| *count += 1);
        let guard = InFlight(Arc::clone(self));
        self.serving()?;
        Ok(guard)
    }

    pub(crate) fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Returns when no request is in flight.
    pub(crate) async fn idle(&self) {
        let mut count = self.in_flight.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Ends all requests in flight with an error.
    pub(crate) fn abort_all(&self) {
        self.abort.send_replace(true);
    }

    /// Becomes true when the grace period is over.
    pub(crate) fn aborted(&self) -> watch::Receiver<bool> {
        self.abort.subscribe()
    }

    /// Everything that `/metrics` shows, the engine's state included.
    pub(crate) fn metrics_text(&self) -> Result<String, ApiError> {
        // Set here and not where the counts change: two changes at once could set them in the wrong order.
        self.metrics.set(&table::HTTP_CONNECTIONS, &[], self.connections.open() as f64);
        self.metrics.set(&table::HTTP_IN_FLIGHT, &[], self.in_flight() as f64);
        if let Some(model) = self.model() {
            crate::record::engine_state(&self.metrics, &self.model_name, &model.engine.snapshot());
        }
        self.metrics.encode().map_err(|e| ApiError::Internal(format!("failed to encode the metrics: {e}")))
    }

    /// What the health of the server depends on.
    pub(crate) fn vitals(&self, now: Instant) -> crate::health::Vitals {
        let snapshot = self.model().map(|model| model.engine.snapshot());
        crate::health::Vitals {
            phase: self.phase(),
            engine_stopped: snapshot.as_ref().is_some_and(|s| s.stopped),
            queued: snapshot.as_ref().map_or(0, |s| s.running + s.waiting),
            since_progress: snapshot
                .map_or(Duration::ZERO, |s| now.saturating_duration_since(s.last_progress)),
            stall: Duration::from_secs_f64(self.config.stall_seconds),
        }
    }
}

/// One request being answered; counts itself out when dropped, however the request ended.
pub(crate) struct InFlight(Arc<App>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
