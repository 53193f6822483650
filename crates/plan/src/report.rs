//! What `wharf plan` says: for programs as it is here, for people as `Display` writes it.

mod text;
pub(crate) mod units;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::advice::{Advice, Place, advise};
use crate::fit::{self, Hardware, Placement, Wanted};
use crate::footprint::Load;
use crate::hardware::Product;
use crate::header::Header;
use crate::inventory::{Inventory, Stock};
use crate::shape::{Group, Shape};
use crate::split::Split;
use crate::types::TypeShare;

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The model.
    pub model: Shape,
    /// How much of it at once.
    pub load: Load,
    /// Its weights.
    pub weights: WeightsReport,
    /// Its keys and values.
    pub kv_cache: KvReport,
    /// On the hardware that was asked for: the first is the one to take.
    pub placements: Vec<Placement>,
    /// Whether it fits on any of that.
    pub fits: bool,
    /// What to change when it does not.
    pub advice: Vec<Advice>,
    /// On as few of each known product as it fits on.
    pub products: Vec<Placement>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// The weights of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsReport {
    /// What they become; `null` for what they are stored as.
    pub scheme: Option<&'static str>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Parameters that a token is multiplied with.
    pub active_parameters: u64,
    /// Bytes of the weights, before they are spread over GPUs or packed for a CPU.
    pub bytes: u64,
    /// Those by parameter, in bits.
    pub bits_per_weight: f64,
    /// Parameters times the bits of a code of the scheme: what people mean by the size of a 4-bit model. Scales, and what a scheme
    /// leaves in more bits, come on top.
    pub nominal_bytes: Option<u64>,
    /// By what they are for.
    pub groups: BTreeMap<Group, Vec<TypeShare>>,
}

/// Keys and values of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvReport {
    /// Of one token, all layers together.
    pub bytes_per_token: u64,
    /// Of one stream at its full length.
    pub bytes_per_stream: u64,
    /// Of all streams.
    pub bytes: u64,
}

/// Where a model is planned for.
#[derive(Clone, Debug)]
pub enum Target {
    /// The CPU of a machine.
    Machine(crate::cpu::Machine),
    /// GPUs.
    Gpus(Inventory),
    /// GPUs, and how the model is to be spread over them.
    Fixed(Stock, Split),
}

/// GPUs of a host and hosts that the table of products is made with.
const TABLE: (u64, u64) = (8, 4);

impl Report {
    /// Plans a model.
    pub fn new(header: &Header, wanted: &Wanted, target: &Target) -> Report {
        let shape = &header.shape;
        let groups = wanted.weights(shape);
        let bytes: u64 = groups.values().flatten().map(|share| share.bytes).sum();
        let parameters = shape.parameters();
        let per_token = wanted.load.kv_cache.bytes_per_token(shape);
        let mut notes = notes(shape, wanted);
        let mut placements = match target {
            Target::Fixed(stock, split) => vec![Place::Fixed(stock, *split).place(shape, wanted)],
            Target::Machine(machine) => vec![Place::Machine(machine).place(shape, wanted)],
            Target::Gpus(inventory) => {
                notes.extend(inventory.notes.iter().cloned());
                inventory.stocks.iter().map(|stock| Place::Stock(stock).place(shape, wanted)).collect()
            }
        };
        let preference = |placement: &Placement| {
            let gpus = match &placement.hardware {
                Hardware::Cpu { .. } => 1,
                Hardware::Gpu { count, .. } => *count,
            };
            (!placement.fits, gpus, placement.usable)
        };
        placements.sort_by_key(preference);
        let fits = placements.iter().any(|placement| placement.fits);
        let advice = if fits { Vec::new() } else { advice(shape, wanted, target) };
        let product = |product| {
            let stock = Stock { product, per_node: TABLE.0, nodes: TABLE.1 };
            fit::on_stock(shape, wanted, &stock)
        };
        Report {
            load: wanted.load,
            weights: WeightsReport {
                scheme: wanted.scheme.map(|scheme| scheme.name),
                parameters,
                active_parameters: shape.active_parameters(),
                bytes,
                bits_per_weight: bytes as f64 * 8.0 / parameters.max(1) as f64,
                nominal_bytes: wanted
                    .scheme
                    .map(|scheme| (parameters as f64 * scheme.code_bits / 8.0) as u64),
                groups,
            },
            kv_cache: KvReport {
                bytes_per_token: per_token,
                bytes_per_stream: per_token * wanted.load.context,
                bytes: (per_token * wanted.load.context).saturating_mul(wanted.load.streams),
            },
            placements,
            fits,
            advice,
            products: Product::all().into_iter().map(product).collect(),
            notes,
            model: shape.clone(),
        }
    }
}

fn advice(shape: &Shape, wanted: &Wanted, target: &Target) -> Vec<Advice> {
    match target {
        Target::Machine(machine) => advise(shape, wanted, Place::Machine(machine)),
        Target::Fixed(stock, split) => advise(shape, wanted, Place::Fixed(stock, *split)),
        Target::Gpus(Inventory { stocks, notes: _ }) => {
            // What has most memory needs the least change.
            let most = stocks.iter().max_by_key(|stock| stock.product.memory * stock.per_node * stock.nodes);
            most.map(|stock| advise(shape, wanted, Place::Stock(stock))).unwrap_or_default()
        }
    }
}

fn notes(shape: &Shape, wanted: &Wanted) -> Vec<String> {
    let mut notes = Vec::new();
    if !shape.served {
        notes.push(format!("Wharf's own engine does not compute {}; other runtimes may", shape.architecture));
    }
    if wanted.load.context > shape.context_length {
        let (context, longest) = (units::count(wanted.load.context), units::count(shape.context_length));
        notes.push(format!(
            "a context of {context} tokens is more than the {longest} that the model was made for"
        ));
    }
    notes
}
