//! How endpoints are compared. A policy gives each candidate a cost; the lowest wins, and among equals the one that was picked longest ago.
//!
//! A new policy is a file beside these, a name in [`PolicyName`] and a line in `PolicyName::cost`.

mod least_load;
mod prefix;
mod round_robin;

use serde::{Deserialize, Serialize};

use crate::breaker::BreakerConfig;

/// The policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyName {
    /// Where the answer begins soonest: what a cache spares, what waits, how full the KV cache is.
    #[default]
    Prefix,
    /// Where the fewest requests are.
    LeastLoad,
    /// One after the other.
    RoundRobin,
}

/// Which policy, with what weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    /// The policy.
    pub policy: PolicyName,
    /// Its weights.
    pub weights: Weights,
    /// An endpoint with more than this many times the average of requests keeps none of its advantage: what it has cached, loaded or
    /// served before no longer attracts requests (consistent hashing with bounded loads, Mirrokni et al. 2016). A guard, not the balance: that is
    /// what the weight of a running request is for, and a tight cap tears conversations from their cache.
    pub hot_spot_factor: f64,
    /// Requests at one endpoint at the same time; more wait in the gateway. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// What an endpoint said is believed for so long, in seconds.
    pub load_max_age_seconds: f64,
    /// Blocks of prompts that are remembered of each endpoint; about 80 bytes each.
    pub remembered_blocks: usize,
    /// When an endpoint that fails is left alone.
    pub breaker: BreakerConfig,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            policy: PolicyName::default(),
            weights: Weights::default(),
            hot_spot_factor: 3.0,
            max_in_flight: None,
            load_max_age_seconds: 5.0,
            remembered_blocks: 32_768,
            breaker: BreakerConfig::default(),
        }
    }
}

/// What the prefix policy weighs, all in tokens of prompt that could be computed instead.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Weights {
    /// Of a token that is computed before the answer begins: the prompt's own that are not cached, and those of requests ahead.
    pub prefill: f64,
    /// Of a request that is being answered: it takes a part of every step.
    pub decode: f64,
    /// Of a request that waits in the endpoint, in prompts of average length.
    pub queue: f64,
    /// Of a KV cache that is u full: u / (1 - u), in prompts of average length; least_load of SMG uses 0.15 of a second.
    pub kv_cache: f64,
    /// Of an adapter that would have to be loaded.
    pub adapter: f64,
    /// Of leaving the endpoint where the session was, or where gateways that do not know it expect it, in prompts of this request's length.
    pub session: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { prefill: 1.0, decode: 64.0, queue: 1.0, kv_cache: 0.15, adapter: 4096.0, session: 0.25 }
    }
}

/// An endpoint that could take the request.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) slot: u32,
    /// Our requests there.
    pub(crate) in_flight: u32,
    /// Requests there of which we know only from its metrics.
    pub(crate) others: u32,
    /// Requests that wait there, by its metrics.
    pub(crate) waiting: u32,
    pub(crate) pending_tokens: u64,
    pub(crate) kv_cache: f64,
    /// Share of the prompt that it has cached, 0 to 1.
    pub(crate) cached: f64,
    /// It has the adapter, or none is asked for.
    pub(crate) has_adapter: bool,
    /// The session was here.
    pub(crate) has_session: bool,
    pub(crate) picked: u64,
}

/// The request and the endpoints as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) weights: &'a Weights,
    /// Tokens of the request's prompt, estimated.
    pub(crate) tokens: f64,
    /// Tokens of the average prompt.
    pub(crate) mean_tokens: f64,
    /// More requests than this at one endpoint make it a hot spot.
    pub(crate) hot_spot: f64,
}

impl PolicyName {
    /// Lower is better.
    pub(crate) fn cost(self, candidate: &Candidate, setting: &Setting<'_>) -> f64 {
        match self {
            PolicyName::Prefix => prefix::cost(candidate, setting),
            PolicyName::LeastLoad => least_load::cost(candidate),
            PolicyName::RoundRobin => round_robin::cost(candidate),
        }
    }

    /// Whether prompts are hashed and remembered at all.
    pub fn uses_prefixes(self) -> bool {
        match self {
            PolicyName::Prefix => true,
            PolicyName::LeastLoad | PolicyName::RoundRobin => false,
        }
    }
}
