//! Decides what the fullest GPU holds when a model is spread over several.
//!
//! Tensor-parallel ranks have whole key and value heads with the query heads that read them; what does not come out even is
//! uneven, and with more ranks than heads several hold the same one, as `wharf shard` cuts. Pipeline stages have whole layers.

use serde::Serialize;

use crate::shape::Shape;

/// Over how many GPUs a model is spread, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Split {
    /// Ranks that share every layer.
    pub tensor: u64,
    /// Stages that have some layers each.
    pub pipeline: u64,
}

impl Split {
    /// One GPU.
    pub const ONE: Split = Split { tensor: 1, pipeline: 1 };

    /// GPUs.
    pub fn gpus(self) -> u64 {
        self.tensor * self.pipeline
    }

    /// Whether every rank and every stage has something to do.
    pub fn is_possible(self, shape: &Shape) -> bool {
        (1..=shape.n_heads).contains(&self.tensor) && (1..=shape.n_layers).contains(&self.pipeline)
    }

    /// Whether all ranks hold the same amount.
    pub fn is_even(self, shape: &Shape) -> bool {
        let heads = shape.n_heads.is_multiple_of(self.tensor);
        let kv = shape.n_kv_heads.is_multiple_of(self.tensor) || self.tensor.is_multiple_of(shape.n_kv_heads);
        heads && kv && shape.n_layers.is_multiple_of(self.pipeline)
    }

    /// Shares of a model that its fullest GPU holds.
    pub fn shares(self, shape: &Shape) -> Shares {
        let Split { tensor, pipeline } = self;
        let kv_heads = shape.n_kv_heads.div_ceil(tensor);
        let of = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let group = shape.n_heads / shape.n_kv_heads.max(1);
        let queries = match tensor <= shape.n_kv_heads {
            true => kv_heads * group,
            // Ranks that share a head divide the queries that read it.
            false => group.div_ceil(tensor / shape.n_kv_heads),
        };
        let kv = of(kv_heads, shape.n_kv_heads);
        let (q_width, kv_width) = (shape.query_width() as f64, shape.kv_width() as f64);
        let attention = (of(queries, shape.n_heads) * q_width + kv * kv_width) / (q_width + kv_width);
        Shares {
            attention,
            kv,
            even: 1.0 / tensor as f64,
            layers: of(shape.n_layers.div_ceil(pipeline), shape.n_layers),
            ends: if pipeline == 1 { Ends::Both } else { Ends::Larger },
        }
    }
}

/// Parts of a whole that the fullest GPU holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Of the attention of a layer.
    pub attention: f64,
    /// Of the keys and values of a layer.
    pub kv: f64,
    /// Of what is cut evenly: feed-forward layers, experts, vocabulary.
    pub even: f64,
    /// Of the layers.
    pub layers: f64,
    /// Which of embedding and output projection.
    pub ends: Ends,
}

/// Ends of the model on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Both.
    Both,
    /// The first stage has one, the last the other: the larger counts.
    Larger,
}
