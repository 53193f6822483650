//! Decides how results over different chunks of positions are merged: in ascending order, each relative
//! to the largest score so far.
//!
//! A row of a result is `(head_dim)` weighted sums of values, the largest score and the sum of weights, side by side, so that
//! some rows of a result are the result of those rows.

use crate::{
    Isa,
    isa::Kernel,
    math::exp,
    simd::{LANES, Simd, load_part, store_part},
};

/// Elements of a partial result.
pub fn partial_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

/// A partial result, row by row.
pub(super) struct Partial<'a> {
    data: &'a mut [f32],
    head_dim: usize,
}

impl<'a> Partial<'a> {
    pub(super) fn new(data: &'a mut [f32], head_dim: usize) -> Partial<'a> {
        Partial { data, head_dim }
    }

    /// The result over no positions at all.
    pub(super) fn clear(&mut self) {
        for row in self.data.chunks_exact_mut(self.head_dim + 2) {
            row.fill(0.0);
            row[self.head_dim] = f32::NEG_INFINITY;
        }
    }

    /// Weighted sums of a row, from element `at` of the head on.
    #[inline(always)]
    pub(super) fn values(&mut self, row: usize, at: usize) -> &mut [f32] {
        let first = row * (self.head_dim + 2);
        &mut self.data[first + at..first + self.head_dim]
    }

    /// Sets the largest score and the sum of weights of a row.
    #[inline(always)]
    pub(super) fn set_weight(&mut self, row: usize, most: f32, weight: f32) {
        let last = row * (self.head_dim + 2) + self.head_dim;
        (self.data[last], self.data[last + 1]) = (most, weight);
    }
}

/// Adds the result of the next chunk to that of the chunks before.
pub(super) fn absorb(isa: Isa, total: &mut [f32], part: &[f32], head_dim: usize) {
    assert_eq!(total.len(), part.len(), "results of the same queries");
    isa.run(Absorb { total, part, head_dim });
}

struct Absorb<'a> {
    total: &'a mut [f32],
    part: &'a [f32],
    head_dim: usize,
}

impl Kernel for Absorb<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let row = self.head_dim + 2;
        for (total, part) in self.total.chunks_exact_mut(row).zip(self.part.chunks_exact(row)) {
            let ((from, part), (into, total)) =
                (part.split_at(self.head_dim), total.split_at_mut(self.head_dim));
            let ((most, weight), (part_most, part_weight)) = ((total[0], total[1]), (part[0], part[1]));
            // Rows that see nothing of a chunk have no weight there.
            if part_weight == 0.0 {
                continue;
            }
            if weight == 0.0 {
                into.copy_from_slice(from);
                total.copy_from_slice(part);
                continue;
            }
            let peak = if most > part_most { most } else { part_most };
            let peak_lanes = s.splat(peak);
            let keep = exp(s, s.sub(s.splat(most), peak_lanes));
            let add = exp(s, s.sub(s.splat(part_most), peak_lanes));
            for (into, from) in into.chunks_mut(LANES).zip(from.chunks(LANES)) {
                let kept = s.mul(load_part(s, into, 0.0), keep);
                store_part(s, into, s.fma(load_part(s, from, 0.0), add, kept));
            }
            let kept = s.mul(s.splat(weight), keep);
            store_part(s, &mut total[1..], s.fma(s.splat(part_weight), add, kept));
            total[0] = peak;
        }
    }
}

/// Divides the weighted sums by the weights; rows that saw nothing are zero.
pub(super) fn finish(isa: Isa, total: &[f32], head_dim: usize, out: &mut [f32]) {
    assert_eq!(total.len(), partial_len(out.len() / head_dim, head_dim), "length of the result");
    isa.run(Finish { total, head_dim, out });
}

struct Finish<'a> {
    total: &'a [f32],
    head_dim: usize,
    out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.total.chunks_exact(self.head_dim + 2).zip(self.out.chunks_exact_mut(self.head_dim));
        for (total, out) in rows {
            let weight = total[self.head_dim + 1];
            let share = s.splat(if weight == 0.0 { 0.0 } else { 1.0 / weight });
            for (values, out) in total[..self.head_dim].chunks(LANES).zip(out.chunks_mut(LANES)) {
                store_part(s, out, s.mul(load_part(s, values, 0.0), share));
            }
        }
    }
}
