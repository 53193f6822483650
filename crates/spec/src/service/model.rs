//! Which model, where it comes from and what is done to it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{Digest, LabelName, Percent, Quantity, Source};

/// Which model, where it comes from and what is done to it before it is served.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.source) != has(self.ref)", "message": "give either source or ref, the name of a Model"},
    {"rule": "!has(self.ref) || !(has(self.digest) || has(self.credentials) || has(self.optimize))", "message": "a Model has its own digest, credentials and optimize; leave them out beside ref"}
]))]
pub struct ModelSection {
    /// Where the model comes from: `hf://owner/repo`, `hf://owner/repo/file.gguf`, `https://…`, `s3://…`, `gs://…`, `oci://…`,
    /// `pvc://claim/path` or `file:///path` (on one machine only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Name of a `Model` in the same namespace, instead of `source`.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<LabelName>,
    /// Name that requests use; the object's name if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
    /// What the source must hash to. A source that does not is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Secret with what the source asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// What is done to the model before it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimize: Option<Optimize>,
    /// Where fetched and optimised files are kept.
    pub cache: Cache,
    /// Low-rank adapters served beside the model, each under its own name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub adapters: Vec<Adapter>,
}

/// A Secret with what a source asks for.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Name of a Secret in the same namespace whose keys become environment variables of the Job that fetches: `HF_TOKEN`,
    /// `AWS_ACCESS_KEY_ID` and so on.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A low-rank adapter.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adapter {
    /// Name that requests use.
    pub name: LabelName,
    /// Where it comes from.
    pub source: Source,
}

/// What is done to a model before it is served, in this order: distil, quantise, compare.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Optimize {
    /// Trains a smaller model on what this one says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// Stores weights in fewer bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// Text to calibrate on and to compare with; a built-in one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Source>,
    /// How much worse the result may be. A result that is worse is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

/// The schemes of `wharf quantize`, by the names that it has for them.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quantize {
    /// GGUF, 8 bits.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// GGUF, 6 bits.
    #[serde(rename = "q6_k")]
    Q6K,
    /// GGUF, 5 bits, 6 where it matters most.
    #[serde(rename = "q5_k_m")]
    Q5KM,
    /// GGUF, 4 bits, 6 where it matters most.
    #[serde(rename = "q4_k_m")]
    Q4KM,
    /// GGUF, 4 bits with a minimum.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// GGUF, 4 bits.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// Safetensors, 8-bit weights and activations.
    #[serde(rename = "int8")]
    Int8,
    /// Safetensors, 8-bit weights and activations, whose ranges were observed.
    #[serde(rename = "int8-static")]
    Int8Static,
    /// Safetensors, 8-bit weights.
    #[serde(rename = "int8-weight")]
    Int8Weight,
    /// Safetensors, 4-bit weights by rounding.
    #[serde(rename = "int4")]
    Int4,
    /// Safetensors, 4-bit weights by GPTQ.
    #[serde(rename = "int4-gptq")]
    Int4Gptq,
    /// Safetensors, 4-bit weights by AWQ.
    #[serde(rename = "int4-awq")]
    Int4Awq,
    /// Safetensors, 8-bit floats.
    #[serde(rename = "fp8")]
    Fp8,
}

/// Every scheme.
pub const QUANTIZE: &[Quantize] = &[
    Quantize::Q8_0,
    Quantize::Q6K,
    Quantize::Q5KM,
    Quantize::Q4KM,
    Quantize::Q4_1,
    Quantize::Q4_0,
    Quantize::Int8,
    Quantize::Int8Static,
    Quantize::Int8Weight,
    Quantize::Int4,
    Quantize::Int4Gptq,
    Quantize::Int4Awq,
    Quantize::Fp8,
];

impl Quantize {
    /// As the command line and YAML have it.
    pub fn name(self) -> &'static str {
        match self {
            Quantize::Q8_0 => "q8_0",
            Quantize::Q6K => "q6_k",
            Quantize::Q5KM => "q5_k_m",
            Quantize::Q4KM => "q4_k_m",
            Quantize::Q4_1 => "q4_1",
            Quantize::Q4_0 => "q4_0",
            Quantize::Int8 => "int8",
            Quantize::Int8Static => "int8-static",
            Quantize::Int8Weight => "int8-weight",
            Quantize::Int4 => "int4",
            Quantize::Int4Gptq => "int4-gptq",
            Quantize::Int4Awq => "int4-awq",
            Quantize::Fp8 => "fp8",
        }
    }

    /// Whether rounding can look at a text first.
    pub fn can_calibrate(self) -> bool {
        !matches!(self, Quantize::Q8_0 | Quantize::Q6K | Quantize::Fp8)
    }

    /// Whether the result is one GGUF file; otherwise it is a folder of safetensors.
    pub fn makes_gguf(self) -> bool {
        match self {
            Quantize::Q8_0
            | Quantize::Q6K
            | Quantize::Q5KM
            | Quantize::Q4KM
            | Quantize::Q4_1
            | Quantize::Q4_0 => true,
            Quantize::Int8
            | Quantize::Int8Static
            | Quantize::Int8Weight
            | Quantize::Int4
            | Quantize::Int4Gptq
            | Quantize::Int4Awq
            | Quantize::Fp8 => false,
        }
    }
}

/// How much worse a model may become.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gate {
    /// Most that perplexity may rise by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_perplexity_increase: Option<Percent>,
    /// Most mean Kullback-Leibler divergence from the model as it was, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_kl_divergence: Option<f64>,
}

/// Trains a smaller model on what a larger one says.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.keepLayers), has(self.layers), has(self.student)].filter(x, x).size() == 1", "message": "say what the student is by exactly one of keepLayers, layers and student"},
    {"rule": "has(self.data)", "message": "name the text to train on in data"}
]))]
pub struct Distill {
    /// The teacher; the model's own source if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Source>,
    /// Text to train on: plain text, JSON lines or chats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Source>,
    /// Layers of the teacher that the student keeps, as `0,2,4` or `0-3,28`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"))]
    pub keep_layers: Option<String>,
    /// Number of layers that the student keeps: those that matter most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub layers: Option<u32>,
    /// The student as it is before training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub student: Option<Source>,
    /// Steps to train.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Processes that share each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub data_parallel: Option<u32>,
}

/// Where fetched and optimised files are kept.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cache {
    /// `pvc` keeps files in a volume that Jobs fill; `emptyDir` keeps nothing and reads a `pvc://` source where it lies; `image`
    /// mounts an `oci://` source as a volume of its own.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<CacheType>,
    /// Size of the volume.
    pub size: Quantity,
    /// How the volume can be mounted. Replicas on several nodes need `ReadWriteMany`.
    pub access_mode: AccessMode,
    /// Storage class of the volume; the cluster's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// A claim that is already there, instead of one of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            kind: None,
            size: Quantity::parse("50Gi").expect("a quantity"),
            access_mode: AccessMode::ReadWriteOnce,
            storage_class: None,
            claim_name: None,
        }
    }
}

/// Kinds of cache.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// A volume that Jobs fill.
    #[serde(rename = "pvc")]
    Pvc,
    /// Nothing is kept.
    #[serde(rename = "emptyDir")]
    EmptyDir,
    /// An OCI image mounted as a volume.
    #[serde(rename = "image")]
    Image,
}

/// How a volume can be mounted.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessMode {
    /// By pods of one node.
    ReadWriteOnce,
    /// By pods of any node.
    ReadWriteMany,
}

impl AccessMode {
    /// As Kubernetes has it.
    pub fn name(self) -> &'static str {
        match self {
            AccessMode::ReadWriteOnce => "ReadWriteOnce",
            AccessMode::ReadWriteMany => "ReadWriteMany",
        }
    }
}

impl ModelSection {
    /// The kind of cache that is used when `cache.type` says nothing: none for files that lie in a volume already and stay as they
    /// are.
    pub fn cache_type(&self) -> CacheType {
        let lies_in_a_volume = self.source.as_ref().is_some_and(|source| !source.is_remote());
        match self.cache.kind {
            Some(kind) => kind,
            None if lies_in_a_volume && self.optimize.is_none() && self.adapters.is_empty() => {
                CacheType::EmptyDir
            }
            None => CacheType::Pvc,
        }
    }
}
