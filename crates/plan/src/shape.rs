//! Decides how many parameters a model has and what each of them is for.

use std::collections::BTreeMap;

use serde::Serialize;
use wharf_model::ModelConfig;

use crate::types::TypeShare;

/// What weights are for, as far as memory and speed ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Input embedding. A row of it is read for a token, unless it is the output projection too.
    Embedding,
    /// Output projection where it is not the embedding.
    Output,
    /// Matrices of attention and of feed-forward layers that every token goes through.
    Layers,
    /// Matrices of experts.
    Experts,
    /// Norms, biases and what else is small; vision towers.
    Rest,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 5] = [Group::Embedding, Group::Output, Group::Layers, Group::Experts, Group::Rest];
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u64,
    /// Experts that a token goes through.
    pub active: u64,
    /// Inner width of each.
    pub ffn_size: u64,
    /// Inner width of the feed-forward layer that every token goes through beside them; 0 for none.
    pub shared_ffn_size: u64,
    /// Leading layers without experts.
    pub dense_layers: u64,
}

/// What the headers of a checkpoint say about its size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shape {
    /// Name of the model.
    pub name: String,
    /// Architecture as the files call it.
    pub architecture: String,
    /// Whether Wharf's own engine computes it; other runtimes may.
    pub served: bool,
    /// Layers.
    pub n_layers: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Inner width of feed-forward layers without experts.
    pub ffn_size: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Key and value heads.
    pub n_kv_heads: u64,
    /// Elements of a head.
    pub head_dim: u64,
    /// Tokens of the vocabulary.
    pub vocab_size: u64,
    /// Longest sequence.
    pub context_length: u64,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Elements of norms in each layer.
    pub norms_per_layer: u64,
    /// The mixture of experts, if it is one.
    pub experts: Option<Experts>,
    /// What the weights are stored as.
    pub stored: BTreeMap<Group, Vec<TypeShare>>,
}

/// One matrix of a layer: `rows` outputs, `cols` inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) group: Group,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    /// How many a model has of them.
    pub(crate) count: u64,
    /// Whether quantisers favour it in some layers: values and down projections.
    pub(crate) favoured: bool,
}

impl Matrix {
    pub(crate) fn elements(&self) -> u64 {
        self.rows * self.cols * self.count
    }
}

impl Shape {
    /// The shape of a model that Wharf serves; `stored` is left empty.
    pub fn of_config(config: &ModelConfig, name: String) -> Shape {
        let norms = 2 + if config.post_norms { 2 } else { 0 };
        let qk_norms = if config.qk_norm { 2 * config.head_dim } else { 0 };
        Shape {
            name,
            architecture: config.architecture.clone(),
            served: true,
            n_layers: config.layers.len() as u64,
            hidden_size: config.hidden_size as u64,
            ffn_size: config.ffn_size as u64,
            n_heads: config.n_heads as u64,
            n_kv_heads: config.n_kv_heads as u64,
            head_dim: config.head_dim as u64,
            vocab_size: config.vocab_size as u64,
            context_length: config.context_length as u64,
            tied_embeddings: config.tied_embeddings,
            norms_per_layer: (norms * config.hidden_size + qk_norms) as u64,
            experts: None,
            stored: BTreeMap::new(),
        }
    }

    /// Whether the sizes are those of a model that somebody could have: what a header says is not to be believed unchecked, and
    /// everything after this multiplies without looking.
    pub(crate) fn is_plausible(&self) -> bool {
        let sizes = [self.n_layers, self.n_heads, self.n_kv_heads, self.head_dim];
        let widths = [self.hidden_size, self.vocab_size, self.context_length];
        let (inner, count) = self.experts.map_or((0, 0), |e| (e.ffn_size.max(e.shared_ffn_size), e.count));
        let widest = (self.ffn_size.max(inner) as f64) * (count.max(1) as f64 + 1.0);
        let heads = 2.0 * (self.n_heads as f64 + self.n_kv_heads as f64) * self.head_dim as f64;
        let per_layer = self.hidden_size as f64 * (3.0 * widest + heads);
        sizes.iter().all(|n| (1..=1 << 16).contains(n))
            && widths.iter().all(|n| (1..=1 << 32).contains(n))
            && self.n_heads.is_multiple_of(self.n_kv_heads)
            && self.n_layers * self.n_kv_heads * self.head_dim < 1 << 28
            && widest <= f64::from(u32::MAX)
            && per_layer * self.n_layers as f64 + 2.0 * self.vocab_size as f64 * (self.hidden_size as f64)
                < 1e16
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> u64 {
        self.n_heads * self.head_dim
    }

    /// Width of all keys, or of all values, of a token in a layer.
    pub fn kv_width(&self) -> u64 {
        self.n_kv_heads * self.head_dim
    }

    /// Every matrix, those of the layers first.
    pub(crate) fn matrices(&self) -> Vec<Matrix> {
        let (hidden, q, kv) = (self.hidden_size, self.query_width(), self.kv_width());
        let matrix = |group, rows, cols, count, favoured| Matrix { group, rows, cols, count, favoured };
        let layers = |rows, cols, count| matrix(Group::Layers, rows, cols, count, false);
        let n = self.n_layers;
        let mut found = vec![
            layers(q, hidden, n),
            layers(kv, hidden, n),
            matrix(Group::Layers, kv, hidden, n, true),
            layers(hidden, q, n),
        ];
        let mut feed_forward = |group, inner, count| {
            if inner * count > 0 {
                found.push(matrix(group, inner, hidden, 2 * count, false));
                found.push(matrix(group, hidden, inner, count, true));
            }
        };
        match self.experts {
            None => feed_forward(Group::Layers, self.ffn_size, n),
            Some(Experts { count, active: _, ffn_size, shared_ffn_size, dense_layers }) => {
                let sparse = n.saturating_sub(dense_layers);
                feed_forward(Group::Layers, self.ffn_size, dense_layers);
                feed_forward(Group::Layers, shared_ffn_size, sparse);
                feed_forward(Group::Experts, ffn_size, sparse * count);
                // The router.
                found.push(layers(count, hidden, sparse));
            }
        }
        found.push(matrix(Group::Embedding, self.vocab_size, hidden, 1, false));
        if !self.tied_embeddings {
            found.push(matrix(Group::Output, self.vocab_size, hidden, 1, false));
        }
        found
    }

    /// Parameters of a group.
    pub fn elements(&self, group: Group) -> u64 {
        let rest = self.n_layers * self.norms_per_layer + self.hidden_size;
        let matrices = self.matrices().iter().filter(|m| m.group == group).map(Matrix::elements).sum();
        if group == Group::Rest { rest } else { matrices }
    }

    /// All parameters.
    pub fn parameters(&self) -> u64 {
        Group::ALL.into_iter().map(|group| self.elements(group)).sum()
    }

    /// Parameters that a token is multiplied with: not the input embedding, and of the experts only those that it goes through.
    pub fn active_parameters(&self) -> u64 {
        let output = self.vocab_size * self.hidden_size;
        self.elements(Group::Layers) + output + self.expert_elements(self.active_share())
    }

    /// Those of a group of layers that a token goes through, without the output projection.
    pub(crate) fn layer_parameters(&self) -> u64 {
        self.active_parameters() - self.vocab_size * self.hidden_size
    }

    fn expert_elements(&self, share: f64) -> u64 {
        (self.elements(Group::Experts) as f64 * share).round() as u64
    }

    /// Share of the experts that one token goes through; 1 without experts.
    fn active_share(&self) -> f64 {
        self.experts.map_or(1.0, |experts| experts.active as f64 / experts.count.max(1) as f64)
    }

    /// Share of the experts that at least one of `tokens` goes through, if each chooses evenly and for itself.
    pub fn touched_share(&self, tokens: u64) -> f64 {
        match self.experts {
            None => 1.0,
            Some(_) => 1.0 - (1.0 - self.active_share()).powf(tokens as f64),
        }
    }

    /// Share of the layers' matrices that belongs to attention.
    pub(crate) fn attention_share(&self) -> f64 {
        let attention = 2 * self.hidden_size * (self.query_width() + self.kv_width()) * self.n_layers;
        attention as f64 / self.elements(Group::Layers).max(1) as f64
    }
}
