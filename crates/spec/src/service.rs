//! `LLMService`: what a user wants served, and how.
//!
//! One file for each section of the spec. Defaults are those of the types; the CRD leaves them out, except where Kubernetes
//! needs one, so that an upgrade of Wharf may better them.

#![expect(unreachable_pub, reason = "kube's derive makes public types that nobody can name")]

mod access;
mod expose;
mod model;
mod observability;
mod overrides;
mod placement;
mod resources;
mod rollout;
mod runtime;
mod scaling;
mod server;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use access::{Access, ApiKeys, Limits, PeerFrom, PeerTo, Viewer, ViewerKind};
pub use expose::{Expose, ExposeType, GatewayRef, TlsSecret};
pub use model::{
    AccessMode, Adapter, Cache, CacheType, Credentials, Distill, Gate, ModelSection, Optimize, QUANTIZE,
    Quantize,
};
pub use observability::{Alerts, LogLevel, LogStyle, Logs, Observability};
pub use overrides::{Overrides, Patch};
pub use placement::Placement;
pub use resources::{Amounts, Gpu, Parallelism, Resources};
pub use rollout::{CanaryStep, RollbackOn, Rollout, Strategy, Warmup};
pub use runtime::{CustomPorts, CustomProbes, ENGINES, Engine, Runtime};
pub use scaling::{Scaling, ScalingMode, Schedule, Targets};
pub use server::{KvCache, KvCacheType, RequestDefaults, Server};
pub use status::{
    ArtifactStatus, ColdStart, Colour, Condition, ConditionStatus, Measured, ModelState, ModelStatus, Phase,
    Quality, Removal, ServiceStatus, Traffic,
};

/// What a user wants served, and how. Only `model.source` (or `model.ref`) is required.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "wharf.dev",
    version = "v1alpha1",
    kind = "LLMService",
    singular = "llmservice",
    plural = "llmservices",
    shortname = "llm",
    shortname = "llms",
    category = "wharf",
    namespaced,
    status = "ServiceStatus",
    derive = "PartialEq",
    doc = "A large language model behind an OpenAI-compatible endpoint: served, scaled, released, observed and secured.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("the name becomes a Service's: lower-case letters, digits and hyphens, at most 63 of them, a letter first"),
    validation = Rule::new("!self.metadata.name.matches('-(pods|direct|external|metrics|blue|green|cache|fetch|workers|epp|viewers)$')")
        .message("the last word of the name is one that Wharf gives to parts of a service; choose another"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LLMServiceSpec {
    /// Which model, where it comes from and what is done to it before it is served.
    pub model: ModelSection,
    /// Which program serves the model.
    #[serde(default)]
    pub runtime: Runtime,
    /// CPU, memory and GPUs of each replica; of each of its pods where a replica has several.
    #[serde(default)]
    pub resources: Resources,
    /// How one replica is spread over GPUs, processes and nodes.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// How the server behaves: lengths, batches, defaults of requests.
    #[serde(default)]
    pub server: Server,
    /// Replicas wanted now. Autoscalers write it through the scale subresource; a person writes it only where scaling is off.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 10000))]
    pub replicas: u32,
    /// How the number of replicas follows demand.
    #[serde(default)]
    pub scaling: Scaling,
    /// How a change becomes a release, and when a release is taken back.
    #[serde(default)]
    pub rollout: Rollout,
    /// How clients reach the service.
    #[serde(default)]
    pub expose: Expose,
    /// Who may call, how much, and what the pods themselves may reach.
    #[serde(default)]
    pub access: Access,
    /// Metrics, alerts and logs.
    #[serde(default)]
    pub observability: Observability,
    /// On which nodes pods run.
    #[serde(default)]
    pub placement: Placement,
    /// Whatever else a child object must say: merged last into the object of that kind, as `kubectl patch` merges.
    #[serde(default)]
    pub overrides: Overrides,
}

fn one() -> u32 {
    1
}

impl LLMServiceSpec {
    /// A service of a model with every default.
    pub fn new(model: ModelSection) -> LLMServiceSpec {
        LLMServiceSpec {
            model,
            runtime: Runtime::default(),
            resources: Resources::default(),
            parallelism: Parallelism::default(),
            server: Server::default(),
            replicas: one(),
            scaling: Scaling::default(),
            rollout: Rollout::default(),
            expose: Expose::default(),
            access: Access::default(),
            observability: Observability::default(),
            placement: Placement::default(),
            overrides: Overrides::default(),
        }
    }
}
