//! Decides how much memory `wharf serve` takes on a CPU: what is resident once every stream has reached its full length.
//!
//! ```text
//! weights      packed into panels; the model's file is given back page by page while that happens
//! KV cache     streams × context × bytes per token, in blocks of 16 tokens; untouched blocks take nothing
//! activations  floats of a step's rows: residual stream, QKV with attention's result or 384 rows of the feed-forward layer;
//!              the same as bytes for the products
//! logits       rows × vocabulary × 4 bytes; one stream's guesses have rows of their own
//! runtime      the program's own pages, the tokenizer, buffers of threads and connections
//!
//! loading      weights, the embedding once more as the file has it, and the program: more than all that only with little KV
//! ```

use std::collections::BTreeMap;

use serde::Serialize;

use crate::footprint::{Footprint, Load, Term, bytes};
use crate::shape::{Group, Shape};
use crate::types::TypeShare;

/// A machine that computes on its CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Bytes that a process may take.
    pub memory: u64,
    /// Threads that compute.
    pub threads: u64,
    /// What its products reach; `None` where only memory is asked about.
    pub rates: Option<Rates>,
    /// Where the rates come from.
    pub measured: bool,
}

/// What products of the model's own matrices reach, all threads together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Bytes of packed weights a second, when each is used for one row.
    pub bandwidth: f64,
    /// Multiply-adds a second by number of rows, ascending.
    pub products: Vec<RowRate>,
    /// Multiply-adds a second of attention over long prompts.
    pub attention: f64,
    /// The same of a few tokens over long contexts, which share little of what is read and converted.
    pub decode_attention: f64,
}

/// Multiply-adds a second of products with so many rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RowRate {
    /// Rows of activations.
    pub rows: u64,
    /// Multiply-adds a second.
    pub macs: f64,
}

impl Rates {
    /// Multiply-adds a second with `rows` rows: between two that are known, in proportion to the logarithm of rows.
    pub fn macs(&self, rows: u64) -> f64 {
        let above = self.products.iter().position(|rate| rate.rows >= rows);
        match (above, self.products.last()) {
            (_, None) => f64::INFINITY,
            (None, Some(last)) => last.macs,
            (Some(0), _) => self.products[0].macs,
            (Some(index), _) => {
                let (low, high) = (self.products[index - 1], self.products[index]);
                let log = |rows: u64| (rows as f64).ln();
                let part = (log(rows) - log(low.rows)) / (log(high.rows) - log(low.rows));
                low.macs + (high.macs - low.macs) * part
            }
        }
    }
}

/// Positions of a block of keys and values.
const BLOCK_TOKENS: u64 = 16;
/// Rows that go through a feed-forward layer together.
const FFN_ROWS: u64 = 384;
/// Rows of logits that guesses of one stream ask for at most, its own included.
const GUESSED: u64 = 17;
/// Pages of the program that a server touches (17 MB of `RssFile`), its heap without a model, stacks and sockets.
const PROGRAM: u64 = 18_000_000;
/// What the tokenizer keeps for each token of the vocabulary: its text, its merge, entries of two tables.
const TOKENIZER_PER_TOKEN: u64 = 55;
/// Tables of character classes and patterns.
const TOKENIZER: u64 = 1_100_000;
/// A thread's scratch for attention and for unpacking panels.
const PER_THREAD: u64 = 300_000;

/// Bytes of packed weights of a group.
pub fn packed(weights: &BTreeMap<Group, Vec<TypeShare>>, group: Group) -> u64 {
    weights.get(&group).into_iter().flatten().map(TypeShare::packed_bytes).sum()
}

/// What a server on this machine holds.
pub fn on_cpu(
    shape: &Shape,
    weights: &BTreeMap<Group, Vec<TypeShare>>,
    load: &Load,
    threads: u64,
) -> Footprint {
    // An embedding of its own is kept as it is stored; a tied one is the packed output projection.
    let embedding = match shape.tied_embeddings {
        true => packed(weights, Group::Embedding),
        false => bytes(weights, Group::Embedding),
    };
    let packed = embedding
        + [Group::Output, Group::Layers, Group::Experts]
            .map(|group| packed(weights, group))
            .iter()
            .sum::<u64>()
        + 4 * shape.elements(Group::Rest);
    let tokens = load.context.next_multiple_of(BLOCK_TOKENS) * load.streams;
    let kv_cache = tokens.saturating_mul(load.kv_cache.bytes_per_token(shape));
    let rows = load.batch_tokens.min(load.context * load.streams);
    let (hidden, q, kv) = (shape.hidden_size, shape.query_width(), shape.kv_width());
    let inner = shape.experts.map_or(shape.ffn_size, |experts| experts.ffn_size.max(shape.ffn_size));
    let block = (rows * (2 * q + 2 * kv)).max(rows.min(FFN_ROWS) * inner);
    // A byte for each element, and for each 32 of them a scale and a sum of four bytes.
    let input = (rows * hidden.max(q)).max(rows.min(FFN_ROWS) * inner) * 5 / 4;
    let activations = 4 * (rows * hidden + block) + input;
    let logit_rows = if load.streams == 1 { GUESSED } else { load.streams.max(GUESSED) };
    let runtime = vec![
        Term { what: "program", bytes: PROGRAM },
        Term { what: "tokenizer", bytes: TOKENIZER + TOKENIZER_PER_TOKEN * shape.vocab_size },
        Term { what: "threads", bytes: PER_THREAD * threads },
    ];
    let fixed: u64 = runtime.iter().map(|term| term.bytes).sum();
    let stored = [Group::Embedding, Group::Output].map(|group| bytes(weights, group)).into_iter().max();
    let loading = packed + fixed + stored.unwrap_or(0);
    let steady = Footprint::sum(packed, kv_cache, activations, logit_rows * shape.vocab_size * 4, runtime);
    Footprint { peak: loading.max(steady.total), ..steady }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_between_known_ones_are_in_between() {
        let products = vec![
            RowRate { rows: 1, macs: 100.0 },
            RowRate { rows: 8, macs: 400.0 },
            RowRate { rows: 512, macs: 500.0 },
        ];
        let rates = Rates { bandwidth: 1.0, products, attention: 1.0, decode_attention: 1.0 };
        assert_eq!([1, 8, 512, 4096].map(|rows| rates.macs(rows)), [100.0, 400.0, 500.0, 500.0]);
        assert!((rates.macs(64) - 450.0).abs() < 1e-9);
    }
}
