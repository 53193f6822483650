//! A model's weights in device memory: each matrix as its kernels read it, what is used together in one.

use wharf_kernels::block::{BlockError, dequantize};
use wharf_kernels::{DType, Part};
use wharf_model::role::Role;
use wharf_model::weights::{TensorView, WeightsError};
use wharf_model::{Model, ModelConfig};

use crate::driver::{Buffer, DeviceError, Gpu};
use crate::format::{Format, Kind};
use crate::pack::{Order, common_format, pack};

/// Why a model could not be brought to a GPU.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No kernel has heads as large.
    #[error("heads of {head_dim} elements are not supported on CUDA devices; the largest is {most}")]
    HeadTooLarge {
        /// Elements of the model's heads.
        head_dim: usize,
        /// Most that is supported.
        most: usize,
    },
    /// A weight is missing.
    #[error("failed to find a weight")]
    Weight(#[from] WeightsError),
    /// A weight cannot be read.
    #[error("failed to decode {name}")]
    Decode {
        /// The tensor, or the first of those used with it.
        name: String,
        /// Why.
        source: BlockError,
    },
    /// The GPU has failed, or has no room.
    #[error("failed to bring {what} to the GPU")]
    Device {
        /// What was brought.
        what: String,
        /// Why.
        source: DeviceError,
    },
}

/// A matrix that a kernel multiplies with.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) format: Format,
    pub(crate) codes: Buffer,
    pub(crate) scales: Buffer,
    pub(crate) chunks: usize,
    /// Outputs; of gate and up together as many as of one.
    pub(crate) rows: usize,
    /// Where its outputs begin in a row of all outputs.
    pub(crate) first: usize,
}

/// Matrices that read the same, with a bias behind all.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) bias: Option<Buffer>,
    /// Outputs of all.
    pub(crate) rows: usize,
}

impl Linear {
    /// What it reads.
    pub(crate) fn kind(&self) -> Kind {
        self.matrices[0].format.kind()
    }
}

/// One decoder layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Buffer,
    pub(crate) qkv: Linear,
    pub(crate) q_norm: Option<Buffer>,
    pub(crate) k_norm: Option<Buffer>,
    pub(crate) o: Linear,
    pub(crate) post_attn_norm: Option<Buffer>,
    pub(crate) ffn_norm: Buffer,
    /// Rows of gate and up in pairs.
    pub(crate) gate_up: Matrix,
    pub(crate) down: Linear,
    pub(crate) post_ffn_norm: Option<Buffer>,
}

/// All weights but the embedding, whose rows are read on the host: a row for each token is little to send, the table much to hold.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Buffer,
    pub(crate) output: Linear,
    /// Bytes in device memory.
    pub(crate) bytes: usize,
}

impl Weights {
    /// Brings a model's weights to the GPU. `progress(done, total)` hears of every layer.
    pub(crate) fn load(
        gpu: &Gpu,
        model: &Model,
        threads: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Weights, LoadError> {
        let mut loader = Loader { gpu, model, threads, bytes: 0 };
        let total = model.config.layers.len() + 1;
        let mut layers = Vec::with_capacity(total - 1);
        for index in 0..total - 1 {
            layers.push(loader.layer(index)?);
            progress(index + 1, total);
        }
        let norm = loader.needed_norm(None, Role::OutputNorm)?;
        let output = loader.linear(None, &[Role::Output], &[])?;
        progress(total, total);
        Ok(Weights { layers, norm, output, bytes: loader.bytes })
    }
}

struct Loader<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    threads: usize,
    bytes: usize,
}

impl<'a> Loader<'a> {
    fn config(&self) -> &'a ModelConfig {
        &self.model.config
    }

    fn layer(&mut self, index: usize) -> Result<Layer, LoadError> {
        let layer = Some(index);
        Ok(Layer {
            attn_norm: self.needed_norm(layer, Role::AttnNorm)?,
            qkv: self.linear(
                layer,
                &[Role::Q, Role::K, Role::V],
                &[Role::QBias, Role::KBias, Role::VBias],
            )?,
            q_norm: self.norm(layer, Role::QNorm)?,
            k_norm: self.norm(layer, Role::KNorm)?,
            o: self.linear(layer, &[Role::O], &[Role::OBias])?,
            post_attn_norm: self.norm(layer, Role::PostAttnNorm)?,
            ffn_norm: self.needed_norm(layer, Role::FfnNorm)?,
            gate_up: self.gate_up(layer)?,
            down: self.linear(layer, &[Role::Down], &[])?,
            post_ffn_norm: self.norm(layer, Role::PostFfnNorm)?,
        })
    }

    fn views(&self, layer: Option<usize>, roles: &[Role]) -> Result<Vec<TensorView<'a>>, LoadError> {
        roles.iter().map(|role| Ok(self.model.weights.matrix(layer, *role)?)).collect()
    }

    fn linear(&mut self, layer: Option<usize>, roles: &[Role], biases: &[Role]) -> Result<Linear, LoadError> {
        let views = self.views(layer, roles)?;
        let rows = views.iter().map(|view| view.rows).sum();
        let formats: Vec<Format> = views.iter().map(|view| Format::of(view.dtype)).collect();
        let kinds_agree = formats.iter().all(|format| format.kind() == formats[0].kind());
        let mut matrices = Vec::new();
        let mut first = 0;
        if common_format(&parts(&views)).is_some() {
            matrices.push(self.matrix(&views, Order::Stacked, formats[0], 0)?);
        } else {
            for (view, format) in views.iter().zip(formats) {
                // All read the same activations: where these cannot be of one kind, they are half precision.
                let format = if kinds_agree { format } else { halved(format) };
                matrices.push(self.matrix(&[*view], Order::Stacked, format, first)?);
                first += view.rows;
            }
        }
        Ok(Linear { matrices, bias: self.bias(layer, &views, biases)?, rows })
    }

    fn gate_up(&mut self, layer: Option<usize>) -> Result<Matrix, LoadError> {
        let views = self.views(layer, &[Role::Gate, Role::Up])?;
        let format = common_format(&parts(&views)).unwrap_or(Format::Floats(Kind::Half));
        self.matrix(&views, Order::Paired, format, 0)
    }

    fn matrix(
        &mut self,
        views: &[TensorView<'_>],
        order: Order,
        format: Format,
        first: usize,
    ) -> Result<Matrix, LoadError> {
        let name = views[0].name;
        let packed = pack(&parts(views), views[0].cols, order, format, self.threads)
            .map_err(|source| LoadError::Decode { name: name.to_owned(), source })?;
        let codes = self.bring(name, &packed.codes)?;
        let scales: Vec<u8> = packed.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let scales = self.bring(name, &scales)?;
        for view in views {
            // Only memory is at stake.
            if let Err(error) = self.model.weights.release(view) {
                tracing::debug!(tensor = view.name, %error, "the system kept the pages of a tensor that is on the GPU");
            }
        }
        let rows = match order {
            Order::Stacked => views.iter().map(|view| view.rows).sum(),
            Order::Paired => views[0].rows,
        };
        Ok(Matrix { format, codes, scales, chunks: packed.chunks, rows, first })
    }

    fn bias(
        &mut self,
        layer: Option<usize>,
        views: &[TensorView<'_>],
        biases: &[Role],
    ) -> Result<Option<Buffer>, LoadError> {
        let biases: Vec<Option<TensorView<'_>>> =
            biases.iter().map(|role| self.model.weights.optional(layer, *role)).collect();
        if biases.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (view, bias) in views.iter().zip(&biases) {
            // Parts without a bias of their own add zero.
            all.extend(match bias {
                Some(bias) => floats(bias)?,
                None => vec![0.0; view.rows],
            });
        }
        self.bring_floats(views[0].name, &all).map(Some)
    }

    /// A norm's weights with the architecture's offset, if the architecture has such a norm.
    fn norm(&mut self, layer: Option<usize>, role: Role) -> Result<Option<Buffer>, LoadError> {
        let Some(view) = self.model.weights.optional(layer, role) else { return Ok(None) };
        let offset = self.config().norm_offset;
        let values: Vec<f32> = floats(&view)?.into_iter().map(|value| value + offset).collect();
        self.bring_floats(view.name, &values).map(Some)
    }

    fn needed_norm(&mut self, layer: Option<usize>, role: Role) -> Result<Buffer, LoadError> {
        self.norm(layer, role)?.ok_or(LoadError::Weight(WeightsError::Absent { role, layer }))
    }

    fn bring_floats(&mut self, name: &str, values: &[f32]) -> Result<Buffer, LoadError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bring(name, &bytes)
    }

    fn bring(&mut self, name: &str, bytes: &[u8]) -> Result<Buffer, LoadError> {
        let failed = |source| LoadError::Device { what: name.to_owned(), source };
        let buffer = self.gpu.alloc(bytes.len()).map_err(failed)?;
        self.gpu.upload(&buffer, 0, bytes).map_err(failed)?;
        self.bytes += bytes.len();
        Ok(buffer)
    }
}

/// A format that reads half precision and has as many bits.
fn halved(format: Format) -> Format {
    match format {
        Format::Floats(_) => Format::Floats(Kind::Half),
        integers => integers,
    }
}

fn parts<'a>(views: &[TensorView<'a>]) -> Vec<Part<'a>> {
    views.iter().map(|view| Part { dtype: view.dtype, rows: view.rows, data: view.data }).collect()
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, LoadError> {
    let mut values = vec![0.0; view.rows * view.cols];
    dequantize(view.dtype, view.data, &mut values)
        .map_err(|source| LoadError::Decode { name: view.name.to_owned(), source })?;
    Ok(values)
}

/// Rows of a model's embedding, read where they are mapped.
#[derive(Debug)]
pub(crate) struct Embedding {
    dtype: DType,
    row_bytes: usize,
}

impl Embedding {
    pub(crate) fn of(model: &Model) -> Result<Embedding, LoadError> {
        let view = model.weights.matrix(None, Role::TokenEmbedding)?;
        Ok(Embedding { dtype: view.dtype, row_bytes: view.data.len() / view.rows })
    }

    /// The row of `token`, a token of the model that this is of: `(hidden)`.
    pub(crate) fn read(&self, model: &Model, token: u32, to: &mut [f32]) -> Result<(), BlockError> {
        let view =
            model.weights.matrix(None, Role::TokenEmbedding).expect("it was there when the model was loaded");
        let row = &view.data[token as usize * self.row_bytes..][..self.row_bytes];
        dequantize(self.dtype, row, to)?;
        let scale = model.config.embedding_scale;
        if scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(())
    }
}
