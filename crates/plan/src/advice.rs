//! Decides what to change when a model does not fit: each change alone, tried with the same formulas, and only what helps is said.

use serde::Serialize;

use crate::cpu::Machine;
use crate::fit::{self, Placement, Wanted};
use crate::footprint::{KvType, Load};
use crate::hardware::Product;
use crate::inventory::Stock;
use crate::report::units::{bytes, count, plural};
use crate::scheme::Scheme;
use crate::shape::Shape;
use crate::split::Split;

/// One change that makes a model fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What to change, as a sentence with numbers.
    pub change: String,
    /// Flags of `wharf plan` that try it.
    pub flags: String,
    /// Fields of an `LLMService` that ask for it.
    pub fields: String,
}

/// Where a model should fit.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// This machine's CPU.
    Machine(&'a Machine),
    /// GPUs of a product.
    Stock(&'a Stock),
    /// GPUs of a product, and how the model is to be spread over them.
    Fixed(&'a Stock, Split),
}

impl Place<'_> {
    /// The model there.
    pub fn place(&self, shape: &Shape, wanted: &Wanted) -> Placement {
        match self {
            Place::Machine(machine) => fit::on_machine(shape, wanted, machine),
            Place::Stock(stock) => fit::on_stock(shape, wanted, stock),
            Place::Fixed(stock, split) => fit::on_split(shape, wanted, stock, *split),
        }
    }
}

/// Schemes that are proposed, those that lose least first.
const SMALLER: [&str; 6] = ["q8_0", "fp8", "int8", "q6_k", "q4_k_m", "int4-awq"];
/// Contexts are proposed in multiples of this, and none shorter than it.
const CONTEXT_STEP: u64 = 512;
/// Most GPUs of a product that are proposed.
const MOST: u64 = 64;

/// What makes a model fit that does not.
pub fn advise(shape: &Shape, wanted: &Wanted, place: Place<'_>) -> Vec<Advice> {
    let mut advice = ask_less(shape, wanted, place);
    if let Place::Stock(stock) | Place::Fixed(stock, _) = place {
        advice.extend(more_gpus(shape, wanted, stock, place));
    }
    advice.extend(other_product(shape, wanted, place));
    advice
}

/// What can be asked of the model instead, so that it fits in the very place.
pub fn ask_less(shape: &Shape, wanted: &Wanted, place: Place<'_>) -> Vec<Advice> {
    let placed = |wanted: &Wanted| place.place(shape, wanted);
    let with = |load: Load| Wanted { load, ..wanted.clone() };
    let load = wanted.load;
    let mut advice = Vec::new();
    let mut say =
        |change: String, flags: String, fields: String| advice.push(Advice { change, flags, fields });

    if load.streams > 1
        && let Some(streams) =
            largest(load.streams - 1, |streams| placed(&with(Load { streams, ..load })).fits)
    {
        let change = format!("fewer streams: {}", streams_fit(streams, load.context));
        say(change, format!("--streams {streams}"), format!("scaling.target.concurrency: {streams}"));
    }
    let steps = load.context.saturating_sub(1) / CONTEXT_STEP;
    let fits = |steps: u64| placed(&with(Load { context: steps * CONTEXT_STEP, ..load })).fits;
    if let Some(steps) = largest(steps, fits) {
        let context = steps * CONTEXT_STEP;
        let change = format!("a shorter context: {}", streams_fit(load.streams, context));
        say(change, format!("--context {context}"), format!("server.maxModelLen: {context}"));
    }
    if load.kv_cache == KvType::F16 {
        // FP8 is no type of Wharf's CPU engine, and smaller than bytes with scales.
        let types: &[KvType] =
            if matches!(place, Place::Machine(_)) { &[KvType::Int8] } else { &[KvType::Int8, KvType::Fp8] };
        let kv = types.iter().find(|kv_cache| placed(&with(Load { kv_cache: **kv_cache, ..load })).fits);
        if let Some(kv) = kv {
            let per_token = bytes(kv.bytes_per_token(shape) as f64);
            let change = format!("keys and values in {}: {per_token} a token", kv.name());
            say(change, format!("--kv-cache {}", kv.name()), format!("server.kvCache.type: {}", kv.name()));
        }
    }
    let now = placed(wanted).footprint.weights;
    let schemes =
        SMALLER.iter().map(|name| name.parse::<Scheme>().expect("the names are those of the table"));
    for scheme in schemes {
        let smaller = placed(&Wanted { scheme: Some(scheme), ..wanted.clone() });
        if smaller.fits && smaller.footprint.weights < now {
            let (name, weights) = (scheme.name, bytes(smaller.footprint.weights as f64));
            let change = format!("quantise to {name}: {weights} of weights instead of {}", bytes(now as f64));
            say(change, format!("--quantize {name}"), format!("model.optimize.quantize: {name}"));
            break;
        }
    }
    advice
}

fn streams_fit(streams: u64, context: u64) -> String {
    let fit = if streams == 1 { "fits" } else { "fit" };
    format!("{} of {} tokens {fit}", plural(streams, "stream"), count(context))
}

fn more_gpus(shape: &Shape, wanted: &Wanted, stock: &Stock, place: Place<'_>) -> Option<Advice> {
    let more = Stock { per_node: stock.per_node.max(8), nodes: MOST / 8, ..stock.clone() };
    let placed = fit::on_stock(shape, wanted, &more);
    let there_are = match place {
        Place::Fixed(_, split) => split.gpus(),
        Place::Machine(_) | Place::Stock(_) => stock.per_node * stock.nodes,
    };
    let fit::Hardware::Gpu { product, count, nodes, split } = &placed.hardware else { return None };
    let Split { tensor, pipeline } = split;
    (placed.fits && *count > there_are).then(|| Advice {
        change: format!("more GPUs: {count} of {}, tensor {tensor}, pipeline {pipeline}", product.name),
        flags: format!("--gpu {}:{count}", product.name),
        fields: format!(
            "resources.gpu.count: {}, parallelism: {{tensor: {tensor}, pipeline: {pipeline}, nodes: {nodes}}}",
            count.div_ceil(*nodes)
        ),
    })
}

fn other_product(shape: &Shape, wanted: &Wanted, place: Place<'_>) -> Option<Advice> {
    let one = |product: &Product| Stock { product: product.clone(), per_node: 1, nodes: 1 };
    let product =
        Product::all().into_iter().find(|product| fit::on_stock(shape, wanted, &one(product)).fits)?;
    let others = match place {
        Place::Machine(_) => "a GPU",
        Place::Stock(_) | Place::Fixed(..) => "another GPU",
    };
    Some(Advice {
        change: format!("{others}: one {} with {}", product.name, bytes(product.memory as f64)),
        flags: format!("--gpu {}", product.name),
        fields: format!("resources.gpu: {{count: 1, product: {}}}", product.name),
    })
}

/// The largest number from 1 to `most` that `fits`, if what fits is all up to some number.
fn largest(most: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    (low > 0).then_some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_that_fits_is_found() {
        for limit in 0..=20 {
            let expected = (limit > 0).then_some(limit.min(16));
            assert_eq!(largest(16, |n| n <= limit), expected);
        }
        assert_eq!(largest(0, |_| true), None);
    }
}
