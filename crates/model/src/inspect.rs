//! Describes an opened model for people and scripts: what `wharf inspect` prints.

mod text;

use serde::Serialize;

use crate::config::{Activation, ModelConfig, RopeConfig, RopeLayout};
use crate::open::{Format, Model};

/// All that a checkpoint says about itself, serialisable. Sizes are bytes unless named otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub name: String,
    /// File format with its version.
    pub format: String,
    /// Files with weights.
    pub files: Vec<String>,
    /// Size of those files together.
    pub file_bytes: u64,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Tensor bits by parameter.
    pub bits_per_weight: f64,
    /// Shape and arithmetic.
    pub architecture: ArchitectureReport,
    /// Stop tokens and sampling defaults.
    pub generation: GenerationReport,
    /// The tokenizer, when it has been read.
    pub tokenizer: Option<TokenizerSummary>,
    /// The chat template's text, when there is one.
    pub chat_template: Option<String>,
    /// Tensors by element type, largest share first.
    pub types: Vec<TypeShare>,
    /// Every tensor in file order.
    pub tensors: Vec<TensorReport>,
}

/// Shape and arithmetic of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArchitectureReport {
    /// Name in the model's own files.
    pub name: String,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence, tokens.
    pub context_length: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward.
    pub ffn_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Activation of the feed-forward.
    pub activation: &'static str,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Whether heads of Q and K are normed.
    pub qk_norm: bool,
    /// Whether norms follow attention and feed-forward.
    pub post_norms: bool,
    /// Soft-cap on attention scores.
    pub attn_softcap: Option<f32>,
    /// Soft-cap on logits.
    pub logit_softcap: Option<f32>,
    /// Sliding window of each layer, `null` for layers that see everything.
    pub windows: Vec<Option<usize>>,
    /// Rotary embeddings.
    pub ropes: Vec<RopeReport>,
    /// Keys and values of one token in a cache of 16-bit elements.
    pub kv_bytes_per_token: usize,
}

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeReport {
    /// Layers that use it.
    pub layers: usize,
    /// Elements of a head that are rotated.
    pub dim: usize,
    /// How elements pair up.
    pub layout: &'static str,
    /// Shortest wavelength, tokens.
    pub shortest_wavelength: f64,
    /// Longest wavelength, tokens.
    pub longest_wavelength: f64,
    /// Multiplies sine and cosine.
    pub amplitude: f32,
}

/// Stop tokens and sampling defaults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerationReport {
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Token that starts a sequence.
    pub bos_token_id: Option<u32>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Candidates kept by rank.
    pub top_k: Option<u32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Least probability kept, relative to the best.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens already seen.
    pub repetition_penalty: Option<f32>,
}

/// What the tokenizer is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenizerSummary {
    /// Algorithm and pre-tokenizer, in words.
    pub kind: String,
    /// Tokens that it knows.
    pub tokens: usize,
    /// Texts of the special tokens, in order of their ids.
    pub special_tokens: Vec<String>,
}

/// Tensors of one element type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TypeShare {
    /// Name of the type.
    pub dtype: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Their elements.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// Name in the file.
    pub name: String,
    /// Name of its type.
    pub dtype: &'static str,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Bytes.
    pub bytes: u64,
}

impl Report {
    /// Describes `model`. Tokenizer and chat template are left for the caller to fill in.
    pub fn new(model: &Model) -> Report {
        let Model { config, weights, generation, info, source: _, held: _ } = model;
        let tensors: Vec<TensorReport> = weights
            .tensors()
            .map(|tensor| TensorReport {
                name: tensor.name.clone(),
                dtype: tensor.dtype.name(),
                shape: tensor.shape.clone(),
                bytes: tensor.len as u64,
            })
            .collect();
        let tensor_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
        Report {
            name: info.name.clone(),
            format: match info.format {
                Format::Gguf { version } => format!("GGUF version {version}"),
                Format::Safetensors => "safetensors".to_owned(),
            },
            files: info.files.iter().map(|path| path.display().to_string()).collect(),
            file_bytes: info.bytes,
            parameters: info.parameters,
            bits_per_weight: tensor_bytes as f64 * 8.0 / info.parameters.max(1) as f64,
            architecture: ArchitectureReport::new(config),
            generation: GenerationReport {
                eos_token_ids: generation.eos_token_ids.clone(),
                bos_token_id: generation.bos_token_id,
                temperature: generation.temperature,
                top_k: generation.top_k,
                top_p: generation.top_p,
                min_p: generation.min_p,
                repetition_penalty: generation.repetition_penalty,
            },
            tokenizer: None,
            chat_template: None,
            types: shares(&tensors),
            tensors,
        }
    }
}

impl ArchitectureReport {
    fn new(config: &ModelConfig) -> ArchitectureReport {
        let rope = |(index, rope): (usize, &RopeConfig)| {
            let wavelength = |f: f64| std::f64::consts::TAU / f;
            RopeReport {
                layers: config.layers.iter().filter(|layer| layer.rope == index).count(),
                dim: rope.dim,
                layout: match config.rope_layout {
                    RopeLayout::Halves => "halves",
                    RopeLayout::Interleaved => "interleaved",
                },
                shortest_wavelength: wavelength(rope.inv_freq.iter().copied().fold(0.0, f64::max)),
                longest_wavelength: wavelength(rope.inv_freq.iter().copied().fold(f64::INFINITY, f64::min)),
                amplitude: rope.amplitude,
            }
        };
        ArchitectureReport {
            name: config.architecture.clone(),
            vocab_size: config.vocab_size,
            context_length: config.context_length,
            hidden_size: config.hidden_size,
            ffn_size: config.ffn_size,
            n_layers: config.layers.len(),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            activation: match config.activation {
                Activation::Silu => "silu",
                Activation::GeluTanh => "gelu (tanh)",
                Activation::GeluErf => "gelu (erf)",
            },
            norm_eps: config.norm_eps,
            tied_embeddings: config.tied_embeddings,
            qk_norm: config.qk_norm,
            post_norms: config.post_norms,
            attn_softcap: config.attn_softcap,
            logit_softcap: config.logit_softcap,
            windows: config.layers.iter().map(|layer| layer.window).collect(),
            ropes: config.ropes.iter().enumerate().map(rope).collect(),
            kv_bytes_per_token: config.kv_bytes_per_token(),
        }
    }
}

fn shares(tensors: &[TensorReport]) -> Vec<TypeShare> {
    let mut shares: Vec<TypeShare> = Vec::new();
    for tensor in tensors {
        let parameters = tensor.shape.iter().product::<usize>() as u64;
        match shares.iter_mut().find(|share| share.dtype == tensor.dtype) {
            Some(share) => {
                share.tensors += 1;
                share.parameters += parameters;
                share.bytes += tensor.bytes;
            }
            None => {
                shares.push(TypeShare { dtype: tensor.dtype, tensors: 1, parameters, bytes: tensor.bytes });
            }
        }
    }
    shares.sort_by_key(|share| (std::cmp::Reverse(share.bytes), share.dtype));
    shares
}

#[cfg(test)]
mod tests;
