//! The backend that computes on one NVIDIA GPU.
//!
//! A pass sends what it is about, launches the kernels of every layer, and fetches logits. Passes of one token a sequence are recorded as graphs,
//! one for each [`Shape`], so that the host makes three calls for a token instead of hundreds.
//!
//! Results are the same from run to run for the same batch. Unlike on the CPU they are not the same bits for another batch: how the columns of a
//! product are added up, and how a sequence's positions are split, depends on how many rows there are.

use std::collections::HashMap;

use wharf_engine::{BLOCK_TOKENS, Backend, BackendError, Chunk, Logits, check_chunks};
use wharf_model::{Model, ModelConfig};

use crate::HEAD_DIMS;
use crate::driver::{Buffer, DeviceError, Gpu, Graph, Memory, Staging};
use crate::forward::{Forward, Kernels, Scratch, kv_bytes_per_token, scratch_bytes};
use crate::layout::{self, LOGIT_ROWS, Limits, Offsets, Shape};
use crate::memory::{Needs, Share, kv_blocks};
use crate::weights::{Embedding, LoadError, Weights, matrix_bytes};

/// Graphs that are kept. Each is a few hundred launches; the number of shapes is the product of some powers of two.
const MOST_GRAPHS: usize = 128;

/// Bytes of a GPU that are left alone: the driver's graphs and code, and allocations, which are rounded up.
const RESERVE: u64 = 512 << 20;

/// How a CUDA backend is set up.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// Tokens that the KV memory holds, rounded up to whole blocks.
    pub kv_tokens: usize,
    /// Most tokens of one pass.
    pub max_batch_tokens: usize,
    /// Threads that bring weights into the order that the GPU reads.
    pub threads: usize,
}

/// Weights and KV memory on a GPU.
pub struct CudaBackend {
    model: Model,
    embedding: Embedding,
    weights: Weights,
    scratch: Scratch,
    kv: Buffer,
    kv_blocks: usize,
    max_batch_tokens: usize,
    limits: Limits,
    kernels: Kernels,
    /// What passes send, here and there.
    staging: Staging,
    pass: Buffer,
    /// What they fetch: `(LOGIT_ROWS, vocab)`.
    fetched: Staging,
    /// Of shapes that have come more than once; nothing yet where there was one pass.
    graphs: HashMap<Shape, Option<Graph>>,
    /// One pass, as it is sent.
    image: Vec<u8>,
    gpu: Gpu,
}

impl CudaBackend {
    /// Bytes that are left for keys and values once the model's weights are on the GPU, within a share of its memory.
    ///
    /// # Errors
    /// When there is not room for one block, and when the GPU or the model fails.
    pub fn room(gpu: &Gpu, model: &Model, share: Share, max_batch_tokens: usize) -> Result<u64, LoadError> {
        let config = &model.config;
        let limits = Limits::new(config, gpu.multiprocessors());
        let weights = matrix_bytes(model)? as u64;
        let activations =
            scratch_bytes(config, limits, rows(max_batch_tokens)) + pass_bytes(config, max_batch_tokens);
        let block = (BLOCK_TOKENS * kv_bytes_per_token(config)) as u64;
        let memory =
            gpu.memory().map_err(|source| LoadError::Device { what: "the model".to_owned(), source })?;
        // As it will be with the weights loaded.
        let memory = Memory { free: memory.free.saturating_sub(weights), ..memory };
        let needs =
            Needs { share, weights, activations: activations as u64, reserve: RESERVE, block, least: 1 };
        Ok(kv_blocks(memory, needs)? as u64 * block)
    }

    /// Bytes of keys and values of one position.
    pub fn kv_bytes_per_token(config: &ModelConfig) -> usize {
        kv_bytes_per_token(config)
    }

    /// Brings a model to a GPU; its files stay mapped, since embeddings are read from them. `progress(done, total)` hears of every layer.
    ///
    /// # Errors
    /// When a weight is missing or malformed, no kernel has heads as large, or the GPU has no room.
    pub fn load(
        gpu: Gpu,
        model: Model,
        options: &CudaOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CudaBackend, LoadError> {
        let config = &model.config;
        let most = HEAD_DIMS[HEAD_DIMS.len() - 1];
        if config.head_dim > most {
            return Err(LoadError::HeadTooLarge { head_dim: config.head_dim, most });
        }
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| LoadError::Device { what, source }
        };
        let limits = Limits::new(config, gpu.multiprocessors());
        let kv_blocks = options.kv_tokens.div_ceil(BLOCK_TOKENS);
        let weights = Weights::load(&gpu, &model, options.threads, progress)?;
        let memory = failed("memory for activations");
        let scratch = Scratch::new(&gpu, config, limits, rows(options.max_batch_tokens)).map_err(memory)?;
        let kv_bytes = kv_blocks * BLOCK_TOKENS * kv_bytes_per_token(config);
        let kv = gpu.alloc(kv_bytes).map_err(failed("memory for keys and values"))?;
        let len = pass_bytes(config, options.max_batch_tokens);
        let pass = gpu.alloc(len).map_err(failed("memory for batches"))?;
        let staging = gpu.staging(len).map_err(failed("memory for batches"))?;
        let fetched = gpu.staging(LOGIT_ROWS * config.vocab_size * 4).map_err(failed("memory for logits"))?;
        Ok(CudaBackend {
            embedding: Embedding::of(&model)?,
            weights,
            scratch,
            kv,
            kv_blocks,
            max_batch_tokens: options.max_batch_tokens,
            limits,
            kernels: Kernels::default(),
            staging,
            pass,
            fetched,
            graphs: HashMap::new(),
            image: Vec::new(),
            gpu,
            model,
        })
    }

    /// Bytes of weights on the GPU.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Passes that are recorded.
    pub fn graphs(&self) -> usize {
        self.graphs.values().flatten().count()
    }

    /// What the pass sends.
    fn write(&mut self, chunks: &[Chunk<'_>], shape: Shape, offsets: &Offsets) -> Result<(), BackendError> {
        let config = &self.model.config;
        self.image.clear();
        self.image.resize(offsets.len, 0);
        layout::write(chunks, shape, self.limits, offsets, config, &mut self.image);
        let mut row = vec![0.0; config.hidden_size];
        let rows = self.image[offsets.x..].chunks_exact_mut(4 * config.hidden_size);
        for (token, to) in chunks.iter().flat_map(|chunk| chunk.tokens).zip(rows) {
            self.embedding.read(&self.model, *token, &mut row).map_err(|source| BackendError::Device {
                doing: format!("reading the embedding of token {token}"),
                source: source.into(),
            })?;
            for (to, value) in to.as_chunks_mut().0.iter_mut().zip(&row) {
                *to = value.to_le_bytes();
            }
        }
        self.grow(offsets.len)
            .and_then(|()| self.staging.write(0, &self.image))
            .map_err(device("sending a batch"))
    }

    /// Makes room for a pass whose sequences share more blocks than was foreseen. Graphs know the old place.
    fn grow(&mut self, len: usize) -> Result<(), DeviceError> {
        if len > self.pass.len() {
            self.graphs.clear();
            self.pass = self.gpu.alloc(len.next_power_of_two())?;
            self.staging = self.gpu.staging(len.next_power_of_two())?;
        }
        Ok(())
    }

    fn pass<'a>(&'a self, shape: Shape, offsets: &'a Offsets) -> Forward<'a> {
        Forward {
            gpu: &self.gpu,
            kernels: &self.kernels,
            config: &self.model.config,
            weights: &self.weights,
            scratch: &self.scratch,
            kv: &self.kv,
            kv_blocks: self.kv_blocks,
            limits: self.limits,
            pass: &self.pass,
            offsets,
            shape,
        }
    }

    /// A pass of one token a sequence: sends, computes and fetches as one graph. The first of a shape goes launch by launch: the driver
    /// loads kernels when they are first launched, which it does not do while it records.
    fn steady(&mut self, shape: Shape, offsets: &Offsets, logits: &mut [f32]) -> Result<(), DeviceError> {
        match self.graphs.get(&shape) {
            None => {
                self.once(shape, offsets, logits)?;
                if self.graphs.len() >= MOST_GRAPHS {
                    self.graphs.clear();
                }
                self.graphs.insert(shape, None);
                return Ok(());
            }
            Some(None) => {
                let graph = self.record(shape, offsets)?;
                self.graphs.insert(shape, Some(graph));
            }
            Some(Some(_)) => {}
        }
        let graph = self.graphs[&shape].as_ref().expect("it was just recorded, or before");
        self.gpu.replay(graph)?;
        self.fetched.read(0, bytemuck::cast_slice_mut(logits))
    }

    fn record(&self, shape: Shape, offsets: &Offsets) -> Result<Graph, DeviceError> {
        let bytes = shape.logits * self.model.config.vocab_size * 4;
        let forward = self.pass(shape, offsets);
        self.gpu.capture(|| {
            self.gpu.send(&self.staging, 0..offsets.len, &self.pass, 0)?;
            forward.layers()?;
            forward.logits(0, shape.logits)?;
            self.gpu.fetch(&self.scratch.logits, 0, &self.fetched, 0..bytes)
        })
    }

    /// Any other pass: launch by launch, logits in pieces.
    fn once(&mut self, shape: Shape, offsets: &Offsets, logits: &mut [f32]) -> Result<(), DeviceError> {
        self.gpu.send(&self.staging, 0..offsets.len, &self.pass, 0)?;
        let forward = self.pass(shape, offsets);
        forward.layers()?;
        let vocab = self.model.config.vocab_size;
        for (index, logits) in logits.chunks_mut(LOGIT_ROWS * vocab).enumerate() {
            let count = logits.len() / vocab;
            forward.logits(index * LOGIT_ROWS, count)?;
            self.gpu.fetch(&self.scratch.logits, 0, &self.fetched, 0..count * vocab * 4)?;
            self.fetched.read(0, bytemuck::cast_slice_mut(logits))?;
        }
        Ok(())
    }
}

impl Backend for CudaBackend {
    fn vocab_size(&self) -> usize {
        self.model.config.vocab_size
    }

    fn kv_blocks(&self) -> usize {
        self.kv_blocks
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        let vocab = self.vocab_size();
        check_chunks(chunks, vocab, self.kv_blocks, self.max_batch_tokens)?;
        let wanted: usize = chunks.iter().map(|chunk| chunk.logits.rows(chunk.tokens.len())).sum();
        let shape = Shape::new(chunks, self.limits);
        let offsets = shape.offsets(&self.model.config);
        self.write(chunks, shape, &offsets)?;
        let values = logits.reset(wanted, vocab);
        if shape.steady {
            self.steady(shape, &offsets, values).map_err(device("computing a token for each sequence"))
        } else {
            self.once(shape, &offsets, values).map_err(device("computing a batch"))
        }
    }
}

/// Rows that a pass of so many tokens has at most.
fn rows(max_batch_tokens: usize) -> usize {
    max_batch_tokens.max(LOGIT_ROWS)
}

/// Bytes that most passes send.
fn pass_bytes(config: &ModelConfig, max_batch_tokens: usize) -> usize {
    let rows = rows(max_batch_tokens);
    let table = rows.max(config.context_length.div_ceil(BLOCK_TOKENS));
    let shape = Shape { rows, tiles: rows, table, logits: rows, splits: 1, split_pages: 1, steady: false };
    shape.offsets(config).len
}

/// As the engine hears of what happened to the GPU.
fn device(doing: &'static str) -> impl Fn(DeviceError) -> BackendError {
    move |source| match source {
        DeviceError::Lost { .. } => {
            let why = std::error::Error::source(&source).map(ToString::to_string).unwrap_or_default();
            BackendError::Lost(format!("{source}: {why}"))
        }
        source => BackendError::Device { doing: doing.to_owned(), source: Box::new(source) },
    }
}
