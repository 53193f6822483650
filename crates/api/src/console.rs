//! What there is to see: the console's page, `wharf ps` and the terminal view read these same types.
//!
//! The gateway fills in what it measures; whoever runs the services (the supervisor of one machine, the operator's status) adds
//! [`ServiceFacts`]. All times are milliseconds since 1970.

use serde::{Deserialize, Serialize};

use crate::demand::ServiceDemand;

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// When.
    pub at_ms: u64,
    /// The gateway's name.
    pub gateway: String,
    /// Version of Wharf.
    pub version: String,
    /// Whether hours and days can be asked for, beside the last minutes.
    #[serde(default)]
    pub remembers: bool,
    /// Services by name.
    pub services: Vec<ServiceView>,
}

/// A service as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// `namespace/name`.
    pub name: String,
    /// Names of its model in requests, adapters last.
    pub models: Vec<String>,
    /// Model servers that the gateway knows.
    pub endpoints: Vec<EndpointView>,
    /// Counters since the gateway started, and gauges.
    pub demand: ServiceDemand,
    /// The last seconds.
    pub rates: Rates,
    /// What whoever runs the service says; none where nobody does, as with listed endpoints.
    pub facts: Option<ServiceFacts>,
}

/// A model server as the gateway sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// `host:port`.
    pub address: String,
    /// Version that it belongs to; empty where there are none.
    pub colour: String,
    /// It takes requests.
    pub ready: bool,
    /// It failed lately, and is left alone for a while.
    pub broken: bool,
    /// Requests that this gateway has there.
    pub in_flight: u32,
    /// Requests that it works on, as it says.
    pub running: u32,
    /// Requests that wait in it, as it says.
    pub waiting: u32,
    /// Share of its KV cache in use, 0 to 1.
    pub kv_cache: f64,
}

/// What happened in the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Requests that came, a second.
    pub requests_per_second: f64,
    /// Tokens of answers, a second.
    pub tokens_per_second: f64,
    /// Share of requests that failed, 0 to 1.
    pub error_rate: f64,
    /// Milliseconds to the first byte that half of the answers did not exceed; none without answers.
    pub first_token_p50_ms: Option<f64>,
    /// As before, 95% of them.
    pub first_token_p95_ms: Option<f64>,
}

/// What whoever runs a service says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// In one word, how it is: the words of the object's `status.phase`.
    pub phase: String,
    /// Why, in a sentence that a person can act on.
    pub message: String,
    /// Generation of the object that is being worked on.
    pub generation: i64,
    /// Replicas asked for.
    pub wanted: u32,
    /// Fewest and most replicas.
    pub bounds: (u32, u32),
    /// Processes or pods of it, those that have gone not included.
    pub replicas: Vec<ReplicaView>,
    /// Versions and their shares of traffic.
    pub versions: Vec<VersionView>,
    /// The release under way, or the last one.
    pub rollout: Option<RolloutView>,
    /// The last decision on replicas.
    pub scaling: Option<ScalingView>,
    /// The last cold start.
    pub cold_start: Option<ColdStartView>,
    /// What happened, the newest last; the latest hundred.
    pub events: Vec<EventView>,
}

/// One process or pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its name, as in `wharf logs`.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Version that it belongs to.
    pub colour: String,
    /// `starting`, `ready`, `draining`, `waiting` (to be started again), `failed`.
    pub state: String,
    /// Why, in words; empty if nothing is to be said.
    pub reason: String,
    /// Process id, where there is one.
    pub pid: Option<u32>,
    /// Times that it was started again.
    pub restarts: u32,
    /// Since when it is in this state.
    pub since_ms: u64,
}

/// A version of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionView {
    /// `blue` or `green`.
    pub colour: String,
    /// Generation of the object that it was made from.
    pub generation: i64,
    /// Share of traffic, in percent.
    pub weight: u32,
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas asked for.
    pub wanted: u32,
}

/// A release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The state machine's word: `Preparing`, `Warming`, `Shifting`, `Verifying`, `Promoted`, `RolledBack` and so on.
    pub phase: String,
    /// Why, in a sentence.
    pub reason: String,
    /// How versions take over: `BlueGreen` and so on.
    pub strategy: String,
    /// The generation that it brings.
    pub generation: i64,
    /// It waits for `wharf rollout promote`.
    pub waits_for_promotion: bool,
    /// Since when it is in this phase.
    pub since_ms: u64,
}

/// A decision on replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingView {
    /// As decided.
    pub decided: u32,
    /// Why.
    pub reason: String,
    /// What went wrong in carrying it out, if something did.
    pub error: Option<String>,
    /// The latest changes, the newest last.
    pub changes: Vec<ScaleChange>,
}

/// A change of the number of replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScaleChange {
    /// When.
    pub at_ms: u64,
    /// Replicas before.
    pub from: u32,
    /// Replicas after.
    pub to: u32,
    /// Why.
    pub reason: String,
}

/// Where the time of a cold start went, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColdStartView {
    /// Until there was a place to run.
    pub schedule: f64,
    /// Until the model's files were there.
    pub fetch: f64,
    /// Until the model was loaded.
    pub load: f64,
    /// Until it had answered its first prompts.
    pub warm: f64,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// When.
    pub at_ms: u64,
    /// Somebody should look.
    pub warning: bool,
    /// Why, in one word for programs: `Scaled`, `RolledBack`, `ReplicaExited` and so on.
    pub reason: String,
    /// What, in a sentence.
    pub message: String,
}

/// A request that has ended. Nothing of its prompt or answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestView {
    /// When it ended.
    pub at_ms: u64,
    /// Its id, as in logs and in `x-request-id`.
    pub id: String,
    /// Name of the key; empty without keys.
    pub key: String,
    /// Service that it meant.
    pub service: String,
    /// Model that it named.
    pub model: String,
    /// HTTP status; 499 if the client left.
    pub status: u16,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of them that the engine had cached.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Milliseconds to the first byte of the answer, if there was one.
    pub first_token_ms: Option<u64>,
    /// Milliseconds to its end.
    pub duration_ms: u64,
}

/// A key and what it used since the gateway started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its id: no secret.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `valid`, `revoked`, `expired`, `early` (not valid yet) or `removed`; empty where no keys are asked for.
    pub state: String,
    /// Models that it may use; empty if all.
    pub models: Vec<String>,
    /// Service that it was used for; empty if it was not used.
    pub service: String,
    /// Requests.
    pub requests: u64,
    /// Requests of those that failed, whoever is to blame.
    pub failed: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of those that engines had cached.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

/// A service over the last minutes, for charts: one value a second, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When the last of the values was taken.
    pub end_ms: u64,
    /// Milliseconds between two values.
    pub step_ms: u64,
    /// Replicas that take requests.
    pub ready: Vec<u32>,
    /// Requests at model servers.
    pub in_flight: Vec<u64>,
    /// Requests that are held.
    pub queued: Vec<u64>,
    /// Requests that came, a second.
    pub requests_per_second: Vec<f64>,
    /// Tokens of answers, a second.
    pub tokens_per_second: Vec<f64>,
    /// Milliseconds to the first byte, 95% of answers; none where there was no answer.
    pub first_token_p95_ms: Vec<Option<f64>>,
}
