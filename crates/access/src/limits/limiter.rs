//! All limits of all callers, as one gateway keeps them.
//!
//! Everything is decided under one lock, which is held for microseconds and never while anybody waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::meter::{Meter, Taken};
use super::pool::{Full, Tick};
use super::window::When;
use super::{Cause, Level, Limit, Limited, Limits, Scope, Standing};
use crate::moment::Moment;
use crate::shares::peers::Peers;
use crate::shares::{MeterReport, UsageReport};

/// How often idle callers are looked for when there is no place for a new one.
const SWEEP_MS: u64 = 1_000;

/// What a limiter is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name, unlike every other's.
    pub gateway: String,
    /// Callers that are counted at the same time, over all services; whoever comes beyond them is refused.
    pub max_callers: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { gateway: "local".to_owned(), max_callers: 20_000 }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// [`crate::Principal::id`].
    pub caller: &'a str,
    /// `namespace/name`.
    pub service: &'a str,
    /// The caller's limits at this service: `principal.limits.or(service's limits for each key)`.
    pub limits: Limits,
    /// Limits of all callers of this service together.
    pub together: Limits,
    /// Tokens that prompt and answer may have.
    pub tokens: u64,
}

/// All limits of all callers.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    settings: Settings,
    epoch: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    meters: HashMap<Name, Meter>,
    peers: Peers,
    /// When idle callers were last looked for.
    swept_ms: u64,
}

/// Which meter: a service and a caller, or none for everybody together.
type Name = (Arc<str>, Option<Arc<str>>);

/// Room that a request has. It counts its request, its stream and its tokens until it is settled or dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub struct Reservation {
    limiter: Arc<Shared>,
    meters: Vec<(Name, Taken)>,
    when: When,
    reserved: u64,
    used: u64,
    standing: Standing,
}

impl Limiter {
    /// A limiter that has counted nothing.
    pub fn new(settings: Settings, now: Moment) -> Limiter {
        let started = now.monotonic;
        let epoch = now.unix_ms;
        let peers = Peers::new(&settings.gateway, epoch, tick(started, now));
        let state = Mutex::new(State { meters: HashMap::new(), peers, swept_ms: 0 });
        Limiter(Arc::new(Shared { started, settings, epoch, state }))
    }

    /// Reserves room for a request.
    ///
    /// # Errors
    /// [`Limited`] for the first limit that it does not fit; nothing is used then.
    pub fn reserve(&self, now: Moment, asked: &Asked<'_>) -> Result<Reservation, Limited> {
        let Asked { caller, service, limits, together, tokens } = *asked;
        let now = tick(self.0.started, now);
        let state = &mut *self.0.lock();
        let mut names: Vec<(Name, Scope)> = Vec::with_capacity(2);
        let service: Arc<str> = service.into();
        if !limits.is_empty() {
            names.push(((Arc::clone(&service), Some(caller.into())), Scope::Caller));
        }
        if !together.is_empty() {
            names.push(((service, None), Scope::Service));
        }
        let mut standing = Standing::default();
        for (name, scope) in &names {
            let limits = match scope {
                Scope::Caller => limits,
                Scope::Service => together,
            };
            let State { meters, peers, swept_ms } = state;
            if !meters.contains_key(name) {
                // Looking at all of them takes a while, so a flood of new callers does not make us do it each time.
                if meters.len() >= self.0.settings.max_callers && now.ms >= *swept_ms + SWEEP_MS {
                    *swept_ms = now.ms;
                    meters.retain(|_, meter| !meter.is_idle(now, peers));
                }
                if meters.len() >= self.0.settings.max_callers {
                    return Err(too_many(*scope, limits));
                }
            }
            let meter = meters.entry(name.clone()).or_default();
            meter.set_limits(now, peers, limits);
            meter
                .room(now, peers, tokens)
                .map_err(|(limit, asked, full)| limited(limit, *scope, asked, full))?;
        }
        let meters = names.into_iter().map(|(name, _)| {
            let taken = state.meters.get_mut(&name).map_or_else(Taken::default, |meter| {
                let taken = meter.take(now, tokens);
                standing = tighter(standing, meter.standing(now, &state.peers));
                taken
            });
            (name, taken)
        });
        let meters = meters.collect();
        let limiter = Arc::clone(&self.0);
        Ok(Reservation { limiter, meters, when: When::of(now), reserved: tokens, used: 0, standing })
    }

    /// Takes the names of all gateways, this one included, as discovery has them.
    pub fn gateways(&self, now: Moment, names: &[String]) {
        let now = tick(self.0.started, now);
        self.0.lock().peers.name(now, names);
    }

    /// Whether the other gateways were heard since the start, or had time to speak. Until then little is let in: be not ready.
    pub fn is_settled(&self, now: Moment) -> bool {
        let now = tick(self.0.started, now);
        self.0.lock().peers.settled(now)
    }

    /// What the other gateways need to know; to be sent every [`crate::shares::REPORT_EVERY`].
    ///
    /// A gateway that keeps its last report in a file and merges it after a restart remembers the day's budgets.
    pub fn report(&self, now: Moment) -> UsageReport {
        let now = tick(self.0.started, now);
        let State { meters, peers, swept_ms: _ } = &mut *self.0.lock();
        peers.refresh(now);
        meters.retain(|_, meter| !meter.is_idle(now, peers));
        let sequence = peers.start_report();
        let mut meters: Vec<MeterReport> = meters
            .iter_mut()
            .map(|((service, caller), meter)| MeterReport {
                service: service.to_string(),
                caller: caller.as_ref().map(ToString::to_string),
                pools: meter.report(now, peers),
            })
            .collect();
        meters.sort_by(|a, b| (&a.service, &a.caller).cmp(&(&b.service, &b.caller)));
        let gateway = self.0.settings.gateway.clone();
        UsageReport { gateway, epoch: self.0.epoch, sequence, seen: peers.seen(), meters }
    }

    /// Takes another gateway's report: in any order, any number of times. Says whether it was news.
    pub fn merge(&self, now: Moment, report: &UsageReport) -> bool {
        let now = tick(self.0.started, now);
        let State { meters, peers, swept_ms: _ } = &mut *self.0.lock();
        let Some(peer) = peers.hear(now, report) else { return false };
        for said in &report.meters {
            let name = (said.service.as_str().into(), said.caller.as_deref().map(Arc::from));
            if meters.len() >= self.0.settings.max_callers && !meters.contains_key(&name) {
                continue;
            }
            meters.entry(name).or_default().hear(now, peers, peer, report.sequence, said);
        }
        meters.values_mut().for_each(|meter| meter.hear_nothing(peer, report.sequence));
        true
    }

    /// Callers that are counted now.
    pub fn callers(&self) -> usize {
        self.0.lock().meters.len()
    }
}

impl Shared {
    /// A panic elsewhere leaves counts that are at worst too high.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Says how many tokens were used so far; what counts if the request is abandoned.
    pub fn used(&mut self, tokens: u64) {
        self.used = tokens;
    }

    /// Ends the request: so many tokens it took, more or fewer than reserved.
    pub fn settle(mut self, tokens: u64) {
        self.used = tokens;
    }

    /// Where the caller stands, this request included.
    pub fn standing(&self) -> Standing {
        self.standing
    }
}

/// Ends the request: what it did not use is free again.
impl Drop for Reservation {
    fn drop(&mut self) {
        let state = &mut *self.limiter.lock();
        for (name, taken) in &self.meters {
            if let Some(meter) = state.meters.get_mut(name) {
                meter.end(*taken, self.when, self.reserved, self.used);
            }
        }
    }
}

fn tick(started: Instant, now: Moment) -> Tick {
    let ms = now.monotonic.saturating_duration_since(started).as_millis();
    Tick { ms: u64::try_from(ms).unwrap_or(u64::MAX), day: now.day(), rest_of_day: now.rest_of_day() }
}

fn limited(limit: Limit, scope: Scope, asked: u64, full: Full) -> Limited {
    let Full { cause, retry_after, level: Level { limit: allowed, remaining, reset } } = full;
    Limited { limit, scope, allowed, asked, remaining, retry_after, reset, cause }
}

fn too_many(scope: Scope, limits: Limits) -> Limited {
    let retry_after = Duration::from_secs(1);
    Limited {
        limit: Limit::Requests,
        scope,
        allowed: limits.requests_per_minute.unwrap_or(0),
        asked: 1,
        remaining: 0,
        retry_after,
        reset: retry_after,
        cause: Cause::TooManyCallers,
    }
}

/// Of two levels the one with less left.
fn tighter(a: Standing, b: Standing) -> Standing {
    let less = |a: Option<Level>, b: Option<Level>| match (a, b) {
        (Some(a), Some(b)) if b.remaining < a.remaining => Some(b),
        (a, b) => a.or(b),
    };
    Standing { requests: less(a.requests, b.requests), tokens: less(a.tokens, b.tokens) }
}
