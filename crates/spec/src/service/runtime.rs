//! Which program serves the model.

use k8s_openapi::api::core::v1::EnvVar;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{LabelName, PortNumber};

/// Which program serves the model.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runtime {
    /// The program.
    pub engine: Engine,
    /// Its image; the engine's own, of a version that this Wharf was tried with, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Secrets to pull images with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// The command of a `custom` engine; its image's own if absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments after those that Wharf gives. A `custom` engine gets only these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables beside those that Wharf sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Ports of a `custom` engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<CustomPorts>,
    /// Paths that a `custom` engine answers its state on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<CustomProbes>,
    /// Service account of the model pods, of one's own making; one without any right if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<LabelName>,
}

/// Programs that serve models.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Wharf's own server.
    #[default]
    Wharf,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's server.
    LlamaCpp,
    /// Any image that speaks the OpenAI protocol.
    Custom,
}

/// Every engine.
pub const ENGINES: &[Engine] =
    &[Engine::Wharf, Engine::Vllm, Engine::Sglang, Engine::LlamaCpp, Engine::Custom];

impl Engine {
    /// As YAML has it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Wharf => "wharf",
            Engine::Vllm => "vllm",
            Engine::Sglang => "sglang",
            Engine::LlamaCpp => "llamacpp",
            Engine::Custom => "custom",
        }
    }
}

/// Ports of a custom engine.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomPorts {
    /// Where it answers requests.
    pub http: PortNumber,
    /// Where it has its metrics; `http` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<PortNumber>,
}

/// Paths that a custom engine answers its state on.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomProbes {
    /// Answers 200 once it is loaded, and while it lives.
    pub liveness: String,
    /// Answers 200 while it takes requests.
    pub readiness: String,
    /// Its metrics.
    pub metrics: String,
}

impl Default for CustomProbes {
    fn default() -> Self {
        CustomProbes {
            liveness: "/health".to_owned(),
            readiness: "/health".to_owned(),
            metrics: "/metrics".to_owned(),
        }
    }
}
