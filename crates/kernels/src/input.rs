//! Decides how activations are rounded to signed bytes, and holds them in every form that a product reads.
//!
//! Thirty-two consecutive activations share the scale `max|x| / 127`, kept in single precision; ties round
//! to even. A block with an infinity or NaN in it gets a NaN scale, so that the product shows it. A block
//! whose magnitudes are all below 1e-30 is zero.

use crate::{
    Isa, Team,
    block::Format,
    isa::Kernel,
    simd::{CodeRange, Simd, WideBlock, XBlock},
};

/// The forms of activations that a matrix product reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputKind {
    float: bool,
    quantized: bool,
    /// Whether byte weights of the full range occur, for which some instruction sets want 16-bit numbers.
    bytes: bool,
}

impl InputKind {
    /// No form at all.
    pub const NONE: InputKind = InputKind { float: false, quantized: false, bytes: false };

    pub(crate) fn of(format: Option<Format>) -> InputKind {
        match format {
            None => InputKind { float: true, ..InputKind::NONE },
            Some(format) => {
                InputKind { float: false, quantized: true, bytes: format.range == CodeRange::Bits8 }
            }
        }
    }

    /// What either needs.
    pub fn union(self, other: InputKind) -> InputKind {
        InputKind {
            float: self.float || other.float,
            quantized: self.quantized || other.quantized,
            bytes: self.bytes || other.bytes,
        }
    }

    fn covers(self, other: InputKind) -> bool {
        self.union(other) == self
    }
}

/// Activations of some rows, in a buffer that is filled again and again.
pub struct Input {
    rows: usize,
    k: usize,
    kind: InputKind,
    isa: Isa,
    float: Vec<f32>,
    blocks: Vec<XBlock>,
    wide: Vec<WideBlock>,
}

impl Default for Input {
    fn default() -> Input {
        Input::new()
    }
}

impl Input {
    /// An empty buffer; it grows to the largest activations that it has held.
    pub fn new() -> Input {
        Input {
            rows: 0,
            k: 0,
            kind: InputKind::NONE,
            isa: Isa::SCALAR,
            float: Vec::new(),
            blocks: Vec::new(),
            wide: Vec::new(),
        }
    }

    /// Rows that it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Activations of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Takes over `x: (rows, k)` in the forms of `kind`, for products on `isa`.
    ///
    /// # Panics
    /// When `x` is not `rows · k` long, or `kind` comes from a quantised matrix and `k` is no multiple of 32.
    pub fn fill(&mut self, isa: Isa, team: &Team, x: &[f32], rows: usize, k: usize, kind: InputKind) {
        assert_eq!(x.len(), rows * k, "activations of {rows} rows of {k}");
        (self.rows, self.k, self.kind, self.isa) = (rows, k, kind, isa);
        self.float.clear();
        if kind.float {
            self.float.extend_from_slice(x);
        }
        if !kind.quantized {
            return;
        }
        assert!(k.is_multiple_of(32), "activations of a quantised matrix are whole blocks");
        let blocks = rows * k / 32;
        let wide = if kind.bytes && isa.wide() { blocks } else { 0 };
        self.blocks.resize(blocks, XBlock::default());
        self.wide.resize(wide, WideBlock::default());
        // Below a few rows waking the team costs more than it saves.
        const GRAIN: usize = 256;
        let x = x.as_chunks::<32>().0;
        if wide == 0 {
            team.for_each_chunk(&mut self.blocks, GRAIN, 1, &|at, out| {
                isa.run(Quantize { x: &x[at * GRAIN..][..out.len()], out, wide: &mut [] });
            });
        } else {
            team.for_each_chunk_pair(
                (&mut self.blocks, GRAIN),
                (&mut self.wide, GRAIN),
                1,
                &|at, out, wide| {
                    isa.run(Quantize { x: &x[at * GRAIN..][..out.len()], out, wide });
                },
            );
        }
    }

    /// Row `row` as floats.
    #[inline(always)]
    pub(crate) fn float_row(&self, row: usize) -> &[f32] {
        &self.float[row * self.k..][..self.k]
    }

    /// Row `row` as blocks.
    #[inline(always)]
    pub(crate) fn block_row(&self, row: usize) -> &[XBlock] {
        &self.blocks[row * (self.k / 32)..][..self.k / 32]
    }

    /// Row `row` as 16-bit numbers; empty when the instruction set does not read them.
    #[inline(always)]
    pub(crate) fn wide_row(&self, row: usize) -> &[WideBlock] {
        if self.wide.is_empty() { &[] } else { &self.wide[row * (self.k / 32)..][..self.k / 32] }
    }

    /// Whether it holds the forms that a matrix reads on `isa`.
    pub(crate) fn serves(&self, isa: Isa, kind: InputKind) -> bool {
        self.kind.covers(kind) && (!kind.bytes || !isa.wide() || self.isa.wide())
    }
}

struct Quantize<'a> {
    x: &'a [[f32; 32]],
    out: &'a mut [XBlock],
    wide: &'a mut [WideBlock],
}

impl Kernel for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.iter().zip(self.out.iter_mut()) {
            let halves = x.as_chunks::<16>().0;
            let (a, b) = (s.load(&halves[0]), s.load(&halves[1]));
            let most = s.largest(s.max(s.abs(a), s.abs(b)));
            // Zero times a number is zero, but not times an infinity or NaN.
            let zero = s.splat(0.0);
            let spoilt = s.sum(s.fma(a, zero, s.mul(b, zero)));
            *out = XBlock::default();
            if spoilt != 0.0 {
                (out.scale, out.weighted) = (f32::NAN, f32::NAN);
            } else if most >= 1e-30 {
                out.scale = most / 127.0;
                let inverse = s.splat(127.0 / most);
                let halves = out.q.as_chunks_mut::<16>().0;
                for (i, (x, to)) in [a, b].into_iter().zip(halves).enumerate() {
                    s.store_i8(to, s.mul(x, inverse));
                    out.sums[i] = to.iter().map(|q| i16::from(*q)).sum();
                }
                out.weighted = out.scale * f32::from(out.sums[0] + out.sums[1]);
            }
        }
        for (wide, block) in self.wide.iter_mut().zip(self.out.iter()) {
            *wide = WideBlock::new(&block.q);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(isa: Isa, x: &[f32; 32]) -> XBlock {
        let mut input = Input::new();
        let kind = InputKind { float: false, quantized: true, bytes: false };
        input.fill(isa, &Team::new(1), x, 1, 32, kind);
        input.blocks[0]
    }

    #[test]
    fn extremes_become_127_and_ties_round_to_even() {
        for isa in Isa::available() {
            let mut x = [0.0; 32];
            (x[0], x[1], x[2], x[17]) = (127.0, 0.5, 1.5, -127.0);
            let block = quantized(isa, &x);
            assert_eq!(
                (block.scale, block.q[0], block.q[1], block.q[2], block.q[17]),
                (1.0, 127, 0, 2, -127)
            );
            assert_eq!(block.sums, [129, -127]);
        }
    }

    #[test]
    fn what_is_no_number_poisons_its_block() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in 0..32 {
                    let mut x = [1.0; 32];
                    x[at] = bad;
                    assert!(quantized(isa, &x).scale.is_nan(), "{isa} {bad} at {at}");
                }
            }
        }
    }

    #[test]
    fn tiny_and_zero_blocks_are_zero() {
        for isa in Isa::available() {
            for x in [0.0, -0.0, 1e-40, 9e-31] {
                let block = quantized(isa, &[x; 32]);
                assert_eq!((block.scale, block.q, block.sums), (0.0, [0; 32], [0; 2]));
            }
        }
    }
}
