//! Describes the CPU that is planned for: asked, or measured with products of the model's own matrices.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use wharf_engine::cpu::CpuOptions;
use wharf_kernels::probe::{self, Heads, Probe, Shape as Matrix};
use wharf_kernels::{DType, Isa, Team};
use wharf_plan::cpu::{Machine, Rates, RowRate};
use wharf_plan::types::TypeShare;
use wharf_plan::{Group, Shape};

use crate::model::memory;

/// What is known without measuring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) threads: Option<usize>,
    /// GB/s.
    pub(super) bandwidth: Option<f64>,
    /// Billions of operations a second.
    pub(super) gflops: Option<f64>,
}

/// What the weights are, by group.
type Weights = BTreeMap<Group, Vec<TypeShare>>;

/// Rows that products are measured with.
const ROWS: [usize; 4] = [1, 8, 32, 256];
/// For one number of rows.
const BUDGET: Duration = Duration::from_millis(80);
/// Packing more would take longer than it tells; larger models are read from memory at a rate that is measured apart.
const MOST_PACKED: usize = 192 << 20;
/// No cache is larger.
const MOST_READ: u64 = 1 << 30;

/// The machine, with what products of `weights` reach on it.
pub(super) fn describe(
    shape: &Shape,
    weights: &Weights,
    memory: Option<u64>,
    known: Known,
) -> anyhow::Result<Machine> {
    let Known { threads, bandwidth, gflops } = known;
    for (name, value) in [("--bandwidth", bandwidth), ("--gflops", gflops)] {
        if value.is_some_and(|value| !(value > 0.0 && value.is_finite())) {
            anyhow::bail!("{name} must be a number above 0");
        }
    }
    let threads = threads.unwrap_or(CpuOptions::default().threads).clamp(1, 4096);
    let measured = match (bandwidth, gflops) {
        (Some(_), Some(_)) => None,
        _ => Some(measure(shape, weights, threads)?),
    };
    let given = gflops.map(|gflops| gflops * 1e9 / 2.0);
    let rates = match measured {
        None => {
            let macs = given.expect("both are given where nothing is measured");
            let products = vec![RowRate { rows: 1, macs }];
            // Attention is computed in floats: a quarter of what bytes reach; half of that where few tokens share what is read.
            Rates {
                bandwidth: bandwidth.unwrap_or_default() * 1e9,
                products,
                attention: macs / 4.0,
                decode_attention: macs / 8.0,
            }
        }
        Some(mut rates) => {
            rates.bandwidth = bandwidth.map_or(rates.bandwidth, |bandwidth| bandwidth * 1e9);
            rates.products = given.map_or(rates.products, |macs| vec![RowRate { rows: 1, macs }]);
            rates
        }
    };
    Ok(Machine {
        memory: memory.unwrap_or_else(memory::free),
        threads: threads as u64,
        rates: Some(rates),
        measured: bandwidth.is_none() || gflops.is_none(),
    })
}

fn measure(shape: &Shape, weights: &Weights, threads: usize) -> anyhow::Result<Rates> {
    let (team, isa) = (Team::new(threads), Isa::detect());
    let n = |n: u64| usize::try_from(n).context("the model's matrices are larger than memory");
    let (hidden, q, kv) = (n(shape.hidden_size)?, n(shape.query_width())?, n(shape.kv_width())?);
    let inner = n(shape.experts.map_or(shape.ffn_size, |experts| experts.ffn_size))?;
    let layers = dtype(weights, &[Group::Layers, Group::Experts]);
    let matrix = |n: usize, k: usize, dtype: DType| Matrix { dtype: fitting(dtype, k), n, k };
    let layer = [
        matrix(q + 2 * kv, hidden, layers),
        matrix(hidden, q, layers),
        matrix(2 * inner, hidden, layers),
        matrix(hidden, inner, layers),
    ];
    let head = dtype(weights, &[Group::Output, Group::Embedding]);
    let output = matrix(n(shape.vocab_size)?, hidden, head);
    let count = n(shape.n_layers)?;
    let probe = Probe::new(isa, &team, (&layer, count), Some(output), MOST_PACKED)
        .context("failed to measure this machine: the model's matrices cannot be packed")?;
    let decode = probe.decode(2 * BUDGET);
    let mut bandwidth = decode.bytes / decode.seconds;
    let held: u64 = weights.values().flatten().map(TypeShare::packed_bytes).sum();
    if held > MOST_PACKED as u64 && memory::free() > 2 * MOST_READ {
        // A cache may hold what was multiplied, and not the model.
        bandwidth = bandwidth.min(probe::memory(&team, held.min(MOST_READ) as usize, BUDGET));
    }
    let products = ROWS.map(|rows| {
        let pass = if rows == 1 { decode } else { probe.rows(rows, BUDGET) };
        RowRate { rows: rows as u64, macs: pass.macs / pass.seconds }
    });
    let heads = Heads {
        kv: n(shape.n_kv_heads)?,
        group: n(shape.n_heads / shape.n_kv_heads)?,
        dim: n(shape.head_dim)?,
    };
    let attention = probe::attention(isa, &team, heads, BUDGET);
    let decode_attention =
        probe::decode_attention(isa, &team, heads, keys_and_values(memory::free()), BUDGET);
    Ok(Rates { bandwidth, products: products.to_vec(), attention, decode_attention })
}

/// Bytes of keys and values to measure with: more than caches hold, where there is room.
fn keys_and_values(free: u64) -> usize {
    usize::try_from(free / 8).unwrap_or(usize::MAX).min(256 << 20)
}

/// The type of most weights of the first of these groups that there is, as the CPU computes with it.
fn dtype(weights: &Weights, groups: &[Group]) -> DType {
    let shares = groups.iter().find_map(|group| weights.get(group));
    let largest = shares.and_then(|shares| shares.iter().max_by_key(|share| share.elements));
    match largest.map_or("", |share| share.dtype.as_str()) {
        "I8" => DType::Q8_0,
        "I4" => DType::Q4_0,
        name => DType::ALL.into_iter().find(|dtype| dtype.name() == name).unwrap_or(DType::BF16),
    }
}

/// A type whose blocks fill rows of `k` elements.
fn fitting(dtype: DType, k: usize) -> DType {
    [dtype, DType::Q8_0].into_iter().find(|dtype| dtype.bytes_for(k).is_some()).unwrap_or(DType::F16)
}
