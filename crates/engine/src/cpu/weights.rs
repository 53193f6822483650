//! Decides how a model's weights lie in memory for the CPU: each matrix packed, what is used together fused.
//!
//! Q, K and V become one matrix, so do gate and up, and the output projection doubles as the embedding table when the
//! model ties them.

use std::ops::Range;
use std::sync::Arc;

use wharf_kernels::{DType, PackError, PackedMatrix, block};
use wharf_model::MappedFile;
use wharf_model::weights::WeightsError;

use super::pack_cache::PackFault;

/// Why a model's weights could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model's heads are larger than the kernels' buffers.
    #[error("heads of {head_dim} elements are not supported; the largest is {most}")]
    HeadTooLarge {
        /// Elements of the model's heads.
        head_dim: usize,
        /// Most that is supported.
        most: usize,
    },
    /// A stage of layers that the model does not have.
    #[error("there are no layers {} to {} in a model of {of}", layers.start, layers.end)]
    Share {
        /// Layers asked for.
        layers: Range<usize>,
        /// Layers of the model.
        of: usize,
    },
    /// The system does not give the KV memory asked for.
    #[error("failed to reserve {bytes} bytes for the KV cache of {tokens} tokens; ask for a smaller one")]
    KvMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Tokens that they would hold.
        tokens: usize,
        /// The allocator's error.
        source: std::collections::TryReserveError,
    },
    /// A weight is missing.
    #[error("failed to find a weight")]
    Weight(#[from] WeightsError),
    /// A matrix cannot be packed.
    #[error("failed to pack {name}")]
    Pack {
        /// The tensor, or the first of those fused with it.
        name: String,
        /// Why.
        source: PackError,
    },
    /// A vector or row cannot be decoded.
    #[error("failed to decode {name}")]
    Decode {
        /// The tensor.
        name: String,
        /// Why.
        source: block::BlockError,
    },
    /// Packed weights of an earlier start do not fit the model. Loading answers by packing the model again.
    #[error("failed to take over packed weights")]
    Kept(#[from] PackFault),
}

/// One matrix with its bias.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) matrix: PackedMatrix,
    /// `(n)`, or empty.
    pub(super) bias: Vec<f32>,
}

/// One decoder layer. Norm weights are `(hidden)` or `(head_dim)`, empty where the architecture has none.
#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) attn_norm: Vec<f32>,
    /// `[q + k + v, hidden]`.
    pub(super) qkv: Linear,
    pub(super) q_norm: Vec<f32>,
    pub(super) k_norm: Vec<f32>,
    pub(super) o: Linear,
    pub(super) post_attn_norm: Vec<f32>,
    pub(super) ffn_norm: Vec<f32>,
    /// `[gate + up, hidden]`.
    /// No architecture has biases here.
    pub(super) gate_up: PackedMatrix,
    pub(super) down: Linear,
    pub(super) post_ffn_norm: Vec<f32>,
}

/// All weights of a stage.
#[derive(Debug)]
pub(super) struct CpuWeights {
    pub(super) layers: Vec<LayerWeights>,
    /// Where the stage predicts.
    pub(super) head: Option<Head>,
    /// Where it embeds.
    pub(super) embedding: Option<Embedding>,
    /// Tokens that both know.
    pub(super) vocab: Range<usize>,
}

/// What makes logits.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) norm: Vec<f32>,
    pub(super) output: PackedMatrix,
}

#[derive(Debug)]
pub(super) enum Embedding {
    /// Rows of the output projection.
    Tied,
    /// Rows as stored in the file.
    Own { dtype: DType, row_bytes: usize, table: Table },
}

/// The bytes of an embedding table.
#[derive(Debug)]
pub(super) enum Table {
    Owned(Vec<u8>),
    /// `len` bytes of packed weights from `offset` on.
    Kept {
        file: Arc<MappedFile>,
        offset: usize,
        len: usize,
    },
}

impl Table {
    fn bytes(&self) -> &[u8] {
        match self {
            Table::Owned(bytes) => bytes,
            Table::Kept { file, offset, len } => &file[*offset..*offset + *len],
        }
    }
}

impl CpuWeights {
    /// Whether no other rank has `token`.
    pub(super) fn holds(&self, token: u32) -> bool {
        self.vocab.contains(&(token as usize))
    }

    /// Embedding of `token`, which no other rank has: `(hidden)`.
    pub(super) fn embed(&self, token: u32, out: &mut [f32]) {
        let index = token as usize - self.vocab.start;
        match self.embedding.as_ref().expect("a stage that is given tokens embeds") {
            Embedding::Tied => {
                let head = self.head.as_ref().expect("only a stage with the output projection shares it");
                head.output.row(index, out);
            }
            Embedding::Own { dtype, row_bytes, table } => {
                let row = &table.bytes()[index * row_bytes..][..*row_bytes];
                block::dequantize(*dtype, row, out)
                    .expect("the row's length was checked when the file was opened");
            }
        }
    }

    /// Bytes of packed weights, in memory of our own or mapped.
    pub(super) fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(LayerWeights::bytes).sum();
        let embedding = match &self.embedding {
            None | Some(Embedding::Tied) => 0,
            Some(Embedding::Own { table, .. }) => table.bytes().len(),
        };
        let output = self.head.as_ref().map_or(0, |head| head.output.bytes());
        layers + output + embedding
    }
}

impl LayerWeights {
    fn bytes(&self) -> usize {
        [&self.qkv.matrix, &self.o.matrix, &self.gate_up, &self.down.matrix]
            .iter()
            .map(|matrix| matrix.bytes())
            .sum()
    }
}
