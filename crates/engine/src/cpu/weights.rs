//! Decides how a model's weights lie in memory for the CPU: each matrix packed once, what is used together fused.
//!
//! Q, K and V become one matrix, so do gate and up, and the output projection doubles as the embedding table when the
//! model ties them. Pages of the file are given back as soon as they are packed.

use wharf_kernels::{DType, PackError, PackedMatrix, Part, Team, block};
use wharf_model::weights::{TensorView, WeightsError};
use wharf_model::{ModelConfig, Role, Weights};

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

/// All weights of a model.
#[derive(Debug)]
pub(super) struct CpuWeights {
    pub(super) layers: Vec<LayerWeights>,
    pub(super) output_norm: Vec<f32>,
    pub(super) output: PackedMatrix,
    embedding: Embedding,
}

#[derive(Debug)]
enum Embedding {
    /// Rows of the output projection.
    Tied,
    /// Rows as stored in the file.
    Own { dtype: DType, row_bytes: usize, data: Vec<u8> },
}

impl CpuWeights {
    /// Packs every weight; `loaded(done, total)` is called after each layer, in matrices.
    pub(super) fn load(
        config: &ModelConfig,
        weights: &Weights,
        team: &Team,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<CpuWeights, LoadError> {
        let loader = Loader { config, weights, team };
        let total = config.layers.len() + 1;
        let mut layers = Vec::with_capacity(config.layers.len());
        for index in 0..config.layers.len() {
            layers.push(loader.layer(index)?);
            loaded(index + 1, total);
        }
        let output_norm = loader.norm(None, Role::OutputNorm)?;
        let (output, embedding) = if config.tied_embeddings {
            (loader.pack(&[weights.matrix(None, Role::TokenEmbedding)?])?, Embedding::Tied)
        } else {
            let table = weights.matrix(None, Role::TokenEmbedding)?;
            let own = Embedding::Own {
                dtype: table.dtype,
                row_bytes: table.data.len() / table.rows,
                data: table.data.to_vec(),
            };
            loader.release(&table);
            (loader.pack(&[weights.matrix(None, Role::Output)?])?, own)
        };
        loaded(total, total);
        Ok(CpuWeights { layers, output_norm, output, embedding })
    }

    /// Embedding of `token`: `(hidden)`.
    pub(super) fn embed(&self, token: u32, out: &mut [f32]) {
        match &self.embedding {
            Embedding::Tied => self.output.row(token as usize, out),
            Embedding::Own { dtype, row_bytes, data } => {
                let row = &data[token as usize * row_bytes..][..*row_bytes];
                block::dequantize(*dtype, row, out)
                    .expect("the row's length was checked when the file was opened");
            }
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(LayerWeights::bytes).sum();
        let embedding = match &self.embedding {
            Embedding::Tied => 0,
            Embedding::Own { data, .. } => data.len(),
        };
        layers + self.output.bytes() + embedding
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

struct Loader<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    team: &'a Team,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> Result<LayerWeights, LoadError> {
        let layer = Some(index);
        let norm = |role| self.norm(layer, role);
        let linear = |matrices: &[Role], biases: &[Role]| self.linear(layer, matrices, biases);
        Ok(LayerWeights {
            attn_norm: norm(Role::AttnNorm)?,
            qkv: linear(&[Role::Q, Role::K, Role::V], &[Role::QBias, Role::KBias, Role::VBias])?,
            q_norm: norm(Role::QNorm)?,
            k_norm: norm(Role::KNorm)?,
            o: linear(&[Role::O], &[Role::OBias])?,
            post_attn_norm: norm(Role::PostAttnNorm)?,
            ffn_norm: norm(Role::FfnNorm)?,
            gate_up: self.linear(layer, &[Role::Gate, Role::Up], &[])?.matrix,
            down: linear(&[Role::Down], &[])?,
            post_ffn_norm: norm(Role::PostFfnNorm)?,
        })
    }

    fn linear(&self, layer: Option<usize>, matrices: &[Role], biases: &[Role]) -> Result<Linear, LoadError> {
        let views =
            matrices.iter().map(|role| self.weights.matrix(layer, *role)).collect::<Result<Vec<_>, _>>()?;
        let matrix = self.pack(&views)?;
        let mut bias = Vec::new();
        let mut first = 0;
        for (view, role) in views.iter().zip(biases) {
            if let Some(values) = self.weights.optional(layer, *role) {
                // Parts without a bias of their own (fused QKV where only Q has one) add zero.
                bias.resize(matrix.n(), 0.0);
                bias[first..first + view.rows].copy_from_slice(&self.vector(&values)?);
            }
            first += view.rows;
        }
        Ok(Linear { matrix, bias })
    }

    fn pack(&self, views: &[TensorView<'_>]) -> Result<PackedMatrix, LoadError> {
        let parts: Vec<Part<'_>> =
            views.iter().map(|view| Part { dtype: view.dtype, rows: view.rows, data: view.data }).collect();
        let packed = PackedMatrix::pack(&parts, views[0].cols, self.team)
            .map_err(|source| LoadError::Pack { name: views[0].name.to_owned(), source })?;
        views.iter().for_each(|view| self.release(view));
        Ok(packed)
    }

    /// Gives the file's pages back: they are not read again. Only memory is at stake, so a refusal is no failure.
    fn release(&self, view: &TensorView<'_>) {
        if let Err(error) = self.weights.release(view) {
            tracing::debug!(tensor = view.name, %error, "the system kept the pages of a packed tensor");
        }
    }

    /// A norm's weights with the architecture's offset; empty when the architecture has no such norm.
    fn norm(&self, layer: Option<usize>, role: Role) -> Result<Vec<f32>, LoadError> {
        let Some(view) = self.weights.optional(layer, role) else { return Ok(Vec::new()) };
        let mut values = self.vector(&view)?;
        values.iter_mut().for_each(|value| *value += self.config.norm_offset);
        Ok(values)
    }

    fn vector(&self, view: &TensorView<'_>) -> Result<Vec<f32>, LoadError> {
        let mut values = vec![0.0; view.rows * view.cols];
        block::dequantize(view.dtype, view.data, &mut values)
            .map_err(|source| LoadError::Decode { name: view.name.to_owned(), source })?;
        Ok(values)
    }
}
