//! Decides what a weight is for, independent of how a file names it, and which shape that implies.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// What a tensor does in the forward pass. Matrices are `[out, in]`, row-major; vectors have one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Token embedding: `[vocab, hidden]`.
    TokenEmbedding,
    /// RMSNorm before the output projection: `[hidden]`.
    OutputNorm,
    /// Output projection: `[vocab, hidden]`; the embedding itself when tied.
    Output,
    /// RMSNorm before attention: `[hidden]`.
    AttnNorm,
    /// Query projection: `[n_heads * head_dim, hidden]`.
    Q,
    /// Key projection: `[n_kv_heads * head_dim, hidden]`.
    K,
    /// Value projection: `[n_kv_heads * head_dim, hidden]`.
    V,
    /// Bias of the query projection: `[n_heads * head_dim]`.
    QBias,
    /// Bias of the key projection: `[n_kv_heads * head_dim]`.
    KBias,
    /// Bias of the value projection: `[n_kv_heads * head_dim]`.
    VBias,
    /// Attention output projection: `[hidden, n_heads * head_dim]`.
    O,
    /// Bias of the attention output projection: `[hidden]`.
    OBias,
    /// RMSNorm over each query head before the rotation: `[head_dim]`.
    QNorm,
    /// RMSNorm over each key head before the rotation: `[head_dim]`.
    KNorm,
    /// RMSNorm after attention, before the residual is added: `[hidden]`.
    PostAttnNorm,
    /// RMSNorm before the feed-forward: `[hidden]`.
    FfnNorm,
    /// Gate projection of the feed-forward: `[ffn, hidden]`.
    Gate,
    /// Up projection of the feed-forward: `[ffn, hidden]`.
    Up,
    /// Down projection of the feed-forward: `[hidden, ffn]`.
    Down,
    /// RMSNorm after the feed-forward, before the residual is added: `[hidden]`.
    PostFfnNorm,
}

impl Role {
    /// Every role, in declaration order.
    pub const ALL: [Role; 20] = [
        Role::TokenEmbedding,
        Role::OutputNorm,
        Role::Output,
        Role::AttnNorm,
        Role::Q,
        Role::K,
        Role::V,
        Role::QBias,
        Role::KBias,
        Role::VBias,
        Role::O,
        Role::OBias,
        Role::QNorm,
        Role::KNorm,
        Role::PostAttnNorm,
        Role::FfnNorm,
        Role::Gate,
        Role::Up,
        Role::Down,
        Role::PostFfnNorm,
    ];

    /// Whether this is the weight of an RMSNorm, to which [`ModelConfig::norm_offset`] applies.
    pub const fn is_norm(self) -> bool {
        matches!(
            self,
            Role::OutputNorm
                | Role::AttnNorm
                | Role::QNorm
                | Role::KNorm
                | Role::PostAttnNorm
                | Role::FfnNorm
                | Role::PostFfnNorm
        )
    }

    /// Whether every layer has its own tensor for this role.
    pub const fn is_per_layer(self) -> bool {
        !matches!(self, Role::TokenEmbedding | Role::OutputNorm | Role::Output)
    }

    /// Rows and columns that `config` implies.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let hidden = config.hidden_size;
        let q = config.n_heads * config.head_dim;
        let kv = config.n_kv_heads * config.head_dim;
        match self {
            Role::TokenEmbedding | Role::Output => (config.vocab_size, hidden),
            Role::OutputNorm
            | Role::AttnNorm
            | Role::OBias
            | Role::PostAttnNorm
            | Role::FfnNorm
            | Role::PostFfnNorm => (1, hidden),
            Role::Q => (q, hidden),
            Role::K | Role::V => (kv, hidden),
            Role::QBias => (1, q),
            Role::KBias | Role::VBias => (1, kv),
            Role::O => (hidden, q),
            Role::QNorm | Role::KNorm => (1, config.head_dim),
            Role::Gate | Role::Up => (config.ffn_size, hidden),
            Role::Down => (hidden, config.ffn_size),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::TokenEmbedding => "token embedding",
            Role::OutputNorm => "output norm",
            Role::Output => "output projection",
            Role::AttnNorm => "attention norm",
            Role::Q => "query projection",
            Role::K => "key projection",
            Role::V => "value projection",
            Role::QBias => "query bias",
            Role::KBias => "key bias",
            Role::VBias => "value bias",
            Role::O => "attention output projection",
            Role::OBias => "attention output bias",
            Role::QNorm => "query norm",
            Role::KNorm => "key norm",
            Role::PostAttnNorm => "post-attention norm",
            Role::FfnNorm => "feed-forward norm",
            Role::Gate => "gate projection",
            Role::Up => "up projection",
            Role::Down => "down projection",
            Role::PostFfnNorm => "post-feed-forward norm",
        })
    }
}
