//! One service's endpoints and which of them a request goes to.
//!
//! Whoever sends a request asks [`Service::pick`], says [`Service::first_byte`] when the answer begins and [`Service::finish`] when it has
//! ended, however it ended; the ticket makes sure that nothing is counted twice. Discovery, health checks and metrics come in through
//! `set_endpoints`, `set_traffic`, `checked` and `reported`.

mod pick;
mod traffic;

use std::collections::HashMap;
use std::time::Duration;

use crate::Now;
use crate::endpoint::{Endpoint, Known, Load};
use crate::index::PrefixIndex;
use crate::policy::Policy;
use crate::prefix::Prompt;

pub use traffic::Share;

/// Sessions that are remembered; the oldest are forgotten.
const SESSIONS: usize = 65_536;
/// Tokens of an average prompt before any was seen.
const FIRST_MEAN_TOKENS: f64 = 256.0;
/// How much a new prompt moves the average.
const MEAN_RATE: f64 = 0.02;

/// A request, as far as picking needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The prompt; without blocks where the policy does not look at them.
    pub prompt: &'a Prompt,
    /// Tokens of the prompt, estimated.
    pub tokens: u64,
    /// Tokens that the answer may have.
    pub answer_tokens: u64,
    /// The adapter that it asks for.
    pub adapter: Option<&'a str>,
    /// Hash of the session's name.
    pub session: Option<u64>,
    /// Slots that have been tried.
    pub tried: &'a [u32],
}

/// Where a request goes.
#[derive(Debug, PartialEq)]
pub struct Pick {
    /// The endpoint's address.
    pub address: String,
    /// Its version.
    pub colour: String,
    /// Share of the prompt that it should have cached.
    pub cached: f64,
    /// To hand back when the request has ended.
    pub ticket: Ticket,
}

/// A request that is counted as in flight, to be handed back once.
#[derive(Debug, PartialEq)]
#[must_use = "the request stays counted as in flight until its ticket is finished"]
pub struct Ticket {
    /// The endpoint's place in the table, for [`Request::tried`].
    pub slot: u32,
    generation: u32,
    pending: u64,
    tokens: u64,
    probe: bool,
}

/// How a request ended, as far as it says something about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// The endpoint failed: no connection, no answer in time, a 5xx, an answer that broke off.
    Failed,
    /// The endpoint asked to be left alone for so long (429, or 503 with Retry-After).
    Saturated(Duration),
    /// It says nothing: the client left, or the request itself was wrong.
    Unknown,
}

/// Why no endpoint can take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// There is none.
    Nobody,
    /// None of them is ready yet.
    NotReady,
    /// All that could are at their limit of requests, or asked to be left alone until then.
    Full(Option<Now>),
    /// All that could have failed; the first may be tried again then, or when a probe has ended.
    Broken(Option<Now>),
    /// All that could have been tried with this request.
    Tried,
}

/// A service's endpoints.
#[derive(Debug)]
pub struct Service {
    policy: Policy,
    slots: Vec<Option<Known>>,
    generations: u32,
    by_address: HashMap<String, u32>,
    shares: traffic::Shares,
    index: PrefixIndex,
    sessions: HashMap<u64, (u32, u32)>,
    session_order: std::collections::VecDeque<u64>,
    picks: u64,
    mean_tokens: f64,
    /// Room for matches, kept between picks.
    matched: Vec<u32>,
    bytes_per_token: f64,
}

impl Service {
    /// Without endpoints yet.
    pub fn new(policy: Policy) -> Service {
        Service {
            policy,
            slots: Vec::new(),
            generations: 0,
            by_address: HashMap::new(),
            shares: traffic::Shares::default(),
            index: PrefixIndex::default(),
            sessions: HashMap::new(),
            session_order: std::collections::VecDeque::new(),
            picks: 0,
            mean_tokens: FIRST_MEAN_TOKENS,
            matched: Vec::new(),
            bytes_per_token: 4.0,
        }
    }

    /// What it decides by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides by this from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// These are the endpoints now. What is known of one that stays stays known; one that is gone takes what it had cached with it.
    pub fn set_endpoints(&mut self, endpoints: &[Endpoint]) {
        let gone: Vec<u32> = self
            .by_address
            .iter()
            .filter(|(address, _)| !endpoints.iter().any(|endpoint| endpoint.address == **address))
            .map(|(_, &slot)| slot)
            .collect();
        for slot in gone {
            self.remove(slot);
        }
        for endpoint in endpoints {
            match self.by_address.get(&endpoint.address).copied() {
                Some(slot) => {
                    if let Some(known) = &mut self.slots[slot as usize] {
                        known.endpoint.clone_from(endpoint);
                    }
                }
                None => self.add(endpoint.clone()),
            }
        }
    }

    fn add(&mut self, endpoint: Endpoint) {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.generations = self.generations.wrapping_add(1);
        self.by_address.insert(endpoint.address.clone(), slot as u32);
        self.slots[slot] = Some(Known::new(endpoint, self.generations));
    }

    fn remove(&mut self, slot: u32) {
        if let Some(known) = self.slots[slot as usize].take() {
            self.by_address.remove(&known.endpoint.address);
            self.index.remove(slot);
        }
    }

    /// Shares of traffic by colour; every colour gets what its endpoints can take if there are none.
    pub fn set_traffic(&mut self, shares: &[Share]) {
        self.shares.set(shares);
    }

    /// A health check ended.
    pub fn checked(&mut self, address: &str, healthy: bool) {
        if let Some(known) = self.known_at(address) {
            known.unhealthy = !healthy;
        }
    }

    /// An endpoint's metrics were read.
    pub fn reported(&mut self, address: &str, load: Load, now: Now) {
        if let Some(known) = self.known_at(address) {
            known.others = load.running.saturating_add(load.waiting).saturating_sub(known.in_flight);
            known.load = Some((load, now));
        }
    }

    /// The server behind an address has started again: its cache is empty.
    pub fn restarted(&mut self, address: &str) {
        if let Some(&slot) = self.by_address.get(address) {
            self.index.remove(slot);
        }
    }

    /// A prompt of so many bytes had so many tokens: later estimates follow.
    pub fn measured(&mut self, bytes: usize, tokens: u64) {
        if tokens > 0 && bytes > 0 {
            let ratio = (bytes as f64 / tokens as f64).clamp(0.5, 16.0);
            self.bytes_per_token += (ratio - self.bytes_per_token) * MEAN_RATE;
        }
    }

    /// Tokens of a prompt of so many bytes, estimated from those that were answered.
    pub fn estimate(&self, bytes: usize) -> u64 {
        (bytes as f64 / self.bytes_per_token).ceil() as u64
    }

    /// The first byte of the answer is there: the prompt has been computed.
    pub fn first_byte(&mut self, ticket: &mut Ticket) {
        let pending = std::mem::take(&mut ticket.pending);
        if let Some(known) = self.known_of(ticket) {
            known.pending_tokens = known.pending_tokens.saturating_sub(pending);
        }
    }

    /// The request has ended.
    pub fn finish(&mut self, mut ticket: Ticket, outcome: Outcome, now: Now) {
        self.first_byte(&mut ticket);
        let breaker_config = self.policy.breaker;
        let Ticket { slot: _, generation: _, pending: _, tokens, probe } = ticket;
        let Some(known) = self.known_of(&ticket) else { return };
        known.in_flight = known.in_flight.saturating_sub(1);
        known.tokens = known.tokens.saturating_sub(tokens);
        match outcome {
            Outcome::Answered => known.breaker.succeeded(probe),
            Outcome::Failed => known.breaker.failed(probe, now, &breaker_config),
            Outcome::Saturated(wait) => {
                known.saturated_until = now + wait;
                known.breaker.said_nothing(probe, now);
            }
            Outcome::Unknown => known.breaker.said_nothing(probe, now),
        }
    }

    /// Every endpoint: address, colour, whether it could take a request, our requests there and their tokens.
    pub fn endpoints(&self, now: Now) -> Vec<EndpointState> {
        let max_age = self.load_max_age();
        let state = |known: &Known| EndpointState {
            address: known.endpoint.address.clone(),
            colour: known.endpoint.colour.clone(),
            ready: known.endpoint.ready && !known.endpoint.draining && !known.unhealthy,
            broken: known.breaker.is_open(),
            in_flight: known.in_flight,
            tokens: known.tokens,
            load: known.fresh_load(now, max_age).cloned(),
        };
        self.slots.iter().flatten().map(state).collect()
    }

    /// Our requests in flight at all endpoints.
    pub fn in_flight(&self) -> u64 {
        self.slots.iter().flatten().map(|known| u64::from(known.in_flight)).sum()
    }

    fn load_max_age(&self) -> Duration {
        Duration::from_secs_f64(self.policy.load_max_age_seconds.clamp(0.0, 3600.0))
    }

    fn known_at(&mut self, address: &str) -> Option<&mut Known> {
        let slot = *self.by_address.get(address)?;
        self.slots[slot as usize].as_mut()
    }

    /// The ticket's endpoint, unless it is gone.
    fn known_of(&mut self, ticket: &Ticket) -> Option<&mut Known> {
        let known = self.slots.get_mut(ticket.slot as usize)?.as_mut()?;
        (known.generation == ticket.generation).then_some(known)
    }
}

/// What is known of an endpoint, for people and for the autoscaler.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointState {
    /// Where it listens.
    pub address: String,
    /// Its version.
    pub colour: String,
    /// It takes requests.
    pub ready: bool,
    /// It failed and is left alone.
    pub broken: bool,
    /// Our requests there.
    pub in_flight: u32,
    /// Tokens of those, prompts and what answers may still have.
    pub tokens: u64,
    /// What it says of itself, if that is fresh.
    pub load: Option<Load>,
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
