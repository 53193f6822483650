//! Decides whose shapes are measured, and what a pass over them has to read and compute.
//!
//! Weights are random bits. A file has one layer, which is loaded for every layer: each has memory of its own on the GPU, and only the file is small.

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use wharf_kernels::DType;
use wharf_model::{Model, OpenError};
use wharf_testkit::TinyModel;

/// A decoder of Llama's kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) dtype: DType,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) ffn: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
    /// What is measured of it.
    pub(crate) asks: &'static [Ask],
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One token for each of `batch` sequences behind contexts of so many tokens, its own among them; their logits on the host.
    Decode { batch: usize, context: usize },
    /// A prompt into an empty context, without logits.
    Prefill { tokens: usize },
    /// A prompt into an empty context, until its first token is chosen.
    FirstToken { tokens: usize },
    /// A process from its start until it has chosen the first token of a prompt of so many.
    Start { tokens: usize },
}

const ASKS: &[Ask] = &[
    Ask::Decode { batch: 1, context: 128 },
    Ask::Decode { batch: 8, context: 128 },
    Ask::Decode { batch: 64, context: 128 },
    Ask::Prefill { tokens: 512 },
    Ask::Prefill { tokens: 2048 },
    Ask::FirstToken { tokens: 512 },
    Ask::Decode { batch: 1, context: 4096 },
    Ask::Decode { batch: 8, context: 4096 },
    Ask::Decode { batch: 64, context: 4096 },
    Ask::Start { tokens: 16 },
];

const SMOLLM2: Shape = Shape {
    name: "SmolLM2-135M",
    dtype: DType::BF16,
    layers: 30,
    hidden: 576,
    ffn: 1536,
    heads: 9,
    kv_heads: 3,
    vocab: 49152,
    asks: ASKS,
};

const LLAMA_8B: Shape = Shape {
    name: "Llama-3.1-8B",
    dtype: DType::BF16,
    layers: 32,
    hidden: 4096,
    ffn: 14336,
    heads: 32,
    kv_heads: 8,
    vocab: 128_256,
    asks: ASKS,
};

const SMALL: Shape = Shape {
    name: "small",
    dtype: DType::Q4_0,
    layers: 3,
    hidden: 64,
    ffn: 96,
    heads: 4,
    kv_heads: 2,
    vocab: 288,
    asks: &[
        Ask::Decode { batch: 1, context: 20 },
        Ask::Prefill { tokens: 40 },
        Ask::FirstToken { tokens: 5 },
        Ask::Start { tokens: 3 },
    ],
};

/// What is measured, the most wanted first: a budget that ends takes from the end.
pub(crate) fn all(small: bool) -> Vec<Shape> {
    if small {
        return vec![SMALL];
    }
    let of = |shape, dtype| Shape { dtype, ..shape };
    vec![
        SMOLLM2,
        LLAMA_8B,
        of(LLAMA_8B, DType::Q4_0),
        of(SMOLLM2, DType::Q4_0),
        of(LLAMA_8B, DType::Q8_0),
        of(LLAMA_8B, DType::Q4K),
    ]
}

impl Ask {
    /// Tokens that a run reads, or writes where it decodes.
    pub(crate) fn tokens(self) -> usize {
        match self {
            Ask::Decode { batch, .. } => batch,
            Ask::Prefill { tokens } | Ask::FirstToken { tokens } | Ask::Start { tokens } => tokens,
        }
    }

    /// Tokens that keys and values have to be held of.
    pub(crate) fn kv_tokens(self) -> usize {
        match self {
            Ask::Decode { batch, context } => batch * context,
            Ask::Prefill { tokens } | Ask::FirstToken { tokens } | Ask::Start { tokens } => tokens,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> String {
        match self {
            Ask::Decode { batch, context } => format!("decode {batch} at {context}"),
            Ask::Prefill { tokens } => format!("prefill {tokens}"),
            Ask::FirstToken { tokens } => format!("first token of {tokens}"),
            Ask::Start { tokens } => format!("start to first token of {tokens}"),
        }
    }
}

impl Shape {
    /// For people.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.name, self.dtype)
    }

    fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Weights of a layer's matrices.
    fn layer_weights(&self) -> usize {
        let kv = self.kv_heads * self.head_dim();
        self.hidden * (2 * self.hidden + 2 * kv + 3 * self.ffn)
    }

    /// Bytes of the file, and of the matrices of all layers and the output.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let bytes = |weights: usize| weights / self.dtype.block_len() * self.dtype.block_bytes();
        let output = bytes(self.vocab * self.hidden);
        let layer = bytes(self.layer_weights());
        (layer + output, self.layers * layer + output)
    }

    /// Bytes and operations without which a run cannot do, where weights take `weights` bytes of the GPU and a position `kv`. What stays between kernels
    /// is not counted, nor are embeddings.
    pub(crate) fn work(&self, ask: Ask, weights: usize, kv: usize) -> Option<(f64, f64)> {
        let attention = |positions: f64| 4.0 * (self.layers * self.hidden) as f64 * positions;
        let layers = |tokens: usize| 2.0 * (self.layers * self.layer_weights()) as f64 * tokens as f64;
        let output = |rows: usize| 2.0 * (self.vocab * self.hidden) as f64 * rows as f64;
        Some(match ask {
            Ask::Decode { batch, context } => {
                let flops = layers(batch) + output(batch) + attention((batch * context) as f64);
                ((weights + batch * context * kv) as f64, flops)
            }
            // Each position attends to itself and those before it.
            Ask::Prefill { tokens } => {
                (weights as f64, layers(tokens) + attention((tokens * (tokens + 1)) as f64 / 2.0))
            }
            Ask::FirstToken { tokens } => {
                let (bytes, flops) = self.work(Ask::Prefill { tokens }, weights, kv)?;
                (bytes, flops + output(1))
            }
            Ask::Start { .. } => return None,
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let model = TinyModel {
            name: self.title(),
            vocab_size: self.vocab,
            context_length: 8192,
            hidden_size: self.hidden,
            ffn_size: self.ffn,
            n_layers: 1,
            n_heads: self.heads,
            n_kv_heads: self.kv_heads,
            dtype: self.dtype,
            embedding_dtype: self.dtype,
            noise: true,
            ..TinyModel::default()
        };
        model.write(path)
    }

    /// As the script that compares with PyTorch reads it.
    pub(crate) fn json(&self) -> Value {
        let Shape { name, layers, hidden, ffn, heads, kv_heads, vocab, .. } = self;
        json!({
            "name": name, "layers": layers, "hidden": hidden, "ffn": ffn, "heads": heads, "kv_heads": kv_heads, "vocab": vocab,
        })
    }
}

/// Opens a file with one layer as a model of `layers`.
///
/// # Errors
/// When the file is none.
pub(crate) fn open(path: &Path, layers: usize) -> Result<Model, OpenError> {
    Ok(Model::open(path)?.repeated(layers))
}
