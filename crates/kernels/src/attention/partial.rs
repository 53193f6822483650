//! Decides how results over different chunks of positions are merged: in ascending order, each relative
//! to the largest score so far.

use crate::{
    Isa,
    isa::Kernel,
    math::exp,
    simd::{LANES, Simd, load_part, store_part},
};

/// Elements of a partial result: `(rows, head_dim)` weighted sums of values, then the largest score and the
/// sum of weights of each row.
pub fn partial_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

/// The parts of a partial result.
pub(super) struct Partial<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) most: &'a mut [f32],
    pub(super) weight: &'a mut [f32],
    pub(super) head_dim: usize,
}

impl<'a> Partial<'a> {
    pub(super) fn new(data: &'a mut [f32], head_dim: usize) -> Partial<'a> {
        let rows = data.len() / (head_dim + 2);
        let (values, rest) = data.split_at_mut(rows * head_dim);
        let (most, weight) = rest.split_at_mut(rows);
        Partial { values, most, weight, head_dim }
    }

    /// The result over no positions at all.
    pub(super) fn clear(&mut self) {
        self.values.fill(0.0);
        self.most.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
    }
}

/// Merges consecutive partial results, all of the same queries and in ascending order of chunks, into
/// `out: (rows, head_dim)`. The first is overwritten.
///
/// # Panics
/// When lengths disagree.
pub fn merge(isa: Isa, partials: &mut [f32], head_dim: usize, out: &mut [f32]) {
    let len = partial_len(out.len() / head_dim, head_dim);
    assert!(len > 0 && !partials.is_empty() && partials.len().is_multiple_of(len), "whole partial results");
    let (total, rest) = partials.split_at_mut(len);
    for part in rest.chunks_exact(len) {
        absorb(isa, total, part, head_dim);
    }
    finish(isa, total, head_dim, out);
}

/// Adds the result of the next chunk to that of the chunks before.
pub(super) fn absorb(isa: Isa, total: &mut [f32], part: &[f32], head_dim: usize) {
    assert_eq!(total.len(), part.len(), "results of the same queries");
    isa.run(Absorb { total: Partial::new(total, head_dim), part });
}

struct Absorb<'a> {
    total: Partial<'a>,
    part: &'a [f32],
}

impl Kernel for Absorb<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Partial { values, most, weight, head_dim } = self.total;
        let rows = most.len();
        let (part_values, rest) = self.part.split_at(rows * head_dim);
        let (part_most, part_weight) = rest.split_at(rows);
        for row in 0..rows {
            // Rows that see nothing of a chunk have no weight there.
            if part_weight[row] == 0.0 {
                continue;
            }
            let (into, from) =
                (&mut values[row * head_dim..][..head_dim], &part_values[row * head_dim..][..head_dim]);
            if weight[row] == 0.0 {
                into.copy_from_slice(from);
                (most[row], weight[row]) = (part_most[row], part_weight[row]);
                continue;
            }
            let peak = if most[row] > part_most[row] { most[row] } else { part_most[row] };
            let peak_lanes = s.splat(peak);
            let keep = exp(s, s.sub(s.splat(most[row]), peak_lanes));
            let add = exp(s, s.sub(s.splat(part_most[row]), peak_lanes));
            for (into, from) in into.chunks_mut(LANES).zip(from.chunks(LANES)) {
                let kept = s.mul(load_part(s, into, 0.0), keep);
                store_part(s, into, s.fma(load_part(s, from, 0.0), add, kept));
            }
            let kept = s.mul(s.splat(weight[row]), keep);
            let mut sum = [0.0];
            store_part(s, &mut sum, s.fma(s.splat(part_weight[row]), add, kept));
            (most[row], weight[row]) = (peak, sum[0]);
        }
    }
}

/// Divides the weighted sums by the weights; rows that saw nothing are zero.
pub(super) fn finish(isa: Isa, total: &mut [f32], head_dim: usize, out: &mut [f32]) {
    let total = Partial::new(total, head_dim);
    assert_eq!(total.values.len(), out.len(), "length of the result");
    isa.run(Finish { total, out });
}

struct Finish<'a> {
    total: Partial<'a>,
    out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Partial { values, most: _, weight, head_dim } = self.total;
        let rows = values.chunks_exact(head_dim).zip(self.out.chunks_exact_mut(head_dim));
        for ((values, out), weight) in rows.zip(weight) {
            let share = s.splat(if *weight == 0.0 { 0.0 } else { 1.0 / *weight });
            for (values, out) in values.chunks(LANES).zip(out.chunks_mut(LANES)) {
                store_part(s, out, s.mul(load_part(s, values, 0.0), share));
            }
        }
    }
}
