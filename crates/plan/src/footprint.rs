//! Decides how much memory a model takes on each GPU: a sum of named terms, each with a reason.
//!
//! ```text
//! weights      bytes of the scheme, cut by rank and stage
//! KV cache     streams × context × 2 × layers × KV heads × head dimension × bytes of an element
//! activations  tokens of a step × (2 × hidden + the widest of QKV with its result and gate with up) × 2 bytes
//! logits       streams × vocabulary × 4 bytes
//! runtime      CUDA context and kernels + graphs + workspace of matrix products + buffers between GPUs
//! ```

use std::collections::BTreeMap;

use serde::Serialize;

use crate::shape::{Group, Shape};
use crate::split::{Ends, Split};
use crate::types::TypeShare;

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// Half precision.
    #[default]
    F16,
    /// Signed bytes with a scale in single precision for each 32 elements.
    Int8,
    /// E4M3 with one scale for a tensor.
    Fp8,
}

impl KvType {
    /// Every type with its name.
    pub const ALL: [(&'static str, KvType); 3] =
        [("f16", KvType::F16), ("int8", KvType::Int8), ("fp8", KvType::Fp8)];

    /// `f16`, `int8` or `fp8`.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::Int8 => "int8",
            KvType::Fp8 => "fp8",
        }
    }

    /// Bytes of keys and values of one token, all layers together.
    pub fn bytes_per_token(self, shape: &Shape) -> u64 {
        let vector = match self {
            KvType::F16 => 2 * shape.head_dim,
            KvType::Int8 => shape.head_dim + 4 * shape.head_dim.div_ceil(32),
            KvType::Fp8 => shape.head_dim,
        };
        2 * shape.n_layers * shape.n_kv_heads * vector
    }
}

/// How much of what at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Tokens of prompt and answer of a stream.
    pub context: u64,
    /// Streams at the same time.
    pub streams: u64,
    /// Most tokens that are computed in one step.
    pub batch_tokens: u64,
    /// What keys and values are stored as.
    pub kv_cache: KvType,
}

/// Bytes on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Weights.
    pub weights: u64,
    /// Keys and values of all streams at full length.
    pub kv_cache: u64,
    /// What a step works with.
    pub activations: u64,
    /// Logits of all streams.
    pub logits: u64,
    /// What there is whatever the model is.
    pub runtime: Vec<Term>,
    /// All together.
    pub total: u64,
    /// The most that there is at any time: that, or more while the model is loaded.
    pub peak: u64,
}

/// A named number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// What it is.
    pub what: &'static str,
    /// How much.
    pub bytes: u64,
}

impl Footprint {
    pub(crate) fn sum(
        weights: u64,
        kv_cache: u64,
        activations: u64,
        logits: u64,
        runtime: Vec<Term>,
    ) -> Footprint {
        let terms: u64 = runtime.iter().map(|term| term.bytes).sum();
        // Keys and values of absurd loads saturate, and fit nowhere.
        let total = kv_cache.saturating_add(weights + activations + logits + terms);
        Footprint { weights, kv_cache, activations, logits, runtime, total, peak: total }
    }

    /// All but keys and values.
    pub fn fixed(&self) -> u64 {
        self.total - self.kv_cache
    }
}

/// The CUDA context of a process with the kernels that it has loaded: what `nvidia-smi` shows for an idle process with a large
/// library of kernels on a data-centre GPU, 400 to 600 MB.
const CONTEXT: u64 = 550 << 20;
/// Graphs of the steps of a few dozen batch sizes, with the memory that they keep.
const GRAPHS: u64 = 400 << 20;
/// Workspace of cuBLASLt and of attention that is split over a long context.
const WORKSPACE: u64 = 128 << 20;
/// Buffers of NCCL's channels and of all-reduces, where there is more than one GPU.
const BETWEEN: u64 = 300 << 20;

/// Bytes of all types of a group.
pub(crate) fn bytes(shares: &BTreeMap<Group, Vec<TypeShare>>, group: Group) -> u64 {
    shares.get(&group).into_iter().flatten().map(|share| share.bytes).sum()
}

/// What the fullest of the GPUs of `split` holds.
pub fn on_gpu(
    shape: &Shape,
    weights: &BTreeMap<Group, Vec<TypeShare>>,
    load: &Load,
    split: Split,
) -> Footprint {
    let shares = split.shares(shape);
    let of = |group| bytes(weights, group) as f64;
    let attention = of(Group::Layers) * shape.attention_share();
    let layer_bytes = attention * shares.attention + (of(Group::Layers) - attention) * shares.even;
    let inner = (layer_bytes + of(Group::Experts) * shares.even) * shares.layers;
    let (embedding, output) = (of(Group::Embedding), of(Group::Output));
    let ends = match shares.ends {
        Ends::Both => embedding + output,
        // A tied embedding is on both ends.
        Ends::Larger => embedding.max(output),
    };
    let held = inner + ends * shares.even + of(Group::Rest) * shares.layers;
    let tokens = (load.streams * load.context) as f64;
    let kv_cache = tokens * load.kv_cache.bytes_per_token(shape) as f64 * shares.kv * shares.layers;
    let mut runtime = vec![
        Term { what: "CUDA context and kernels", bytes: CONTEXT },
        Term { what: "graphs", bytes: GRAPHS },
        Term { what: "workspace", bytes: WORKSPACE },
    ];
    if split.gpus() > 1 {
        runtime.push(Term { what: "buffers between GPUs", bytes: BETWEEN });
    }
    let logits = load.streams * shape.vocab_size * 4;
    Footprint::sum(
        held.round() as u64,
        kv_cache.round() as u64,
        activations(shape, load, split),
        logits,
        runtime,
    )
}

fn activations(shape: &Shape, load: &Load, split: Split) -> u64 {
    let attended = 2 * (shape.query_width() + shape.kv_width()).div_ceil(split.tensor);
    let inner = match shape.experts {
        None => shape.ffn_size,
        Some(experts) => shape.ffn_size.max(experts.ffn_size * experts.active + experts.shared_ffn_size),
    };
    let gated = 2 * inner.div_ceil(split.tensor);
    load.batch_tokens * (2 * shape.hidden_size + attended.max(gated)) * 2
}
