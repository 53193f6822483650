//! An architecture as data: everything the forward pass needs to know about a model, and nothing else.
//!
//! A new architecture fills in this structure; the forward pass reads it and has no per-architecture code.

use serde::{Deserialize, Serialize};

/// Shape and arithmetic of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Architecture name as the model's own files call it, for people (`llama`, `Qwen2ForCausalLM`).
    pub architecture: String,
    /// Tokens in the vocabulary, rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence that the model was trained or scaled for, in tokens.
    pub context_length: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward layers.
    pub ffn_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements per head of Q, K and V.
    pub head_dim: usize,
    /// One entry per layer.
    pub layers: Vec<LayerConfig>,
    /// Rotary embeddings that layers refer to by index.
    pub ropes: Vec<RopeConfig>,
    /// How Q and K elements pair up in a rotation.
    pub rope_layout: RopeLayout,
    /// Epsilon inside every RMSNorm.
    pub norm_eps: f32,
    /// Added to every stored norm weight (Gemma safetensors store `w - 1`; GGUF stores `w`).
    pub norm_offset: f32,
    /// Multiplies Q·K before softmax, usually `head_dim^-0.5`.
    pub attn_scale: f32,
    /// `cap * tanh(x / cap)` on attention scores.
    pub attn_softcap: Option<f32>,
    /// `cap * tanh(x / cap)` on the final logits.
    pub logit_softcap: Option<f32>,
    /// Multiplies the final logits (1 for most).
    pub logit_scale: f32,
    /// Multiplies token embeddings (Gemma: `sqrt(hidden_size)`, rounded as the reference does).
    pub embedding_scale: f32,
    /// Activation of the gated feed-forward.
    pub activation: Activation,
    /// RMSNorm over each head of Q and K before the rotation (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Extra RMSNorm after attention and after the feed-forward, before the residual add (Gemma 2 and 3).
    pub post_norms: bool,
    /// The output projection is the embedding matrix.
    pub tied_embeddings: bool,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerConfig {
    /// A query sees this many latest positions, itself included; `None` sees all.
    pub window: Option<usize>,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
}

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    /// Leading elements of a head that are rotated; even, at most `head_dim`.
    pub dim: usize,
    /// Inverse frequency of each rotated pair after scaling: `dim / 2` values, radians per position.
    #[serde(with = "bits")]
    pub inv_freq: Vec<f64>,
    /// Multiplies sine and cosine (YaRN and LongRoPE attention factor, else 1).
    pub amplitude: f32,
}

/// Pairing of elements in a rotation of `dim` leading elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RopeLayout {
    /// Element `i` with `i + dim / 2` (Hugging Face weights; GGUF of Qwen, Gemma, Phi-3).
    Halves,
    /// Element `2 i` with `2 i + 1` (GGUF of Llama and Mistral, whose Q and K rows are permuted).
    Interleaved,
}

/// Activation of the gated feed-forward: `act(gate) * up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// Gelu with the tanh approximation.
    GeluTanh,
    /// Gelu with the exact error function.
    GeluErf,
}

impl ModelConfig {
    /// Bytes of keys and values that one token takes in a cache of 16-bit elements, all layers together.
    pub fn kv_bytes_per_token(&self) -> usize {
        2 * 2 * self.layers.len() * self.n_kv_heads * self.head_dim
    }
}

/// Numbers as the bits that they are: decimals that are read again may differ in the last one.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        let bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
        bits.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let bits = Vec::<u64>::deserialize(deserializer)?;
        Ok(bits.into_iter().map(f64::from_bits).collect())
    }
}
