//! What the operator says about a service and a model.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scalar::LabelName;

/// What the operator says about a service.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Generation of the spec that all of this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word, how the service is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// In sentences, how the service is; `Ready`, `Progressing` and others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where clients find the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Name that requests use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Replicas that there are.
    pub replicas: i32,
    /// Replicas that answer.
    pub ready_replicas: i32,
    /// Selects the pods of every replica; the scale subresource hands it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The version that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colour: Option<LabelName>,
    /// Image of the engine that serves; it stays until the next release, whatever Wharf itself is upgraded to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Shares of traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Traffic>,
    /// What the release that is under way, or the last one, remembers; for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub rollout: Option<Value>,
    /// How long the last cold start took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
    /// What was measured lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// How a service is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Something is missing that it waits for.
    Pending,
    /// The model is fetched or optimised.
    Preparing,
    /// Pods start.
    Starting,
    /// It answers.
    Ready,
    /// It answers, and a new version takes over.
    RollingOut,
    /// It has no replica, and wakes when somebody calls.
    Idle,
    /// It answers worse than it should.
    Degraded,
    /// It does not work, and will not by itself.
    Failed,
}

/// One aspect of how an object is.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The aspect.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word for programs.
    pub reason: String,
    /// Why, in a sentence that a person can act on.
    pub message: String,
    /// Since when, in RFC 3339.
    pub last_transition_time: String,
    /// Generation of the spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether something holds.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

/// Which of two versions that may run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// The first, and every odd release.
    Blue,
    /// The other.
    Green,
}

impl Colour {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Colour::Blue => "blue",
            Colour::Green => "green",
        }
    }

    /// The colour that is free for a next release.
    pub fn other(self) -> Colour {
        match self {
            Colour::Blue => Colour::Green,
            Colour::Green => Colour::Blue,
        }
    }
}

impl From<Colour> for LabelName {
    fn from(colour: Colour) -> LabelName {
        LabelName::parse(colour.name()).expect("a colour's name is lower-case letters")
    }
}

/// A version's share of traffic.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// The version.
    pub colour: LabelName,
    /// Its share, in percent.
    pub weight: u32,
    /// Generation of the spec that it was made from.
    pub generation: i64,
}

/// How long each part of a cold start took, in seconds.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ColdStart {
    /// Until the pod had a node.
    pub schedule: f64,
    /// Until the model was there.
    pub fetch: f64,
    /// Until it was loaded.
    pub load: f64,
    /// Until it had answered its first prompts.
    pub warm: f64,
}

/// What was measured lately.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Measured {
    /// Tokens a second, over all replicas.
    pub tokens_per_second: f64,
    /// Seconds to the first token that 95% of requests did not exceed.
    #[serde(rename = "ttftP95")]
    pub ttft_p95: f64,
}

/// What the operator says about a model.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStatus {
    /// Generation of the spec that all of this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word, how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<ModelState>,
    /// In sentences, how far it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where the files are in the cache volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How large they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// How much of the present step is done, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// The model as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Quality>,
    /// The model as it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Quality>,
    /// Everything that its Jobs have made or are to make, as long as it lies in a volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ArtifactStatus>,
}

/// A file or folder that a model's Jobs have made or are to make.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArtifactStatus {
    /// The claim of the volume that it lies in.
    pub claim: String,
    /// Its name at the volume's root.
    pub name: String,
    /// How large it is, once a Job has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Models whose recipe needs it, and services that serve it or could go back to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// Since when nothing uses it, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<String>,
    /// How far its removal is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

/// How far the removal of a file or folder is.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Removal {
    /// From when on a Job removes it, in RFC 3339.
    pub after: String,
    /// How many Jobs have failed to.
    pub failed: u32,
    /// Why the last of them failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a model is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelState {
    /// Something is missing that it waits for.
    Pending,
    /// Its files are fetched.
    Fetching,
    /// It is distilled.
    Distilling,
    /// It is quantised.
    Quantizing,
    /// It is compared with what it was.
    Evaluating,
    /// It can be served.
    Ready,
    /// It cannot.
    Failed,
}

/// How good a model is.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Quality {
    /// Perplexity on the text that it was compared on.
    pub perplexity: f64,
    /// Mean Kullback-Leibler divergence from the model as it was, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_divergence: Option<f64>,
}
