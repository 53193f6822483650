//! Writes a plan for people.

use std::fmt::{self, Display, Formatter};

use super::Report;
use super::units::{bytes, count, figures, parameters, plural};
use crate::fit::{Hardware, Placement};
use crate::footprint::Footprint;
use crate::forecast::{Bound, Forecast, Point};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.model(f)?;
        // The first is the one to take; of the others it is enough that they would do.
        for (index, placement) in self.placements.iter().enumerate() {
            if index <= 1 {
                writeln!(f)?;
            }
            heading(f, placement)?;
            if index == 0 {
                details(f, placement)?;
            }
        }
        if self.placements.is_empty() {
            writeln!(f, "\nthere are no GPUs to plan for")?;
        }
        if !self.advice.is_empty() {
            writeln!(f, "\nany one of these makes it fit:")?;
            for advice in &self.advice {
                writeln!(f, "  {} ({})", advice.change, advice.flags)?;
            }
        }
        self.table(f)?;
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

impl Report {
    fn model(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { model, weights, kv_cache, load, .. } = self;
        let experts = model
            .experts
            .map(|experts| format!(", {} of {} experts a token", experts.active, experts.count))
            .unwrap_or_default();
        writeln!(
            f,
            "{}: {}, {} layers of {}, {} query and {} KV heads of {}{experts}",
            model.name,
            model.architecture,
            model.n_layers,
            count(model.hidden_size),
            model.n_heads,
            model.n_kv_heads,
            model.head_dim
        )?;
        let active = match weights.active_parameters < weights.parameters / 2 {
            true => format!(", {} of them for a token", parameters(weights.active_parameters)),
            false => String::new(),
        };
        row(f, "parameters", &format!("{}{active}", parameters(weights.parameters)))?;
        let scheme = weights.scheme.unwrap_or("as stored");
        let bits = figures(weights.bits_per_weight);
        row(f, "weights", &format!("{}, {scheme}, {bits} bits a weight", bytes(weights.bytes as f64)))?;
        row(
            f,
            "KV cache",
            &format!(
                "{} a token in {}, {} a stream of {} tokens, {} for {}",
                bytes(kv_cache.bytes_per_token as f64),
                load.kv_cache.name(),
                bytes(kv_cache.bytes_per_stream as f64),
                count(load.context),
                bytes(kv_cache.bytes as f64),
                plural(load.streams, "stream")
            ),
        )
    }

    /// What each product would take.
    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nfewest GPUs of each product, up to 32:")?;
        writeln!(
            f,
            "  {:<30} {:>5} {:>15} {:>10} {:>10} {:>9} {:>9}",
            "product", "GPUs", "tensor × stages", "each", "of", "prefill", "decode"
        )?;
        for placement in &self.products {
            let Hardware::Gpu { product, count: gpus, split, .. } = &placement.hardware else { continue };
            let of = bytes(product.memory as f64);
            if !placement.fits {
                writeln!(f, "  {:<30} {:>5} {:>15} {:>10} {of:>10}", product.name, "none", "", "")?;
                continue;
            }
            let rate = |points: Option<&Vec<Point>>| {
                let point = points.and_then(|points| points.last());
                point.map_or_else(String::new, |point| figures(point.tokens_per_second))
            };
            let forecast = placement.forecast.as_ref();
            writeln!(
                f,
                "  {:<30} {gpus:>5} {:>15} {:>10} {of:>10} {:>9} {:>9}",
                product.name,
                format!("{} × {}", split.tensor, split.pipeline),
                bytes(placement.footprint.total as f64),
                rate(forecast.map(|forecast| &forecast.prefill)),
                rate(forecast.map(|forecast| &forecast.decode))
            )?;
        }
        writeln!(f, "  tokens a second at the full context; decode of all streams together")
    }
}

fn row(f: &mut Formatter<'_>, what: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {what:<22}{value}")
}

/// What a model is placed on, and whether it fits.
fn heading(f: &mut Formatter<'_>, placement: &Placement) -> fmt::Result {
    let verdict = if placement.fits { "fits" } else { "does not fit" };
    match &placement.hardware {
        Hardware::Cpu { machine } => {
            writeln!(f, "this CPU, {}: {verdict}", plural(machine.threads, "thread"))
        }
        Hardware::Gpu { product, count: gpus, nodes, split } => {
            let spread = match gpus {
                1 => String::new(),
                _ => format!(
                    ", {} and {} on {}",
                    plural(split.tensor, "tensor rank"),
                    plural(split.pipeline, "stage"),
                    plural(*nodes, "node")
                ),
            };
            writeln!(f, "{gpus} × {}{spread}: {verdict}", product.name)
        }
    }
}

fn details(f: &mut Formatter<'_>, placement: &Placement) -> fmt::Result {
    let Placement { hardware, fits, footprint, usable, streams_that_fit, forecast } = placement;
    let each = match hardware {
        Hardware::Cpu { .. } => "in memory",
        Hardware::Gpu { count: 1, .. } => "on the GPU",
        Hardware::Gpu { .. } => "on the fullest GPU",
    };
    let Footprint { weights, kv_cache, activations, logits, runtime, total, peak } = footprint;
    row(f, "weights", &bytes(*weights as f64))?;
    row(f, "KV cache", &bytes(*kv_cache as f64))?;
    row(f, "activations", &bytes(*activations as f64))?;
    row(f, "logits", &bytes(*logits as f64))?;
    for term in runtime {
        row(f, term.what, &bytes(term.bytes as f64))?;
    }
    let total_of = format!("{} {each}, of {} usable", bytes(*total as f64), bytes(*usable as f64));
    row(f, "total", &total_of)?;
    if peak > total {
        row(f, "while it is loaded", &bytes(*peak as f64))?;
    }
    match streams_that_fit {
        Some(streams) if *fits => row(f, "room for", &plural(*streams, "stream"))?,
        Some(_) | None => {
            let missing = peak.saturating_sub(*usable);
            if missing > 0 {
                row(f, "missing", &bytes(missing as f64))?;
            }
        }
    }
    match forecast {
        Some(forecast) => write_forecast(f, forecast),
        None if *fits => row(f, "speed", "nothing is known of this product's speed"),
        None => Ok(()),
    }
}

fn write_forecast(f: &mut Formatter<'_>, forecast: &Forecast) -> fmt::Result {
    let mut line = |what: String, point: &Point| {
        let bound = match point.bound {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
            Bound::Link => "link",
        };
        writeln!(f, "  {what:<44}{:>10} tokens/s  {bound}", figures(point.tokens_per_second))?;
        writeln!(f, "    {}", point.formula)
    };
    for point in &forecast.prefill {
        line(format!("prefill of {} tokens", count(point.context)), point)?;
    }
    for point in &forecast.decode {
        line(
            format!("decode, {} at {} tokens", plural(point.streams, "stream"), count(point.context)),
            point,
        )?;
    }
    Ok(())
}
