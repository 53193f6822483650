//! Decides on how few GPUs a model fits, and how it is spread over them.
//!
//! Fewest GPUs win; among splits of as many, the one with the most tensor-parallel ranks within a host that hold equal parts, because
//! ranks share the time of a token and stages do not. Across hosts a model is pipelined.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cpu::{self, Machine};
use crate::footprint::{self, Footprint, Load};
use crate::forecast::{Device, Forecast, forecast};
use crate::hardware::Product;
use crate::inventory::Stock;
use crate::scheme::Scheme;
use crate::shape::{Group, Shape};
use crate::split::Split;
use crate::types::TypeShare;

/// What is asked of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What the weights become; `None` leaves them as they are stored.
    pub scheme: Option<Scheme>,
    /// How much at once.
    pub load: Load,
}

impl Wanted {
    /// Types of the weights of `shape`.
    pub fn weights(&self, shape: &Shape) -> BTreeMap<Group, Vec<TypeShare>> {
        self.scheme.as_ref().map_or_else(|| shape.stored.clone(), |scheme| scheme.apply(shape))
    }
}

/// A model on some hardware.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placement {
    /// What it runs on.
    pub hardware: Hardware,
    /// Whether it fits.
    pub fits: bool,
    /// Memory of the fullest GPU, or of the process.
    pub footprint: Footprint,
    /// Bytes that may be taken there.
    pub usable: u64,
    /// Streams of the wanted length that its keys and values would have room for; `None` when the weights alone do not fit.
    pub streams_that_fit: Option<u64>,
    /// Speed; `None` when it does not fit or nothing is known of the speed of the hardware.
    pub forecast: Option<Forecast>,
}

/// What a model runs on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Hardware {
    /// The CPU of this machine.
    Cpu {
        /// What it can do.
        machine: Machine,
    },
    /// GPUs.
    Gpu {
        /// Their product.
        product: Product,
        /// How many of them.
        count: u64,
        /// Hosts that they are in.
        nodes: u64,
        /// How the model is spread.
        split: Split,
    },
}

/// Share of a GPU's memory that is left free: what the driver keeps, fragments, peaks of a first step.
pub const SPARE: f64 = 0.05;

/// Bytes of a product that may be taken.
pub fn usable(product: &Product) -> u64 {
    (product.memory as f64 * (1.0 - SPARE)) as u64
}

/// The model on a machine's CPU.
pub fn on_machine(shape: &Shape, wanted: &Wanted, machine: &Machine) -> Placement {
    let weights = wanted.weights(shape);
    let footprint = cpu::on_cpu(shape, &weights, &wanted.load, machine.threads);
    let fits = footprint.peak <= machine.memory;
    let per_stream = wanted.load.context * wanted.load.kv_cache.bytes_per_token(shape);
    let rates = machine.rates.as_ref().filter(|_| fits);
    Placement {
        fits,
        usable: machine.memory,
        streams_that_fit: streams(machine.memory, footprint.fixed(), per_stream),
        forecast: rates.map(|rates| forecast(shape, &weights, &wanted.load, &Device::Cpu(rates))),
        footprint,
        hardware: Hardware::Cpu { machine: machine.clone() },
    }
}

/// The model on as few GPUs of a stock as it fits on; when it fits on none, spread so that the fullest holds least.
pub fn on_stock(shape: &Shape, wanted: &Wanted, stock: &Stock) -> Placement {
    let Stock { product, per_node, nodes } = stock;
    let weights = wanted.weights(shape);
    let usable = usable(product);
    let mut least: Option<(Split, Footprint)> = None;
    for split in splits(shape, *per_node, *nodes) {
        let footprint = footprint::on_gpu(shape, &weights, &wanted.load, split);
        if footprint.peak <= usable {
            return place(shape, wanted, &weights, stock, (split, footprint));
        }
        if least.as_ref().is_none_or(|(_, least)| footprint.total < least.total) {
            least = Some((split, footprint));
        }
    }
    let one = || (Split::ONE, footprint::on_gpu(shape, &weights, &wanted.load, Split::ONE));
    place(shape, wanted, &weights, stock, least.unwrap_or_else(one))
}

/// The model spread as `split` says, whether that is the best or not.
pub fn on_split(shape: &Shape, wanted: &Wanted, stock: &Stock, split: Split) -> Placement {
    let weights = wanted.weights(shape);
    let footprint = footprint::on_gpu(shape, &weights, &wanted.load, split);
    place(shape, wanted, &weights, stock, (split, footprint))
}

fn place(
    shape: &Shape,
    wanted: &Wanted,
    weights: &BTreeMap<Group, Vec<TypeShare>>,
    stock: &Stock,
    (split, footprint): (Split, Footprint),
) -> Placement {
    let usable = usable(&stock.product);
    let fits = footprint.peak <= usable;
    let speed = stock.product.speed.as_ref().filter(|_| fits);
    let shares = split.shares(shape);
    let per_token = wanted.load.kv_cache.bytes_per_token(shape) as f64 * shares.kv * shares.layers;
    let per_stream = (wanted.load.context as f64 * per_token).ceil() as u64;
    Placement {
        fits,
        usable,
        streams_that_fit: streams(usable, footprint.fixed(), per_stream),
        forecast: speed.map(|speed| forecast(shape, weights, &wanted.load, &Device::Gpus { speed, split })),
        footprint,
        hardware: Hardware::Gpu {
            product: stock.product.clone(),
            count: split.gpus(),
            nodes: split.gpus().div_ceil(stock.per_node.max(1)),
            split,
        },
    }
}

/// Streams whose keys and values fit beside what is there anyway.
fn streams(usable: u64, fixed: u64, per_stream: u64) -> Option<u64> {
    usable.checked_sub(fixed).map(|left| left / per_stream.max(1))
}

/// Every split that hosts of `per_node` GPUs allow, the best of the fewest GPUs first.
fn splits(shape: &Shape, per_node: u64, nodes: u64) -> Vec<Split> {
    let most = per_node.saturating_mul(nodes).min(MOST);
    let within = |gpus: u64| {
        let tensors = (1..=per_node.min(gpus)).rev().filter(move |tensor| gpus.is_multiple_of(*tensor));
        let splits = tensors.map(move |tensor| Split { tensor, pipeline: gpus / tensor });
        let mut splits: Vec<Split> = splits
            .filter(|split| split.is_possible(shape))
            // A group of ranks stays within a host.
            .filter(|split| split.pipeline == 1 || per_node.is_multiple_of(split.tensor) || nodes == 1)
            .collect();
        splits.sort_by_key(|split| (!split.is_even(shape), std::cmp::Reverse(split.tensor)));
        splits
    };
    (1..=most).flat_map(within).collect()
}

/// Most GPUs that are tried.
const MOST: u64 = 256;
