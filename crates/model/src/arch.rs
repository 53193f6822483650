//! Architectures as data: which names a checkpoint uses, and how its configuration is read.
//!
//! Adding one takes a file beside the others and a line in [`ALL`].

mod gemma2;
mod gemma3;
pub(crate) mod gguf;
pub(crate) mod hf;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod shape;

use thiserror::Error;

use crate::config::ModelConfig;
use crate::role::Role;

pub(crate) use gguf::GgufConfig;
pub(crate) use hf::HfConfig;
pub(crate) use shape::Shape;

/// Every architecture that Wharf serves.
pub const ALL: &[&Architecture] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
];

/// One family of models.
pub struct Architecture {
    /// `general.architecture` of its GGUF files; `None` when they call themselves something else.
    pub gguf: Option<&'static str>,
    /// Class names under `architectures` in config.json.
    pub hf_classes: &'static [&'static str],
    /// `model_type` in config.json, for files that name no class.
    pub hf_model_types: &'static [&'static str],
    /// Where each weight is.
    pub(crate) tensors: &'static [&'static [TensorRule]],
    /// Reads config.json.
    pub(crate) from_hf: fn(&HfConfig<'_>) -> Result<ModelConfig, ConfigError>,
    /// Reads GGUF metadata.
    pub(crate) from_gguf: fn(&GgufConfig<'_>) -> Result<ModelConfig, ConfigError>,
}

impl Architecture {
    /// The architecture that GGUF calls `name`.
    pub fn by_gguf(name: &str) -> Option<&'static Architecture> {
        ALL.iter().copied().find(|arch| arch.gguf == Some(name))
    }

    /// The architecture of Hugging Face class `class`.
    pub fn by_hf_class(class: &str) -> Option<&'static Architecture> {
        ALL.iter().copied().find(|arch| arch.hf_classes.contains(&class))
    }

    /// The architecture of Hugging Face `model_type`.
    pub fn by_hf_model_type(model_type: &str) -> Option<&'static Architecture> {
        ALL.iter().copied().find(|arch| arch.hf_model_types.contains(&model_type))
    }

    /// What is supported, for error messages.
    pub fn supported() -> String {
        ALL.iter().map(|arch| arch.hf_classes[0]).collect::<Vec<_>>().join(", ")
    }

    /// The architecture that a [`ModelConfig`] was read as.
    pub fn of(config: &ModelConfig) -> Option<&'static Architecture> {
        let name = &config.architecture;
        Architecture::by_hf_class(name)
            .or_else(|| Architecture::by_gguf(name))
            .or_else(|| Architecture::by_hf_model_type(name))
    }

    /// Name of the tensor that holds `role` of `layer` in safetensors. Roles of one name share that tensor, their rows in the order
    /// of [`Role::ALL`].
    pub fn hf_tensor(&self, layer: Option<usize>, role: Role) -> Option<String> {
        let mut rules = self.tensors.iter().flat_map(|group| group.iter());
        let name = rules.find(|rule| rule.role == role)?.hf_name();
        Some(layer.map_or(name.clone(), |layer| name.replace("{}", &layer.to_string())))
    }

    pub(crate) fn rules(&self) -> Vec<TensorRule> {
        self.tensors.iter().flat_map(|group| group.iter().copied()).collect()
    }
}

/// Where one weight is. Rules of an architecture that resolve to one name share that tensor, whose rows
/// follow each other in the order of the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorRule {
    pub(crate) role: Role,
    presence: Presence,
    /// Name in safetensors after the body prefix (`model.`); `{}` is the layer.
    pub(crate) hf: &'static str,
    /// Name in GGUF; `{}` is the layer.
    pub(crate) gguf: &'static str,
}

/// When a checkpoint must hold a weight.
#[derive(Clone, Copy, Debug)]
enum Presence {
    Always,
    /// In every layer or in none.
    Optional,
    /// Unless embedding and output projection are tied.
    Untied,
}

impl TensorRule {
    const fn always(role: Role, hf: &'static str, gguf: &'static str) -> TensorRule {
        TensorRule { role, presence: Presence::Always, hf, gguf }
    }

    const fn optional(role: Role, hf: &'static str, gguf: &'static str) -> TensorRule {
        TensorRule { role, presence: Presence::Optional, hf, gguf }
    }

    const fn untied(role: Role, hf: &'static str, gguf: &'static str) -> TensorRule {
        TensorRule { role, presence: Presence::Untied, hf, gguf }
    }

    /// Name in safetensors with the usual prefix; `{}` is the layer.
    pub(crate) fn hf_name(&self) -> String {
        match self.role {
            Role::Output => self.hf.to_owned(),
            _ => format!("model.{}", self.hf),
        }
    }

    pub(crate) fn required_in(&self, config: &ModelConfig) -> bool {
        match self.presence {
            Presence::Always => true,
            Presence::Optional => false,
            Presence::Untied => !config.tied_embeddings,
        }
    }
}

/// Tensors outside the layers, the same in every architecture.
const GLOBAL: &[TensorRule] = &[
    TensorRule::always(Role::TokenEmbedding, "embed_tokens.weight", "token_embd.weight"),
    TensorRule::always(Role::OutputNorm, "norm.weight", "output_norm.weight"),
    TensorRule::untied(Role::Output, "lm_head.weight", "output.weight"),
];

/// Attention projections as separate matrices.
const ATTENTION: &[TensorRule] = &[
    TensorRule::always(Role::AttnNorm, "layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"),
    TensorRule::always(Role::Q, "layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight"),
    TensorRule::always(Role::K, "layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight"),
    TensorRule::always(Role::V, "layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight"),
    TensorRule::always(Role::O, "layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight"),
];

/// Biases on all four projections, which some fine-tunes of bias-free architectures have (`attention_bias`).
const OPTIONAL_BIASES: &[TensorRule] = &[
    TensorRule::optional(Role::QBias, "layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias"),
    TensorRule::optional(Role::KBias, "layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias"),
    TensorRule::optional(Role::VBias, "layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias"),
    TensorRule::optional(Role::OBias, "layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias"),
];

/// RMSNorm over each head of Q and K.
const QK_NORM: &[TensorRule] = &[
    TensorRule::always(Role::QNorm, "layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight"),
    TensorRule::always(Role::KNorm, "layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight"),
];

/// A gated feed-forward as separate matrices.
const FEED_FORWARD: &[TensorRule] = &[
    TensorRule::always(Role::Gate, "layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight"),
    TensorRule::always(Role::Up, "layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight"),
    TensorRule::always(Role::Down, "layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight"),
];

/// The norm before the feed-forward where it is the only other norm of a layer.
const FFN_NORM: &[TensorRule] = &[TensorRule::always(
    Role::FfnNorm,
    "layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_norm.weight",
)];

/// The three further norms of Gemma 2 and 3.
const GEMMA_NORMS: &[TensorRule] = &[
    TensorRule::always(
        Role::PostAttnNorm,
        "layers.{}.post_attention_layernorm.weight",
        "blk.{}.post_attention_norm.weight",
    ),
    TensorRule::always(Role::FfnNorm, "layers.{}.pre_feedforward_layernorm.weight", "blk.{}.ffn_norm.weight"),
    TensorRule::always(
        Role::PostFfnNorm,
        "layers.{}.post_feedforward_layernorm.weight",
        "blk.{}.post_ffw_norm.weight",
    ),
];

/// Why a configuration does not describe a model that we serve. `key` is a path within config.json or a GGUF
/// metadata key.
#[derive(Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A key that the architecture needs.
    #[error("key {0:?} is missing")]
    Missing(String),
    /// A value of another type than expected.
    #[error("key {key:?} must be {expected}, but is {found}")]
    Type {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What the file has.
        found: String,
    },
    /// A value outside its meaningful range, or one that contradicts another.
    #[error("{key} is {found}, but must be {expected}")]
    Range {
        /// The key.
        key: String,
        /// The value.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A variant of the architecture that Wharf does not compute.
    #[error("{what} is not supported; {supported}")]
    Unsupported {
        /// The feature and its value.
        what: String,
        /// What would be.
        supported: &'static str,
    },
}

#[cfg(test)]
mod tests;
