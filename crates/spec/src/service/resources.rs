//! What each replica is given, and how it is spread.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::Quantity;

/// CPU, memory and GPUs of each replica; of each of its pods where a replica has several.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// GPUs; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// What a pod is sure to get.
    pub requests: Amounts,
    /// What a pod may not exceed.
    pub limits: Amounts,
}

/// GPUs of each pod.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// How many.
    #[schemars(range(min = 1, max = 64))]
    pub count: u32,
    /// Product, as the node's label `nvidia.com/gpu.product` has it; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"))]
    pub product: Option<String>,
    /// Name of the resource that nodes offer.
    #[serde(default = "nvidia_gpu")]
    #[schemars(regex(pattern = "^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub resource: String,
}

fn nvidia_gpu() -> String {
    "nvidia.com/gpu".to_owned()
}

impl Gpu {
    /// So many of any product.
    pub fn any(count: u32) -> Gpu {
        Gpu { count, product: None, resource: nvidia_gpu() }
    }
}

/// Amounts of CPU, memory and local disk.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// CPU cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Local disk in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<Quantity>,
}

/// How one replica is spread over GPUs, processes and nodes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.nodes) || self.nodes <= 1 || ((has(self.tensor) ? self.tensor : 1) * (has(self.pipeline) ? self.pipeline : 1)) % self.nodes == 0", "message": "nodes must divide tensor times pipeline, so that each node gets as many ranks"}
]))]
pub struct Parallelism {
    /// Ranks among which every layer is divided.
    #[schemars(range(min = 1, max = 64))]
    pub tensor: u32,
    /// Stages among which layers are divided.
    #[schemars(range(min = 1, max = 64))]
    pub pipeline: u32,
    /// Nodes over which a replica is spread. More than one makes a LeaderWorkerSet.
    #[schemars(range(min = 1, max = 64))]
    pub nodes: u32,
}

impl Default for Parallelism {
    fn default() -> Self {
        Parallelism { tensor: 1, pipeline: 1, nodes: 1 }
    }
}

impl Parallelism {
    /// Processes or GPUs of one replica.
    pub fn ranks(&self) -> u32 {
        self.tensor * self.pipeline
    }
}
