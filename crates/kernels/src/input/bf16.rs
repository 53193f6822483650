//! Decides how activations are rounded to bf16, and where they lie: as floats for instruction sets that multiply floats, else in
//! lines of 32, in the order in which a matrix unit reads them.
//!
//! Numbers are rounded to nearest, ties to even; what is no number stays none. Rows end with zeros up to a whole line.

use crate::{
    Isa, Team,
    isa::Kernel,
    simd::{Bf16Line, Bf16Order, Bf16Rows, MATRIX_ROWS, Simd},
};

/// Rows of activations as bf16.
#[derive(Default)]
pub(crate) struct Bf16Input {
    /// Activations of a row, a multiple of 32.
    k: usize,
    /// Row after row.
    floats: Vec<f32>,
    /// Sixteen rows after sixteen rows; of the last there are as many as are left. See [`Bf16Rows`].
    lines: Vec<Bf16Line>,
}

impl Bf16Input {
    /// Takes over `[rows, k]` activations that `make` computes, with a row of floats as `scratch` for each thread.
    pub(super) fn fill(
        &mut self,
        isa: Isa,
        team: &Team,
        [rows, k]: [usize; 2],
        scratch: &mut [Vec<f32>],
        make: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let whole = k.next_multiple_of(32);
        self.k = whole;
        if isa.bf16() == Bf16Order::Ascending {
            self.floats.resize(rows * whole, 0.0);
            return team.for_each_chunk(&mut self.floats, whole, super::ROW_GRAIN, &|row, to| {
                make(row, &mut to[..k]);
                to[k..].fill(0.0);
                isa.run(RoundFloats(to));
            });
        }
        let row_lines = whole / 32;
        self.lines.resize(rows * row_lines, Bf16Line([0; 32]));
        team.for_each_chunk_with(scratch, &mut self.lines, MATRIX_ROWS * row_lines, 1, &|x, group, lines| {
            x.clear();
            x.resize(whole, 0.0);
            let rows = lines.len() / row_lines;
            for row in 0..rows {
                make(group * MATRIX_ROWS + row, &mut x[..k]);
                isa.run(RoundLines { x, lines, row, rows });
            }
        });
    }

    /// Row `row` as floats.
    #[inline(always)]
    pub(crate) fn float_row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.k..][..self.k]
    }

    /// The sixteen rows, or as many as there are, that begin with row `row`, which is a multiple of 16.
    #[inline(always)]
    pub(crate) fn rows(&self, row: usize) -> Bf16Rows<'_> {
        let row_lines = self.k / 32;
        let lines = &self.lines[row * row_lines..];
        let lines = &lines[..lines.len().min(MATRIX_ROWS * row_lines)];
        Bf16Rows { lines, rows: lines.len().checked_div(row_lines).unwrap_or(0) }
    }
}

/// The bf16 that is nearest to a float.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    // The carry of a NaN could make a number of it.
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { nearest }
}

/// Rounds floats that stay floats.
struct RoundFloats<'a>(&'a mut [f32]);

impl Kernel for RoundFloats<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.0 {
            *x = f32::from_bits(u32::from(round(*x)) << 16);
        }
    }
}

/// Rounds a row of some, `row` of `rows`.
struct RoundLines<'a> {
    x: &'a [f32],
    lines: &'a mut [Bf16Line],
    row: usize,
    rows: usize,
}

impl Kernel for RoundLines<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let RoundLines { x, lines, row, rows } = self;
        for (x, line) in x.as_chunks().0.iter().zip(lines[row..].iter_mut().step_by(rows)) {
            let x: &[f32; 32] = x;
            line.0 = x.map(round);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_to_the_nearest_even() {
        let mut state = 1u32;
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Of every fourth the lower half is half a unit.
            let bits = if state >> 8 & 3 == 0 { state & 0xffff_0000 | 0x8000 } else { state };
            let x = f32::from_bits(bits);
            assert_eq!(round(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }
}
