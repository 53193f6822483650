//! Decides which rows or columns of every weight each rank of a tensor-parallel group holds.
//!
//! Query heads go with their key and value heads, the feed-forward's inner width and the vocabulary are cut into ranges, and
//! what is left is held by every rank. Where a cut goes through the inputs of a matrix it falls on a block of its type. Parts
//! that do not come out even are uneven; with more ranks than key and value heads, several ranks hold the same one.

pub mod folder;
mod layers;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::ModelConfig;
use crate::role::Role;
use crate::weights::Weights;
pub use layers::LayerBytes;

/// What one rank holds of one weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// Some outputs of a matrix.
    Rows(Range<usize>),
    /// Some inputs of a matrix, or some elements of a vector.
    Columns(Range<usize>),
}

/// What one rank computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankShare {
    /// Query heads.
    pub heads: Range<usize>,
    /// Key and value heads that those read.
    pub kv_heads: Range<usize>,
    /// Of the feed-forward's inner width.
    pub ffn: Range<usize>,
    /// Tokens whose embeddings and logits it has.
    pub vocab: Range<usize>,
    /// Elements of a head.
    pub head_dim: usize,
}

/// Multiples in which inputs of a matrix can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Of the attention output projection.
    pub o: usize,
    /// Of the down projection.
    pub down: usize,
}

/// What all ranks of a group hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// By rank.
    pub ranks: Vec<RankShare>,
}

/// Why a model cannot be spread over so many ranks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// There is less of something than there are ranks.
    #[error("{what} cannot be cut into {ranks} parts, at most into {most}: its blocks and heads stay whole")]
    TooManyRanks {
        /// What would be cut.
        what: &'static str,
        /// Ranks asked for.
        ranks: usize,
        /// Parts that it can be cut into.
        most: usize,
    },
    /// The model was cut for another number of ranks.
    #[error("the model was cut for {cut} tensor-parallel ranks, not for {ranks}")]
    OtherCut {
        /// Ranks that it was cut for.
        cut: usize,
        /// Ranks asked for.
        ranks: usize,
    },
    /// No ranks.
    #[error("a group has at least one rank")]
    NoRanks,
}

impl Steps {
    /// What the types of a model's weights ask for.
    pub fn of(config: &ModelConfig, weights: &Weights) -> Steps {
        let step = |role| {
            let types = (0..config.layers.len()).filter_map(|layer| weights.optional(Some(layer), role));
            // One, 32 and 256: each divides the next.
            types.map(|view| view.dtype.chain_step()).max().unwrap_or(1)
        };
        Steps { o: step(Role::O), down: step(Role::Down) }
    }
}

/// Outputs that kernels compute together: cuts through outputs, which may be anywhere, are there if they can.
const PANEL: usize = 16;

impl ShardPlan {
    /// Spreads a model over `ranks` ranks.
    ///
    /// # Errors
    /// When a part would be left without anything.
    pub fn new(config: &ModelConfig, steps: Steps, ranks: usize) -> Result<ShardPlan, ShardError> {
        if ranks == 0 {
            return Err(ShardError::NoRanks);
        }
        let heads = heads(config, steps.o, ranks)?;
        let ffn = cut("the feed-forward's inner width", config.ffn_size, steps.down, ranks)?;
        let vocab = cut("the vocabulary", config.vocab_size, 1, ranks)?;
        let head_dim = config.head_dim;
        let parts = heads.into_iter().zip(ffn).zip(vocab);
        let ranks = parts.map(|(((heads, kv_heads), ffn), vocab)| RankShare {
            heads,
            kv_heads,
            ffn,
            vocab,
            head_dim,
        });
        Ok(ShardPlan { ranks: ranks.collect() })
    }
}

impl ShardPlan {
    /// Refuses a plan that somebody else has made if it does not fit the model.
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<(), String> {
        let group = config.n_heads / config.n_kv_heads.max(1);
        for (rank, share) in self.ranks.iter().enumerate() {
            let RankShare { heads, kv_heads, ffn, vocab, head_dim } = share;
            let within = |range: &Range<usize>, len| range.start < range.end && range.end <= len;
            let fits = within(heads, config.n_heads)
                && within(kv_heads, config.n_kv_heads)
                && within(ffn, config.ffn_size)
                && within(vocab, config.vocab_size)
                && *head_dim == config.head_dim
                && heads.len().is_multiple_of(kv_heads.len())
                && heads.start / group.max(1) == kv_heads.start;
            if !fits {
                return Err(format!("what it says that rank {rank} holds does not fit the model"));
            }
        }
        Ok(())
    }
}

impl RankShare {
    /// What the rank holds of the weight for `role`.
    pub fn cut(&self, role: Role) -> Cut {
        let wide = |range: &Range<usize>| range.start * self.head_dim..range.end * self.head_dim;
        match role {
            Role::TokenEmbedding | Role::Output => Cut::Rows(self.vocab.clone()),
            Role::Q => Cut::Rows(wide(&self.heads)),
            Role::K | Role::V => Cut::Rows(wide(&self.kv_heads)),
            Role::QBias | Role::O => Cut::Columns(wide(&self.heads)),
            Role::KBias | Role::VBias => Cut::Columns(wide(&self.kv_heads)),
            Role::Gate | Role::Up => Cut::Rows(self.ffn.clone()),
            Role::Down => Cut::Columns(self.ffn.clone()),
            Role::OutputNorm
            | Role::AttnNorm
            | Role::OBias
            | Role::QNorm
            | Role::KNorm
            | Role::PostAttnNorm
            | Role::FfnNorm
            | Role::PostFfnNorm => Cut::Whole,
        }
    }

    /// The model that this rank computes: with its heads and its part of the feed-forward. The vocabulary stays whole.
    pub fn config(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig {
            n_heads: self.heads.len(),
            n_kv_heads: self.kv_heads.len(),
            ffn_size: self.ffn.len(),
            ..config.clone()
        }
    }
}

/// Query heads of a rank, and the key and value heads that they read.
type Heads = (Range<usize>, Range<usize>);

/// Heads of each rank.
fn heads(config: &ModelConfig, step: usize, ranks: usize) -> Result<Vec<Heads>, ShardError> {
    let (kv_heads, head_dim) = (config.n_kv_heads, config.head_dim);
    let group = config.n_heads / kv_heads;
    if ranks <= kv_heads {
        let kv = cut("the key and value heads", kv_heads, multiple(step, group * head_dim), ranks)?;
        return Ok(kv.into_iter().map(|kv| (kv.start * group..kv.end * group, kv)).collect());
    }
    // Several ranks share a head of keys and values, and the query heads that read it.
    let too_many = |most| ShardError::TooManyRanks { what: "the query heads", ranks, most };
    if multiple(step, group * head_dim) > 1 {
        return Err(too_many(kv_heads / multiple(step, group * head_dim)));
    }
    let step = multiple(step, head_dim);
    if ranks > kv_heads * (group / step) {
        return Err(too_many(kv_heads * (group / step)));
    }
    let mut shares = Vec::with_capacity(ranks);
    for (kv, sharing) in even(ranks, kv_heads).enumerate() {
        let first = kv * group;
        for heads in cut("the query heads", group, step, sharing.len())? {
            shares.push((first + heads.start..first + heads.end, kv..kv + 1));
        }
    }
    Ok(shares)
}

/// How many of something of `width` elements each are a whole number of steps.
fn multiple(step: usize, width: usize) -> usize {
    step / gcd(step, width)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `parts` ranges that are all of `len`, none empty, as even as steps allow.
fn cut(what: &'static str, len: usize, step: usize, parts: usize) -> Result<Vec<Range<usize>>, ShardError> {
    let step = match step {
        1 if len.div_ceil(PANEL) >= 2 * parts => PANEL,
        step => step,
    };
    let most = len.div_ceil(step);
    if parts > most {
        return Err(ShardError::TooManyRanks { what, ranks: parts, most });
    }
    let bound = |unit: usize| (unit * step).min(len);
    Ok(even(most, parts).map(|units| bound(units.start)..bound(units.end)).collect())
}

/// `parts` ranges that are all of `len`; the first are one longer where it does not come out even.
fn even(len: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let begin = move |part: usize| part * (len / parts) + part.min(len % parts);
    (0..parts).map(move |part| begin(part)..begin(part + 1))
}

#[cfg(test)]
mod tests;
