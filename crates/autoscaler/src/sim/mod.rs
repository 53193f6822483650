//! Policies against traffic, hours in seconds. Everything but the engines and the clock is the real thing: gateways' lines, [`Demand`],
//! the decisions. It says nothing about networks, schedulers or failures; those are for the tests of a cluster.
//!
//! [`simulate`] is deterministic: one scenario, one report. Every policy sees the same requests and the same start times, so what differs
//! is the policy.
//!
//! [`Demand`]: crate::Demand

mod engine;
mod plot;
mod replica;
mod report;
mod traffic;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use engine::Engine;
pub use report::{Outcome, Percentiles, Report, Timeline};
pub use traffic::{Arrival, Lengths, LogNormal, Traffic};

use crate::time::seconds;
use crate::{POLICIES, Policy, PolicyError, Targets};

/// What is simulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// The same seed makes the same requests and starts.
    pub seed: u64,
    /// How long.
    #[serde(with = "seconds", rename = "duration_s")]
    pub duration: Duration,
    /// When it begins, for schedules.
    pub begins: Timestamp,
    /// Who asks.
    pub traffic: Traffic,
    /// Lengths of prompts and answers, where the traffic does not bring its own.
    pub lengths: Lengths,
    /// What a replica can do.
    pub engine: Engine,
    /// What is in front of the replicas.
    pub gateway: Gateway,
    /// How long a replica takes to be ready.
    pub start: Start,
    /// Replicas that are ready at the beginning.
    pub initial: u32,
    /// What the user asked for; every policy gets the same.
    pub policy: Policy,
    /// Names of the policies to compare; all of them if empty.
    pub compare: Vec<String>,
    /// Time to first token that users accept.
    #[serde(with = "seconds", rename = "ttft_limit_s")]
    pub ttft_limit: Duration,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            name: "conversation".to_owned(),
            seed: 1,
            duration: Duration::from_secs(3600),
            begins: Timestamp::from_second(1_767_571_200).unwrap_or(Timestamp::UNIX_EPOCH),
            traffic: Traffic::AzureConversation { scale: 4.0 },
            lengths: Lengths::default(),
            engine: Engine::default(),
            gateway: Gateway::default(),
            start: Start::default(),
            initial: 2,
            policy: Policy {
                max: 12,
                targets: Targets { concurrency: Some(24.0), ..Targets::default() },
                ..Policy::default()
            },
            compare: Vec::new(),
            ttft_limit: Duration::from_secs(2),
        }
    }
}

/// What is in front of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Requests that may be held; more are refused.
    pub queue: usize,
    /// How long one may be held before it fails.
    #[serde(with = "seconds", rename = "deadline_s")]
    pub deadline: Duration,
    /// Requests beyond a full batch that a replica is given.
    pub ahead: u32,
    /// How often a line of demand is sent; one more is sent whenever a first request is held.
    #[serde(with = "seconds", rename = "line_every_s")]
    pub line_every: Duration,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            queue: 1000,
            deadline: Duration::from_secs(300),
            ahead: 4,
            line_every: Duration::from_secs(1),
        }
    }
}

/// How long a replica takes to be ready, log-normal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    /// Half of them are faster.
    #[serde(with = "seconds", rename = "median_s")]
    pub median: Duration,
    /// One in twenty is slower.
    #[serde(with = "seconds", rename = "p95_s")]
    pub p95: Duration,
}

impl Default for Start {
    fn default() -> Start {
        Start { median: Duration::from_secs(45), p95: Duration::from_secs(90) }
    }
}

/// Why a scenario cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// What the user asked for contradicts itself.
    #[error("failed to understand the policy of scenario {scenario}")]
    Policy {
        /// Its name.
        scenario: String,
        /// Why.
        source: PolicyError,
    },
    /// A policy that is to be compared does not exist.
    #[error("failed to find the policy {name}; there are {known}")]
    UnknownPolicy {
        /// What is written.
        name: String,
        /// What could be.
        known: String,
    },
    /// A number makes no sense.
    #[error("failed to simulate: {what} must be a positive number")]
    Number {
        /// Which.
        what: &'static str,
    },
    /// A trace cannot be read.
    #[error("failed to read the trace {path}")]
    ReadTrace {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of a trace is not `arrival,prompt,answer`.
    #[error(
        "failed to read line {line} of the trace {path}: {text:?} is not arrival,prompt,answer (seconds, tokens, tokens)"
    )]
    TraceLine {
        /// Where.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A picture could not be drawn.
    #[error("failed to draw the report: {why}")]
    Draw {
        /// What the drawing library says.
        why: String,
    },
}

/// Runs a scenario under each policy.
pub fn simulate(scenario: &Scenario) -> Result<Report, SimError> {
    check(scenario)?;
    let requests = scenario.traffic.generate(scenario)?;
    let all: Vec<&str> = POLICIES.iter().map(|p| p.name).collect();
    let names: Vec<&str> = match scenario.compare.is_empty() {
        true => all.clone(),
        false => scenario.compare.iter().map(String::as_str).collect(),
    };
    let mut outcomes = Vec::new();
    for name in names {
        let scaler = crate::scaler(name, &scenario.policy)
            .ok_or_else(|| SimError::UnknownPolicy { name: name.to_owned(), known: all.join(", ") })?;
        outcomes.push(world::World::new(scenario, &requests, scaler).run(name));
    }
    Ok(Report::new(scenario, requests.len(), outcomes))
}

fn check(scenario: &Scenario) -> Result<(), SimError> {
    scenario.policy.check().map_err(|source| SimError::Policy { scenario: scenario.name.clone(), source })?;
    let Engine {
        decode_base_ms,
        decode_per_sequence_ms: _,
        prefill_tokens_per_s,
        kv_tokens,
        max_batch,
        decode_while_prefilling,
    } = scenario.engine;
    let numbers = [
        ("the duration", scenario.duration.as_secs_f64()),
        ("decode_base_ms", decode_base_ms),
        ("prefill_tokens_per_s", prefill_tokens_per_s),
        ("kv_tokens", kv_tokens as f64),
        ("max_batch", f64::from(max_batch)),
        ("decode_while_prefilling", decode_while_prefilling),
        ("the median start", scenario.start.median.as_secs_f64()),
        ("line_every_s", scenario.gateway.line_every.as_secs_f64()),
    ];
    match numbers.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
        Some((what, _)) => Err(SimError::Number { what }),
        None => scenario.traffic.check(),
    }
}

#[cfg(test)]
mod tests;
