//! Decides which kernels a pass launches, in which order, over which memory.

use std::cell::RefCell;
use std::collections::HashMap;

use wharf_engine::BLOCK_TOKENS;
use wharf_model::ModelConfig;
use wharf_model::config::{Activation, RopeLayout};

use crate::HEAD_DIMS;
use crate::driver::{Address, Arg, Buffer, DeviceError, Gpu, Grid, Kernel};
use crate::format::{CHUNK, Kind, TILE};
use crate::layout::{LOGIT_ROWS, Limits, Offsets, Shape};
use crate::weights::{Layer, Linear, Matrix, Weights};

/// Threads of a block that normalises a row.
const NORM_THREADS: u32 = 256;
/// Threads of a block that rotates a row.
const ROTATE_THREADS: u32 = 128;
/// Threads of a block of attention.
const ATTEND_THREADS: u32 = 128;
/// Threads of a block that multiplies.
pub(crate) const MATMUL_THREADS: u32 = 256;
/// Most tokens that the warps of a block compute by sharing columns.
const FEW_TOKENS: usize = 64;
/// Tokens, and tiles of rows, of a block where there are more.
pub(crate) const MANY: (usize, usize) = (128, 8);

/// What becomes of a product: `Epilogue` in `kernels/matmul.cu`.
#[derive(Clone, Copy)]
enum Epilogue {
    Set,
    Add,
    Gated(Activation),
}

impl Epilogue {
    fn number(self) -> i32 {
        match self {
            Epilogue::Set => 0,
            Epilogue::Add => 1,
            Epilogue::Gated(Activation::Silu) => 2,
            Epilogue::Gated(Activation::GeluTanh) => 3,
            Epilogue::Gated(Activation::GeluErf) => 4,
        }
    }
}

/// What lies between kernels, kept from pass to pass. Rows are tokens; what products read is padded to whole chunks with zeros.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `(rows, hidden)`, 16 bits.
    normed: Buffer,
    /// `(rows, q + k + v)`, single precision.
    qkv: Buffer,
    /// `(rows, n_heads, head_dim)`, half precision; heads are filled up.
    q: Buffer,
    /// `(rows, n_heads * head_dim)`, 16 bits.
    attended: Buffer,
    /// `(rows, ffn)`, 16 bits.
    gated: Buffer,
    /// `(rows, hidden)`, single precision: what is normalised before it joins the residual stream.
    branch: Buffer,
    /// What splits of attention leave for each other.
    partials: Buffer,
    /// `(LOGIT_ROWS, vocab)`, single precision.
    pub(crate) logits: Buffer,
}

impl Scratch {
    /// For passes of up to `rows` rows.
    pub(crate) fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        limits: Limits,
        rows: usize,
    ) -> Result<Scratch, DeviceError> {
        let sizes = Sizes::of(config, limits, rows);
        Ok(Scratch {
            normed: gpu.alloc(sizes.normed)?,
            qkv: gpu.alloc(sizes.qkv)?,
            q: gpu.alloc(sizes.q)?,
            attended: gpu.alloc(sizes.attended)?,
            gated: gpu.alloc(sizes.gated)?,
            branch: gpu.alloc(sizes.branch)?,
            partials: gpu.alloc(sizes.partials)?,
            logits: gpu.alloc(sizes.logits)?,
        })
    }
}

/// Bytes of what lies between kernels.
struct Sizes {
    normed: usize,
    qkv: usize,
    q: usize,
    attended: usize,
    gated: usize,
    branch: usize,
    partials: usize,
    logits: usize,
}

impl Sizes {
    fn of(config: &ModelConfig, limits: Limits, rows: usize) -> Sizes {
        let (q, filled) = (config.n_heads * config.head_dim, stride(config));
        let qkv = q + 2 * config.n_kv_heads * config.head_dim;
        Sizes {
            normed: rows * padded(config.hidden_size) * 2,
            qkv: rows * qkv * 4,
            q: rows * config.n_heads * filled * 2,
            attended: rows * padded(q) * 2,
            gated: rows * padded(config.ffn_size) * 2,
            branch: if config.post_norms { rows * config.hidden_size * 4 } else { 0 },
            partials: limits.most_parts() * TILE * (filled + 2) * 4,
            logits: LOGIT_ROWS * config.vocab_size * 4,
        }
    }
}

/// Bytes that [`Scratch`] takes for passes of up to `rows` rows.
pub(crate) fn scratch_bytes(config: &ModelConfig, limits: Limits, rows: usize) -> usize {
    let Sizes { normed, qkv, q, attended, gated, branch, partials, logits } = Sizes::of(config, limits, rows);
    normed + qkv + q + attended + gated + branch + partials + logits
}

/// Elements of a row that products read.
fn padded(width: usize) -> usize {
    width.next_multiple_of(CHUNK)
}

/// Elements that a head takes where it is attended to.
fn stride(config: &ModelConfig) -> usize {
    let fits = HEAD_DIMS.into_iter().find(|dim| *dim >= config.head_dim);
    fits.expect("models with larger heads are not loaded")
}

/// Bytes of keys and values of one position.
pub(crate) fn kv_bytes_per_token(config: &ModelConfig) -> usize {
    config.layers.len() * kv_layer_bytes_per_token(config)
}

fn kv_layer_bytes_per_token(config: &ModelConfig) -> usize {
    config.n_kv_heads * 2 * stride(config) * 2
}

/// The kernels of a module, each looked up once.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    known: RefCell<HashMap<String, Kernel>>,
}

impl Kernels {
    fn launch(&self, gpu: &Gpu, name: &str, grid: Grid, arguments: &[Arg]) -> Result<(), DeviceError> {
        let mut known = self.known.borrow_mut();
        if !known.contains_key(name) {
            known.insert(name.to_owned(), gpu.kernel(name)?);
        }
        gpu.launch(&known[name], grid, arguments)
    }
}

/// Everything that launches read.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) kernels: &'a Kernels,
    pub(crate) config: &'a ModelConfig,
    pub(crate) weights: &'a Weights,
    pub(crate) scratch: &'a Scratch,
    /// Keys and values: `[layer][block]`, each block as `kernels/pages.cuh` has it.
    pub(crate) kv: &'a Buffer,
    pub(crate) kv_blocks: usize,
    pub(crate) limits: Limits,
    /// What the pass has sent.
    pub(crate) pass: &'a Buffer,
    pub(crate) offsets: &'a Offsets,
    pub(crate) shape: Shape,
}

impl Forward<'_> {
    /// All layers: the residual stream of all rows is where their embeddings were.
    pub(crate) fn layers(&self) -> Result<(), DeviceError> {
        self.weights.layers.iter().enumerate().try_for_each(|(index, layer)| self.layer(index, layer))
    }

    /// Logits of some of the rows that need them, at most [`LOGIT_ROWS`].
    pub(crate) fn logits(&self, first: usize, count: usize) -> Result<(), DeviceError> {
        let rows = self.pass.at(self.offsets.logit_rows + 4 * first);
        let output = &self.weights.output;
        self.norm(rows, &self.weights.norm, output.kind(), count)?;
        let logits = self.scratch.logits.at(0);
        self.linear(output, self.scratch.normed.at(0), count, logits, Epilogue::Set)?;
        let ModelConfig { logit_scale, logit_softcap, vocab_size, .. } = *self.config;
        if logit_scale == 1.0 && logit_softcap.is_none() {
            return Ok(());
        }
        let len = count * vocab_size;
        let blocks = len.div_ceil(NORM_THREADS as usize).min(8 * self.limits.multiprocessors);
        self.launch(
            "wharf_logits",
            [blocks, 1, 1],
            NORM_THREADS,
            &[Arg::Address(logits), int(len), Arg::F32(logit_scale), Arg::F32(logit_softcap.unwrap_or(0.0))],
        )
    }

    fn layer(&self, index: usize, layer: &Layer) -> Result<(), DeviceError> {
        let Scratch { normed, qkv, attended, gated, .. } = self.scratch;
        let rows = self.shape.rows;
        let x = self.pass.at(self.offsets.x);
        self.norm(Address::NULL, &layer.attn_norm, layer.qkv.kind(), rows)?;
        self.linear(&layer.qkv, normed.at(0), rows, qkv.at(0), Epilogue::Set)?;
        self.rotate(index, layer)?;
        self.attend(index, layer.o.kind())?;
        self.residual(&layer.o, layer.post_attn_norm.as_ref(), attended.at(0), x)?;

        self.norm(Address::NULL, &layer.ffn_norm, layer.gate_up.format.kind(), rows)?;
        let ffn = padded(self.config.ffn_size);
        let act = Epilogue::Gated(self.config.activation);
        let output = Output {
            to: gated.at(0),
            bias: Address::NULL,
            width: ffn,
            epilogue: act,
            kind: layer.down.kind(),
        };
        self.multiply(&layer.gate_up, normed.at(0), rows, output)?;
        self.residual(&layer.down, layer.post_ffn_norm.as_ref(), gated.at(0), x)
    }

    /// `normed = norm(x[rows]) * weight`; all rows in order where `rows` is null.
    fn norm(&self, rows: Address, weight: &Buffer, kind: Kind, count: usize) -> Result<(), DeviceError> {
        let hidden = self.config.hidden_size;
        let arguments = [
            Arg::Address(self.pass.at(self.offsets.x)),
            Arg::Address(rows),
            Arg::Address(weight.at(0)),
            Arg::Address(self.scratch.normed.at(0)),
            int(hidden),
            int(padded(hidden)),
            Arg::F32(self.config.norm_eps),
            Arg::I32(kind.number()),
        ];
        self.launch("wharf_norm", [count, 1, 1], NORM_THREADS, &arguments)
    }

    /// `x += from W^T + bias`, with the architecture's norm in between if it has one.
    fn residual(
        &self,
        linear: &Linear,
        norm: Option<&Buffer>,
        from: Address,
        x: Address,
    ) -> Result<(), DeviceError> {
        let rows = self.shape.rows;
        let Some(norm) = norm else { return self.linear(linear, from, rows, x, Epilogue::Add) };
        let branch = self.scratch.branch.at(0);
        self.linear(linear, from, rows, branch, Epilogue::Set)?;
        let arguments = [
            Arg::Address(x),
            Arg::Address(branch),
            Arg::Address(norm.at(0)),
            int(self.config.hidden_size),
            Arg::F32(self.config.norm_eps),
        ];
        self.launch("wharf_branch", [rows, 1, 1], NORM_THREADS, &arguments)
    }

    fn rotate(&self, index: usize, layer: &Layer) -> Result<(), DeviceError> {
        let ModelConfig { n_heads, n_kv_heads, head_dim, norm_eps, attn_scale, .. } = *self.config;
        let rope = self.config.layers[index].rope;
        let (cos, sin) = self.offsets.rotations[rope];
        let norm =
            |norm: &Option<Buffer>| Arg::Address(norm.as_ref().map_or(Address::NULL, |norm| norm.at(0)));
        let arguments = [
            Arg::Address(self.scratch.qkv.at(0)),
            Arg::Address(self.pass.at(self.offsets.slots)),
            Arg::Address(self.pass.at(cos)),
            Arg::Address(self.pass.at(sin)),
            norm(&layer.q_norm),
            norm(&layer.k_norm),
            Arg::Address(self.scratch.q.at(0)),
            Arg::Address(self.pages(index)),
            int(n_heads),
            int(n_kv_heads),
            int(head_dim),
            int(stride(self.config)),
            int(self.config.ropes[rope].inv_freq.len()),
            Arg::I32(i32::from(self.config.rope_layout == RopeLayout::Interleaved)),
            Arg::F32(norm_eps),
            Arg::F32(attn_scale),
        ];
        self.launch("wharf_rotate", [self.shape.rows, 1, 1], ROTATE_THREADS, &arguments)
    }

    fn attend(&self, index: usize, kind: Kind) -> Result<(), DeviceError> {
        let ModelConfig { n_heads, n_kv_heads, head_dim, attn_softcap, .. } = *self.config;
        let Shape { tiles, splits, split_pages, .. } = self.shape;
        let (group, width) = (n_heads / n_kv_heads, padded(n_heads * head_dim));
        let tile_rows = Arg::Address(self.pass.at(self.offsets.tiles));
        let (out, partials) = (self.scratch.attended.at(0), self.scratch.partials.at(0));
        let arguments = [
            Arg::Address(self.scratch.q.at(0)),
            Arg::Address(self.pages(index)),
            tile_rows,
            Arg::Address(self.pass.at(self.offsets.table)),
            Arg::Address(out),
            Arg::Address(partials),
            int(group),
            int(n_kv_heads),
            int(head_dim),
            int(self.config.layers[index].window.unwrap_or(0)),
            Arg::F32(attn_softcap.unwrap_or(0.0)),
            int(split_pages),
            int(width),
            Arg::I32(kind.number()),
        ];
        let heads = self.limits.heads;
        let name = format!("wharf_attend_{}", stride(self.config));
        self.launch(&name, [tiles, heads, splits], ATTEND_THREADS, &arguments)?;
        if splits == 1 {
            return Ok(());
        }
        let arguments = [
            Arg::Address(partials),
            tile_rows,
            Arg::Address(out),
            int(group),
            int(splits),
            int(head_dim),
            int(stride(self.config)),
            int(width),
            Arg::I32(kind.number()),
        ];
        self.launch("wharf_merge", [tiles, heads, 1], ATTEND_THREADS, &arguments)
    }

    /// Keys and values of a layer.
    fn pages(&self, layer: usize) -> Address {
        self.kv.at(layer * self.kv_blocks * BLOCK_TOKENS * kv_layer_bytes_per_token(self.config))
    }

    /// `to = x W^T + bias` or `to += x W^T + bias`; `to` is `(tokens, rows of W)`.
    fn linear(
        &self,
        linear: &Linear,
        x: Address,
        tokens: usize,
        to: Address,
        epilogue: Epilogue,
    ) -> Result<(), DeviceError> {
        linear.matrices.iter().try_for_each(|matrix| {
            let bias = linear.bias.as_ref().map_or(Address::NULL, |bias| bias.at(4 * matrix.first));
            let to = to.plus(4 * matrix.first);
            self.multiply(
                matrix,
                x,
                tokens,
                Output { to, bias, width: linear.rows, epilogue, kind: Kind::Half },
            )
        })
    }

    fn multiply(
        &self,
        matrix: &Matrix,
        x: Address,
        tokens: usize,
        output: Output,
    ) -> Result<(), DeviceError> {
        let tiles = match output.epilogue {
            Epilogue::Gated(_) => (2 * matrix.rows).div_ceil(TILE),
            Epilogue::Set | Epilogue::Add => matrix.rows.div_ceil(TILE),
        };
        let (count, blocks) = if tokens <= FEW_TOKENS {
            let count = tokens.next_power_of_two().max(8);
            (count.to_string(), [tiles, tokens.div_ceil(count), 1])
        } else {
            ("many".to_owned(), [tiles.div_ceil(MANY.1), tokens.div_ceil(MANY.0), 1])
        };
        let arguments = [
            Arg::Address(matrix.codes.at(0)),
            Arg::Address(matrix.scales.at(0)),
            int(matrix.chunks),
            Arg::Address(x),
            int(tokens),
            Arg::Address(output.to),
            Arg::Address(output.bias),
            int(matrix.rows),
            int(output.width),
            Arg::I32(output.epilogue.number()),
            Arg::I32(output.kind.number()),
        ];
        let name = format!("wharf_matmul_{}_{count}", matrix.format.name());
        self.launch(&name, blocks, MATMUL_THREADS, &arguments)
    }

    fn launch(
        &self,
        name: &str,
        blocks: [usize; 3],
        threads: u32,
        arguments: &[Arg],
    ) -> Result<(), DeviceError> {
        let blocks = blocks.map(|count| u32::try_from(count).expect("grids are far below 2^32 blocks"));
        self.kernels.launch(self.gpu, name, Grid { blocks, threads, shared: 0 }, arguments)
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
struct Output {
    to: Address,
    bias: Address,
    /// Elements between rows.
    width: usize,
    epilogue: Epilogue,
    /// Of 16 bits where it is gated.
    kind: Kind,
}

fn int(value: usize) -> Arg {
    Arg::I32(i32::try_from(value).expect("sizes of a model and a pass are below 2^31"))
}
