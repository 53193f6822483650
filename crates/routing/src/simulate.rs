//! Policies against traffic: the real [`Service`](crate::Service) in front of simulated engines, minutes in a fraction of a second.
//!
//! [`simulate`] is deterministic: one scenario, one report. Every policy sees the same conversations, so what differs is the policy. It says
//! nothing about networks, proxies or tokenizers, and engines are what [`Engine`] says they are.

mod cache;
mod engine;
mod replica;
mod report;
mod traffic;
mod world;

use serde::{Deserialize, Serialize};

pub use engine::{BLOCK_TOKENS, Engine};
pub use report::{Outcome, Report};
pub use traffic::Traffic;

use crate::{Policy, PolicyName};
use replica::{Event, Job, Replica};
use traffic::{Conversation, Turn};
use world::World;

/// What is simulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// The same seed makes the same conversations.
    pub seed: u64,
    /// Requests, all turns counted; the last conversation may bring some more.
    pub requests: usize,
    /// Rate at which requests would come if answers took no time, as a share of [`saturation`] of all engines.
    pub rate: f64,
    /// Who asks what.
    pub traffic: Traffic,
    /// What an engine can do.
    pub engine: Engine,
    /// Engines at the beginning.
    pub engines: u32,
    /// Gateways, each of which only knows what it sent itself and what engines say.
    pub gateways: u32,
    /// How often gateways read the engines' metrics, in seconds.
    pub metrics_seconds: f64,
    /// What happens on the way.
    pub changes: Vec<TimedChange>,
    /// The policies to compare.
    pub compare: Vec<Compared>,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            name: "conversations".to_owned(),
            seed: 1,
            requests: 2000,
            rate: 1.0,
            traffic: Traffic::default(),
            engine: Engine::default(),
            engines: 4,
            gateways: 1,
            metrics_seconds: 0.5,
            changes: Vec::new(),
            compare: [PolicyName::RoundRobin, PolicyName::LeastLoad, PolicyName::Prefix]
                .map(Compared::plain)
                .into(),
        }
    }
}

/// A policy and what to call it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compared {
    /// What it is called in reports.
    pub name: String,
    /// The policy.
    pub policy: Policy,
}

impl Compared {
    /// A policy as it is when nothing is configured.
    pub fn plain(policy: PolicyName) -> Compared {
        let name = match policy {
            PolicyName::Prefix => "prefix",
            PolicyName::LeastLoad => "leastLoad",
            PolicyName::RoundRobin => "roundRobin",
        };
        Compared { name: name.to_owned(), policy: Policy { policy, ..Policy::default() } }
    }
}

/// Something that happens while requests come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimedChange {
    /// When, in seconds.
    pub at_seconds: f64,
    /// What.
    pub change: Change,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// One more engine, with nothing cached.
    Joins,
    /// This engine finishes what it has and leaves.
    Drains(u32),
    /// This engine is gone with all that it has; discovery knows at the next reading of metrics.
    Dies(u32),
    /// Each gateway is replaced by one that knows nothing; the old ones finish what they have.
    GatewaysRestart,
}

/// Runs every policy.
pub fn simulate(scenario: &Scenario) -> Report {
    let conversations = traffic::conversations(&scenario.traffic, scenario.seed, scenario.requests);
    let requests = conversations.iter().map(|conversation| conversation.turns.len()).sum::<usize>();
    let per_second = scenario.rate.max(1e-6)
        * f64::from(scenario.engines.max(1))
        * saturation(&scenario.engine, scenario.engines, &scenario.traffic);
    let run = |compared: &Compared| {
        let conversation_seconds = requests as f64 / conversations.len().max(1) as f64 / per_second;
        World::new(scenario, &conversations, conversation_seconds, &compared.policy).run(&compared.name)
    };
    Report {
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        engines: scenario.engines,
        requests,
        requests_per_second: per_second,
        outcomes: scenario.compare.iter().map(run).collect(),
    }
}

/// Requests a second that one of so many engines answers when round robin always has more for it than it can take.
///
/// Caches work as well as they do then: nearly everybody finds the instructions of its group, few find what was said before. So at a rate
/// of 1 a policy that spreads conversations has queues, while one that keeps them together may have none.
pub fn saturation(engine: &Engine, engines: u32, traffic: &Traffic) -> f64 {
    let engines = engines.max(1) as usize;
    let jobs = 6 * engine.max_running as usize;
    // A seed of its own: the rate is a property of the traffic, not of one run.
    let conversations = traffic::conversations(traffic, 0x5eed, jobs * engines);
    let mut turns: Vec<(f64, &Conversation, &Turn)> = Vec::new();
    for conversation in &conversations {
        let mut at = conversation.begins;
        for turn in &conversation.turns {
            turns.push((at, conversation, turn));
            // A new conversation begins about once a second for every engine.
            at += turn.gap * engines as f64;
        }
    }
    turns.sort_by(|(one, ..), (two, ..)| one.total_cmp(two));
    let mut replica = Replica::new(*engine);
    for (id, (_, conversation, turn)) in turns.iter().step_by(engines).enumerate() {
        replica.push(Job::new(id, conversation, turn));
    }
    let (mut events, mut warm) = (Vec::new(), (0, 0.0));
    let count = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Last { .. })).count();
    while replica.has_waiting() && replica.begin().is_some() {
        replica.end(&mut events);
        if warm.0 == 0 && events.len() > jobs {
            // The first half fills the cache.
            warm = (count(&events), replica.busy);
        }
    }
    (count(&events) - warm.0) as f64 / (replica.busy - warm.1).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests;
