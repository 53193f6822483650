//! A service as the gateway runs it: its endpoints, its queue, and what it counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use wharf_access::{Limits, WatchedKeys};
use wharf_api::demand::{EndpointLoad, FIRST_TOKEN_BUCKETS_MS, ServiceDemand, VersionCounts};
use wharf_routing::service::EndpointState;
use wharf_routing::{Load, NoEndpoint, Now, Outcome, Pick, Prompt, Request, Service, Ticket};
use wharf_spec::service::Traffic;

use crate::config::{Hold as HoldConfig, ServiceConfig};
use crate::hold::Hold;

/// What discovery says about a service.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// What it is called, who answers, what waits.
    pub config: ServiceConfig,
    /// Its own keys, already read.
    pub keys: Option<WatchedKeys>,
    /// Why it cannot start, if that is known: waiting for it makes no sense.
    pub trouble: Option<String>,
    /// Shares of traffic as the operator wrote them, to be acknowledged.
    pub traffic: Vec<Traffic>,
}

impl From<ServiceConfig> for ServiceSpec {
    fn from(config: ServiceConfig) -> ServiceSpec {
        ServiceSpec { config, keys: None, trouble: None, traffic: Vec::new() }
    }
}

/// A running service.
pub(crate) struct ServiceState {
    /// `namespace/name`.
    pub(crate) name: Arc<str>,
    spec: ArcSwap<ServiceSpec>,
    routing: Mutex<Service>,
    pub(crate) hold: Arc<Hold>,
    pub(crate) counters: Counters,
    /// When the gateway started: the zero of routing's clock.
    origin: Instant,
    /// Told when demand appears that the autoscaler should not learn of later.
    demand_changed: Arc<Notify>,
}

/// What a service has counted since the gateway started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) arrived: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) overflowed: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generated_tokens: AtomicU64,
    /// As before, but while answers are on their way, with an event of a stream for a token.
    pub(crate) tokens_seen: AtomicU64,
    first_token: [AtomicU64; FIRST_TOKEN_BUCKETS],
    versions: Mutex<BTreeMap<String, VersionCounts>>,
}

/// Buckets of times to the first token, the one without an end included.
const FIRST_TOKEN_BUCKETS: usize = FIRST_TOKEN_BUCKETS_MS.len() + 1;

impl Counters {
    /// Tokens of answers, of those that have not ended too.
    pub(crate) fn tokens_seen(&self) -> u64 {
        self.tokens_seen.load(Ordering::Relaxed)
    }

    /// An answer began after so long.
    pub(crate) fn first_token(&self, after: Duration) {
        count(&self.first_token[bucket(after)], 1);
    }

    /// Counts for a version; endpoints without a colour belong to none.
    fn version(&self, colour: &str, change: impl FnOnce(&mut VersionCounts)) {
        if colour.is_empty() {
            return;
        }
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        match versions.get_mut(colour) {
            Some(counts) => change(counts),
            None => change(versions.entry(colour.to_owned()).or_insert_with(|| VersionCounts {
                first_token: vec![0; FIRST_TOKEN_BUCKETS],
                ..VersionCounts::default()
            })),
        }
    }
}

/// The bucket that a time to the first token falls into.
fn bucket(after: Duration) -> usize {
    let ms = after.as_millis();
    let found = FIRST_TOKEN_BUCKETS_MS.iter().position(|end| ms <= u128::from(*end));
    found.unwrap_or(FIRST_TOKEN_BUCKETS - 1)
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl ServiceState {
    pub(crate) fn new(
        spec: ServiceSpec,
        policy: wharf_routing::Policy,
        origin: Instant,
        demand_changed: Arc<Notify>,
    ) -> ServiceState {
        let mut routing = Service::new(policy);
        routing.set_endpoints(&spec.config.endpoints());
        routing.set_traffic(&spec.config.traffic);
        ServiceState {
            name: spec.config.name.as_str().into(),
            spec: ArcSwap::from_pointee(spec),
            routing: Mutex::new(routing),
            hold: Arc::default(),
            counters: Counters::default(),
            origin,
            demand_changed,
        }
    }

    /// Takes over what discovery says now.
    pub(crate) fn update(&self, spec: ServiceSpec, policy: wharf_routing::Policy) {
        {
            let mut routing = self.routing();
            routing.set_policy(policy);
            routing.set_endpoints(&spec.config.endpoints());
            routing.set_traffic(&spec.config.traffic);
        }
        let hopeless = spec.trouble.is_some();
        self.spec.store(Arc::new(spec));
        if hopeless {
            self.hold.wake_all();
        } else {
            self.hold.wake_first();
        }
    }

    pub(crate) fn spec(&self) -> Arc<ServiceSpec> {
        self.spec.load_full()
    }

    pub(crate) fn keys(&self) -> Option<WatchedKeys> {
        self.spec.load().keys.clone()
    }

    /// Limits of each key, and of all together.
    pub(crate) fn limits(&self) -> (Limits, Limits) {
        let spec = self.spec.load();
        (spec.config.limits_per_key, spec.config.limits)
    }

    pub(crate) fn hold_config(&self, default: HoldConfig) -> HoldConfig {
        self.spec.load().config.hold.unwrap_or(default)
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.spec.load().trouble.clone()
    }

    pub(crate) fn now(&self) -> Now {
        self.origin.elapsed()
    }

    /// The moment that routing's clock means.
    pub(crate) fn instant(&self, at: Now) -> Instant {
        self.origin + at
    }

    /// Tokens of a prompt of so many bytes.
    pub(crate) fn estimate(&self, bytes: usize) -> u64 {
        self.routing().estimate(bytes)
    }

    /// Picks an endpoint; the request is in flight there until the result is finished or dropped.
    pub(crate) fn pick(self: &Arc<Self>, request: &Request<'_>) -> Result<InFlight, NoEndpoint> {
        let pick = self.routing().pick(request, self.now())?;
        Ok(InFlight::new(self, pick))
    }

    /// As [`ServiceState::pick`], among these only if some are given, and who else could take the request, the best first.
    pub(crate) fn pick_ranked(
        self: &Arc<Self>,
        request: &Request<'_>,
        among: Option<&[String]>,
    ) -> Result<(InFlight, Vec<String>), NoEndpoint> {
        let now = self.now();
        let mut routing = self.routing();
        let mut tried = match among {
            Some(addresses) => routing.all_but(addresses).ok_or(NoEndpoint::Nobody)?,
            None => Vec::new(),
        };
        let pick = routing.pick(&Request { tried: &tried, ..*request }, now)?;
        tried.push(pick.ticket.slot);
        let others = routing.ranked(&Request { tried: &tried, ..*request }, now);
        drop(routing);
        Ok((InFlight::new(self, pick), others))
    }

    /// A prompt of so many bytes had so many tokens.
    pub(crate) fn measured(&self, bytes: usize, tokens: u64) {
        self.routing().measured(bytes, tokens);
    }

    /// A health check ended.
    pub(crate) fn checked(&self, address: &str, healthy: bool) {
        self.routing().checked(address, healthy);
        if healthy {
            self.hold.wake_first();
        }
    }

    /// An endpoint's metrics were read.
    pub(crate) fn reported(&self, address: &str, load: Load) {
        let now = self.now();
        self.routing().reported(address, load, now);
    }

    pub(crate) fn endpoints(&self) -> Vec<EndpointState> {
        let now = self.now();
        self.routing().endpoints(now)
    }

    /// Somebody waits who did not before.
    pub(crate) fn tell_demand(&self) {
        self.demand_changed.notify_waiters();
    }

    /// What the autoscaler is told.
    pub(crate) fn demand(&self) -> ServiceDemand {
        let states = self.endpoints();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let load = |state: &EndpointState| {
            let said = state.load.as_ref();
            EndpointLoad {
                ready: state.ready && !state.broken,
                running: said.map_or(state.in_flight, |load| load.running),
                waiting: said.map_or(0, |load| load.waiting),
                kv_cache: said.map_or(0.0, |load| load.kv_cache),
            }
        };
        let Counters {
            arrived,
            answered,
            failed,
            overflowed,
            abandoned,
            prompt_tokens,
            generated_tokens,
            tokens_seen: _,
            first_token,
            versions,
        } = &self.counters;
        let versions = versions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ServiceDemand {
            arrived: get(arrived),
            answered: get(answered),
            failed: get(failed),
            overflowed: get(overflowed),
            abandoned: get(abandoned),
            prompt_tokens: get(prompt_tokens),
            generated_tokens: get(generated_tokens),
            first_token: first_token.iter().map(get).collect(),
            in_flight: states.iter().map(|state| u64::from(state.in_flight)).sum(),
            queued: self.hold.len() as u64,
            tokens_in_flight: states.iter().map(|state| state.tokens).sum(),
            oldest_wait_ms: u64::try_from(self.hold.oldest().as_millis()).unwrap_or(u64::MAX),
            endpoints: states.iter().map(|state| (state.address.clone(), load(state))).collect(),
            versions,
        }
    }

    fn routing(&self) -> MutexGuard<'_, Service> {
        // Counts may be off by one request after a panic; they are bounded below by zero.
        self.routing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request at an endpoint. Dropped, it says nothing about the endpoint: the client has left.
pub(crate) struct InFlight {
    service: Arc<ServiceState>,
    pub(crate) address: String,
    pub(crate) colour: String,
    /// Share of the prompt that the endpoint should have cached.
    pub(crate) cached: f64,
    pub(crate) slot: u32,
    ticket: Option<Ticket>,
    /// When it was sent there, until the answer begins.
    sent: Option<Instant>,
}

impl InFlight {
    fn new(service: &Arc<ServiceState>, pick: Pick) -> InFlight {
        let Pick { address, colour, cached, ticket } = pick;
        let (slot, sent) = (ticket.slot, Some(Instant::now()));
        InFlight { service: Arc::clone(service), address, colour, cached, slot, ticket: Some(ticket), sent }
    }

    /// The answer has begun.
    pub(crate) fn first_byte(&mut self) {
        if let Some(sent) = self.sent.take() {
            let bucket = bucket(sent.elapsed());
            self.service.counters.version(&self.colour, |counts| counts.first_token[bucket] += 1);
        }
        if let Some(ticket) = &mut self.ticket {
            self.service.routing().first_byte(ticket);
        }
    }

    /// The request has ended.
    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Somebody else sent the request to another endpoint, since this one failed.
    pub(crate) fn moved(self, address: &str) -> InFlight {
        let service = Arc::clone(&self.service);
        self.finish(Outcome::Failed);
        let prompt = Prompt::default();
        let request = Request {
            prompt: &prompt,
            tokens: 0,
            answer_tokens: 0,
            adapter: None,
            session: None,
            tried: &[],
        };
        let moved = service.pick_ranked(&request, Some(&[address.to_owned()]));
        moved.map(|(in_flight, _)| in_flight).unwrap_or_else(|_| InFlight {
            service,
            address: address.to_owned(),
            colour: String::new(),
            cached: 0.0,
            slot: u32::MAX,
            ticket: None,
            sent: None,
        })
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.service.counters.version(&self.colour, |counts| match outcome {
                Outcome::Answered => counts.answered += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Saturated(_) | Outcome::Unknown => {}
            });
            let now = self.service.now();
            self.service.routing().finish(ticket, outcome, now);
            self.service.hold.wake_first();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}
