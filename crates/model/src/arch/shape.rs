//! Decides whether the sizes that a file claims can be those of a model, before anything is allocated by them.

use super::ConfigError;
use crate::config::{Activation, LayerConfig, ModelConfig, RopeLayout};

/// The sizes of a transformer as a file claims them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) vocab_size: usize,
    pub(crate) context_length: usize,
    pub(crate) hidden_size: usize,
    pub(crate) ffn_size: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Shape {
    /// Refuses sizes that are zero, absurd or contradictory. The bounds are far above every published model
    /// and keep every product of two sizes within 64 bits.
    pub(crate) fn validate(self) -> Result<Shape, ConfigError> {
        let Shape {
            vocab_size,
            context_length,
            hidden_size,
            ffn_size,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
        } = self;
        let bounds = [
            ("vocabulary size", vocab_size, 1 << 24),
            ("context length", context_length, 1 << 30),
            ("hidden size", hidden_size, 1 << 20),
            ("feed-forward size", ffn_size, 1 << 22),
            ("number of layers", n_layers, 1 << 12),
            ("number of attention heads", n_heads, 1 << 13),
            ("number of key-value heads", n_kv_heads, 1 << 13),
            ("head dimension", head_dim, 1 << 13),
        ];
        for (what, found, most) in bounds {
            if !(1..=most).contains(&found) {
                return Err(range(what, found, format!("between 1 and {most}")));
            }
        }
        if !head_dim.is_multiple_of(2) {
            return Err(range(
                "head dimension",
                head_dim,
                "even, so that rotary embeddings can pair its elements".into(),
            ));
        }
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(range(
                "number of key-value heads",
                n_kv_heads,
                format!("a divisor of the {n_heads} attention heads"),
            ));
        }
        Ok(self)
    }

    /// A plain pre-norm transformer of these sizes; architectures change what differs. `ropes` is empty.
    pub(crate) fn config(&self, architecture: String, norm_eps: f32, rope_layout: RopeLayout) -> ModelConfig {
        ModelConfig {
            architecture,
            vocab_size: self.vocab_size,
            context_length: self.context_length,
            hidden_size: self.hidden_size,
            ffn_size: self.ffn_size,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            layers: vec![LayerConfig { window: None, rope: 0 }; self.n_layers],
            ropes: Vec::new(),
            rope_layout,
            norm_eps,
            norm_offset: 0.0,
            attn_scale: (self.head_dim as f64).powf(-0.5) as f32,
            attn_softcap: None,
            logit_softcap: None,
            logit_scale: 1.0,
            embedding_scale: 1.0,
            activation: Activation::Silu,
            qk_norm: false,
            post_norms: false,
            tied_embeddings: false,
        }
    }
}

fn range(what: &str, found: usize, expected: String) -> ConfigError {
    ConfigError::Range { key: what.to_owned(), found: found.to_string(), expected }
}
