//! Decides how fast a model decodes and prefills: a step takes as long as what it reads at the speed of memory or what it multiplies
//! at the speed of arithmetic, whichever is longer.
//!
//! ```text
//! products    max(weights ÷ bandwidth, 2 × parameters × rows ÷ operations a second)
//! attention   max(keys and values ÷ bandwidth, 4 × layers × width of queries × pairs ÷ operations a second)
//! link        2 × layers × (latency + 2 (n-1)/n × rows × hidden × 2 bytes ÷ link)          with n tensor-parallel ranks
//! step        (products + attention + link) ÷ share of a step that those take
//! tokens/s    rows ÷ step
//! ```
//!
//! On GPUs bandwidth and operations are those of the data sheet times the share of them that engines reach. On CPUs they are what
//! products of the model's own matrices were seen to reach, or what somebody says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::cpu::{self, Rates};
use crate::footprint::{self, Load};
use crate::hardware::Speed;
use crate::report::units::{bytes, bytes_per_second, operations, seconds};
use crate::scheme::arithmetic_of;
use crate::shape::{Group, Shape};
use crate::split::Split;
use crate::types::{Arithmetic, TypeShare};

/// How fast it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// One prompt from an empty context, shortest first.
    pub prefill: Vec<Point>,
    /// Streams that decode together, fewest and shortest first.
    pub decode: Vec<Point>,
}

/// One figure of a forecast.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Streams.
    pub streams: u64,
    /// Positions that the streams have reached; of a prefill the prompt's tokens.
    pub context: u64,
    /// Of all streams together.
    pub tokens_per_second: f64,
    /// What limits it.
    pub bound: Bound,
    /// The formula with its numbers.
    pub formula: String,
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Memory.
    Memory,
    /// Multiplication.
    Arithmetic,
    /// Other GPUs.
    Link,
}

/// What computes.
#[derive(Clone, Debug)]
pub enum Device<'a> {
    /// GPUs of one product.
    Gpus {
        /// What each can do.
        speed: &'a Speed,
        /// How the model is spread over them.
        split: Split,
    },
    /// The CPU.
    Cpu(&'a Rates),
}

/// Share of a GPU's bandwidth that decoding reaches: vLLM decodes Llama-3.1-8B in BF16 with 75 tokens/s on an A100 of 40 GB, 77% of
/// 1,555 GB/s (johnmusgrave.com, "vLLM throughput-latency sweep on NVIDIA A100").
const GPU_BANDWIDTH: f64 = 0.77;
/// Share of a GPU's dense rate that prefill reaches. Published utilisation of long prompts on dense models is 40 to 60%.
const GPU_ARITHMETIC: f64 = 0.5;
/// Seconds that an all-reduce takes whatever its size, within a host.
const LINK_LATENCY: f64 = 12e-6;
/// Share of a link that all-reduces reach.
const LINK_SHARE: f64 = 0.6;
/// Share of a step on a CPU that products and attention take; the rest is norms, rotations, stores of keys and values, sampling and
/// HTTP. Profiles say 97 to 98% for the engine's own steps.
const CPU_SHARE: f64 = 0.93;

/// A number of seconds with the words that explain it.
struct Cost {
    seconds: f64,
    bound: Bound,
    words: String,
}

/// A model on a device.
struct Work<'a> {
    shape: &'a Shape,
    weights: &'a BTreeMap<Group, Vec<TypeShare>>,
    load: &'a Load,
    device: &'a Device<'a>,
}

/// What a load is forecast to reach.
pub fn forecast(
    shape: &Shape,
    weights: &BTreeMap<Group, Vec<TypeShare>>,
    load: &Load,
    device: &Device<'_>,
) -> Forecast {
    let work = Work { shape, weights, load, device };
    let mut contexts = vec![SHORT.min(load.context), load.context];
    contexts.dedup();
    let mut streams: Vec<u64> = [1, 8, 32].into_iter().filter(|n| *n < load.streams).collect();
    streams.push(load.streams);
    let mut prompts = vec![PROMPT.min(load.context), load.context];
    prompts.dedup();
    Forecast {
        prefill: prompts.into_iter().map(|tokens| work.prefill(tokens)).collect(),
        decode: streams
            .iter()
            .flat_map(|streams| contexts.iter().map(|context| work.decode(*streams, *context)))
            .collect(),
    }
}

/// A context that is hardly any, and a prompt of usual length.
const SHORT: u64 = 128;
const PROMPT: u64 = 512;

impl Work<'_> {
    fn decode(&self, streams: u64, context: u64) -> Point {
        let macs = self.shape.active_parameters() as f64 * streams as f64;
        let products = self.products(streams, macs, true);
        let attention =
            self.attention(true, streams as f64 * context as f64, streams as f64 * context as f64);
        let costs = [Some(products), Some(attention), self.link(streams)];
        self.point(streams, context, streams, costs.into_iter().flatten().collect())
    }

    fn prefill(&self, tokens: u64) -> Point {
        let chunk = self.load.batch_tokens.clamp(1, tokens.max(1));
        let chunks = tokens.div_ceil(chunk);
        let rows = tokens.div_ceil(chunks);
        let macs = self.shape.layer_parameters() as f64 * rows as f64;
        let times = |cost: Cost| Cost {
            seconds: cost.seconds * chunks as f64,
            words: if chunks > 1 { format!("{chunks} × ({})", cost.words) } else { cost.words },
            ..cost
        };
        let pairs = tokens as f64 * (tokens as f64 + 1.0) / 2.0;
        // Each chunk reads what the chunks before it have stored.
        let attention = self.attention(false, pairs, tokens as f64 * (chunks + 1) as f64 / 2.0);
        let costs =
            [Some(times(self.products(rows, macs, false))), Some(attention), self.link(rows).map(times)];
        self.point(1, tokens, tokens, costs.into_iter().flatten().collect())
    }

    fn point(&self, streams: u64, context: u64, tokens: u64, costs: Vec<Cost>) -> Point {
        let share = if matches!(self.device, Device::Cpu(_)) { CPU_SHARE } else { 1.0 };
        let total = costs.iter().map(|cost| cost.seconds).sum::<f64>() / share;
        let bound = costs.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).map(|cost| cost.bound);
        let words: Vec<&str> = costs.iter().map(|cost| cost.words.as_str()).collect();
        let mut formula = words.join(" + ");
        if share < 1.0 {
            formula = format!("({formula}) ÷ {share}");
        }
        let rate = tokens as f64 / total;
        write!(formula, " = {}; {tokens} ÷ {} = {rate:.1} tokens/s", seconds(total), seconds(total))
            .expect("writing to a string cannot fail");
        Point { streams, context, tokens_per_second: rate, bound: bound.unwrap_or(Bound::Memory), formula }
    }

    /// Products of `rows` rows with every weight; `predicts` when the output projection is among them.
    fn products(&self, rows: u64, macs: f64, predicts: bool) -> Cost {
        let read = self.weight_bytes(rows, predicts);
        match self.device {
            Device::Gpus { speed, split } => {
                let ranks = split.tensor as f64;
                let peak = speed.operations(self.arithmetic());
                let memory = read / ranks / (GPU_BANDWIDTH * speed.bandwidth);
                let arithmetic = 2.0 * macs / ranks / (GPU_ARITHMETIC * peak);
                let over = if split.tensor > 1 { format!(" ÷ {}", split.tensor) } else { String::new() };
                either(
                    (memory, || {
                        let bandwidth = bytes_per_second(speed.bandwidth);
                        format!("{} of weights{over} ÷ ({GPU_BANDWIDTH} × {bandwidth})", bytes(read))
                    }),
                    (arithmetic, || {
                        let (macs, peak) = (operations(2.0 * macs), operations(peak));
                        format!("{macs} of products{over} ÷ ({GPU_ARITHMETIC} × {peak}/s)")
                    }),
                )
            }
            Device::Cpu(rates) => either(
                (read / rates.bandwidth, || {
                    format!("{} of weights ÷ {}", bytes(read), bytes_per_second(rates.bandwidth))
                }),
                (macs / rates.macs(rows), || {
                    let rate = operations(2.0 * rates.macs(rows));
                    format!("{} of products ÷ {rate}/s with {rows} rows", operations(2.0 * macs))
                }),
            ),
        }
    }

    /// Attention over `pairs` of a query and a position, all layers together, that reads keys and values of `positions`.
    /// `alone` when each query reads keys and values of its own.
    fn attention(&self, alone: bool, pairs: f64, positions: f64) -> Cost {
        let shape = self.shape;
        let read = positions * self.load.kv_cache.bytes_per_token(shape) as f64;
        let macs = 2.0 * (shape.n_layers * shape.query_width()) as f64 * pairs;
        match self.device {
            Device::Gpus { speed, split } => {
                let ranks = split.tensor as f64;
                let kv_ranks = split.tensor.min(shape.n_kv_heads) as f64;
                let memory = read / kv_ranks / (GPU_BANDWIDTH * speed.bandwidth);
                let arithmetic = 2.0 * macs / ranks / (GPU_ARITHMETIC * speed.half);
                let over = |n: f64| if n > 1.0 { format!(" ÷ {n}") } else { String::new() };
                either(
                    (memory, || {
                        let bandwidth = bytes_per_second(speed.bandwidth);
                        format!("{} of KV{} ÷ ({GPU_BANDWIDTH} × {bandwidth})", bytes(read), over(kv_ranks))
                    }),
                    (arithmetic, || {
                        let (macs, peak) = (operations(2.0 * macs), operations(speed.half));
                        format!("{macs} of attention{} ÷ ({GPU_ARITHMETIC} × {peak}/s)", over(ranks))
                    }),
                )
            }
            Device::Cpu(rates) => {
                let rate = if alone { rates.decode_attention } else { rates.attention };
                either(
                    (read / rates.bandwidth, || {
                        format!("{} of KV ÷ {}", bytes(read), bytes_per_second(rates.bandwidth))
                    }),
                    (macs / rate, || {
                        let rate = operations(2.0 * rate);
                        format!("{} of attention ÷ {rate}/s", operations(2.0 * macs))
                    }),
                )
            }
        }
    }

    /// Sums over tensor-parallel ranks, two a layer.
    fn link(&self, rows: u64) -> Option<Cost> {
        let Device::Gpus { speed, split } = self.device else { return None };
        let n = split.tensor as f64;
        let once = LINK_LATENCY
            + 2.0 * (n - 1.0) / n * (rows * self.shape.hidden_size * 2) as f64 / (LINK_SHARE * speed.link);
        let sums = 2 * self.shape.n_layers;
        (split.tensor > 1).then(|| Cost {
            seconds: sums as f64 * once,
            bound: Bound::Link,
            words: format!("{sums} sums × {}", seconds(once)),
        })
    }

    /// Bytes of weights that a step of `rows` rows reads.
    fn weight_bytes(&self, rows: u64, predicts: bool) -> f64 {
        let held = |group| match self.device {
            Device::Cpu(_) => cpu::packed(self.weights, group) as f64,
            Device::Gpus { .. } => footprint::bytes(self.weights, group) as f64,
        };
        let head = if self.shape.tied_embeddings { Group::Embedding } else { Group::Output };
        let output = if predicts { held(head) } else { 0.0 };
        held(Group::Layers) + held(Group::Experts) * self.shape.touched_share(rows) + output
    }

    fn arithmetic(&self) -> Arithmetic {
        arithmetic_of(self.weights)
    }
}

/// The longer of what memory takes and what arithmetic takes.
fn either(memory: (f64, impl Fn() -> String), arithmetic: (f64, impl Fn() -> String)) -> Cost {
    if memory.0 >= arithmetic.0 {
        Cost { seconds: memory.0, bound: Bound::Memory, words: memory.1() }
    } else {
        Cost { seconds: arithmetic.0, bound: Bound::Arithmetic, words: arithmetic.1() }
    }
}
