//! What is known of one endpoint: who it is, what it says of itself, and what we have sent it that has not come back.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Now;
use crate::breaker::Breaker;

/// A model server, as discovery knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it listens, as `host:port`; tells endpoints apart.
    pub address: String,
    /// The version it belongs to; traffic is shared by version.
    #[serde(default)]
    pub colour: String,
    /// It takes requests.
    #[serde(default = "yes")]
    pub ready: bool,
    /// It finishes what it has and gets nothing new.
    #[serde(default)]
    pub draining: bool,
}

fn yes() -> bool {
    true
}

impl Endpoint {
    /// One that takes requests.
    pub fn ready(address: impl Into<String>, colour: impl Into<String>) -> Endpoint {
        Endpoint { address: address.into(), colour: colour.into(), ready: true, draining: false }
    }
}

/// What an endpoint's metrics say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests it works on.
    pub running: u32,
    /// Requests that wait in it.
    pub waiting: u32,
    /// Share of its KV cache in use, 0 to 1.
    pub kv_cache: f64,
    /// Tokens that its KV cache holds, if it says so.
    pub kv_tokens: Option<u64>,
    /// Adapters that it has loaded.
    pub adapters: Vec<String>,
}

/// An endpoint and what we know of it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) endpoint: Endpoint,
    /// Hash of its address: the same in every gateway.
    pub(crate) address_hash: u64,
    /// Changes when the slot is given to another endpoint.
    pub(crate) generation: u32,
    pub(crate) breaker: Breaker,
    /// Its last health check failed.
    pub(crate) unhealthy: bool,
    /// It asked to be left alone until then.
    pub(crate) saturated_until: Now,
    /// What it last said, and when.
    pub(crate) load: Option<(Load, Now)>,
    /// Requests of others that it had then: what it said less what we had there. Counted at that moment, since a later comparison would
    /// take requests of ours that have ended since for those of others.
    pub(crate) others: u32,
    /// Requests that we sent and that have not ended.
    pub(crate) in_flight: u32,
    /// Tokens of our requests that must be computed before their first answer's token: what no cache spared.
    pub(crate) pending_tokens: u64,
    /// Tokens of our requests, prompts and what answers may still have.
    pub(crate) tokens: u64,
    /// When it was last picked, as a count of picks.
    pub(crate) picked: u64,
}

impl Known {
    pub(crate) fn new(endpoint: Endpoint, generation: u32) -> Known {
        Known {
            address_hash: xxh3_64(endpoint.address.as_bytes()),
            endpoint,
            generation,
            breaker: Breaker::default(),
            unhealthy: false,
            saturated_until: Now::ZERO,
            load: None,
            others: 0,
            in_flight: 0,
            pending_tokens: 0,
            tokens: 0,
            picked: 0,
        }
    }

    /// What it said, unless that is too old to mean anything.
    pub(crate) fn fresh_load(&self, now: Now, max_age: Now) -> Option<&Load> {
        let (load, at) = self.load.as_ref()?;
        (now.saturating_sub(*at) <= max_age).then_some(load)
    }
}
