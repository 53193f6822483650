//! Decides which part of a model a stage holds: some consecutive layers, and the ends of the model if it has them.

use std::ops::Range;

use wharf_model::ModelConfig;
use wharf_model::shard::{RankShare, ShardPlan};

/// A contiguous part of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its layers.
    pub layers: Range<usize>,
    /// It turns tokens into the rows that its first layer reads; otherwise somebody hands it those.
    pub embeds: bool,
    /// It turns the rows that its last layer leaves into logits; otherwise it leaves them.
    pub predicts: bool,
}

impl Share {
    /// All of a model.
    pub fn whole(config: &ModelConfig) -> Share {
        Share { layers: 0..config.layers.len(), embeds: true, predicts: true }
    }

    /// Whether it is all of the model.
    pub(super) fn is_whole(&self, config: &ModelConfig) -> bool {
        *self == Share::whole(config)
    }

    /// What tells this part of a model from others, in names of files.
    pub(super) fn name(&self) -> String {
        let Share { layers, embeds, predicts } = self;
        let end = |has: &bool, name: &'static str| if *has { name } else { "" };
        format!("-{}{}-{}{}", end(embeds, "e"), layers.start, layers.end, end(predicts, "p"))
    }

    /// Whether the model has these layers.
    pub(super) fn fits(&self, config: &ModelConfig) -> bool {
        self.layers.start <= self.layers.end && self.layers.end <= config.layers.len()
    }

    /// What the forward pass of this part needs to know: a model of its own layers.
    pub(super) fn config(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig { layers: config.layers[self.layers.clone()].to_vec(), ..config.clone() }
    }
}

/// One rank's place in a tensor-parallel group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// What all ranks hold.
    pub plan: ShardPlan,
    /// Which one this is; less than there are ranks.
    pub rank: usize,
}

impl Shard {
    /// What this rank holds.
    pub(super) fn mine(&self) -> &RankShare {
        &self.plan.ranks[self.rank]
    }

    /// What tells this rank's part of a model from others, in names of files.
    pub(super) fn name(&self) -> String {
        let RankShare { heads, kv_heads, ffn, vocab, head_dim: _ } = self.mine();
        format!("-r{}-{}-{heads:?}{kv_heads:?}{ffn:?}{vocab:?}", self.rank, self.plan.ranks.len())
    }
}
