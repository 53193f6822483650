//! Decides what an instruction set must offer: sixteen float lanes, sixteen integer lanes and exact
//! integer dot products of one weight block.
//!
//! Values that implement [`Simd`] prove that the CPU has the instructions, so the methods are safe. All
//! memory operands are references to arrays of the exact length, so no method can read out of bounds.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "asks the CPU for memory ahead of its use"))]

use std::mem::MaybeUninit;

use crate::DType;
use crate::block::Format;
pub(crate) use crate::block::Scales;
use crate::matrix::QuantLayout;
pub(crate) use bf16::{BF16_BLOCK, Begin, Bf16Line, Bf16Order, Bf16Rows, Bf16Sums};

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod bf16;
pub(crate) mod scalar;

/// Lanes of every float and integer vector, whatever the registers are.
pub(crate) const LANES: usize = 16;

/// Bytes of 32 inputs by 16 outputs with two weights to a byte.
pub(crate) const NIBBLE_BLOCK: usize = 256;

/// Bytes of 32 inputs by 16 outputs with one weight to a byte.
pub(crate) const BYTE_BLOCK: usize = 512;

/// Blocks of 32 inputs that a matrix unit multiplies before its sums are looked at: it has room for as many, and with fewer
/// the two wait for each other.
pub(crate) const MATRIX_BLOCKS: usize = 4;

/// Rows of activations that it multiplies at once.
pub(crate) const MATRIX_ROWS: usize = 16;

/// Rows of activations that vectors multiply at once at most: with more, the sums leave the registers.
pub(crate) const VECTOR_ROWS: usize = 8;

/// The codes of 32 inputs of 16 outputs with a byte for each, in the order of [`Simd::bytes`]. Whole cache lines: loads across two
/// of them take twice as long.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct ByteBlock(pub(crate) [u8; BYTE_BLOCK]);

/// What a matrix unit has summed: of each block, rows of sixteen outputs.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct MatrixSums(pub(crate) [MaybeUninit<[[i32; LANES]; MATRIX_ROWS]>; MATRIX_BLOCKS]);

/// Thirty-two activations of each of `R` rows as signed bytes. What a matrix unit reads at once is 32 bytes for each row
/// without a gap, so the bytes of all rows come first. What follows is in the order of how often formats
/// read it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct XBlock<const R: usize> {
    /// In `-127..=127`.
    pub(crate) q: [[i8; 32]; R],
    /// What a zero point of 8 takes off the products of a block: loading it costs nothing, where multiplying costs as much as a
    /// tenth of the products.
    pub(crate) bias_8: [i32; R],
    /// `x ≈ scale · q`.
    pub(crate) scale: [f32; R],
    /// As `bias_8` for 128.
    pub(crate) bias_128: [i32; R],
    /// `scale` times both sums.
    pub(crate) weighted: [f32; R],
    /// Sums of `q[..16]` and `q[16..]`.
    pub(crate) sums: [[i16; 2]; R],
}

impl<const R: usize> XBlock<R> {
    /// `-zero` times the sums of both halves of a row.
    #[inline(always)]
    pub(crate) fn bias(&self, row: usize, zero: i16) -> [i32; 2] {
        self.sums[row].map(|sum| -i32::from(zero) * i32::from(sum))
    }

    /// `-zero` times the sum of each row, where it is kept.
    #[inline(always)]
    pub(crate) fn kept_bias(&self, zero: i16) -> Option<&[i32; R]> {
        match zero {
            8 => Some(&self.bias_8),
            128 => Some(&self.bias_128),
            _ => None,
        }
    }
}

/// Rows of the next register tile when `left` rows are left and a tile has at most `most`. Activations lie in the order of
/// these tiles, so whoever fills them and whoever reads them must cut alike.
#[inline(always)]
pub(crate) fn tile_rows(left: usize, most: usize) -> usize {
    [most, 8, 4, 2].into_iter().find(|rows| *rows <= left.min(most)).unwrap_or(1)
}

/// The `q` of an [`XBlock`] as 16-bit numbers: of each four consecutive values first the even two,
/// then the odd two, as the AVX2 product of byte weights wants them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct WideBlock(pub(crate) [i16; 32]);

impl WideBlock {
    pub(crate) fn new(q: &[i8; 32]) -> WideBlock {
        let mut wide = [0; 32];
        for (to, from) in wide.chunks_exact_mut(4).zip(q.chunks_exact(4)) {
            to.copy_from_slice(&[from[0].into(), from[2].into(), from[1].into(), from[3].into()]);
        }
        WideBlock(wide)
    }
}

/// Largest weight code of a format; it decides how many products fit a 16-bit partial sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeRange {
    /// `0..=15`: eight pairs fit.
    Bits4,
    /// `0..=31`: four pairs fit.
    Bits5,
    /// `0..=63`: two pairs fit.
    Bits6,
    /// `0..=255`: not even one pair fits.
    Bits8,
}

/// What becomes of a panel that many rows share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    /// Nothing else than for few rows.
    Same,
    /// Codes of four bits are unpacked once for all tiles, not once for each.
    Unpack,
    /// Its codes are unpacked and multiplied by a matrix unit; [`Simd::matrix`] may be called.
    Matrix,
}

impl Many {
    /// Whether it is a way for a type. Products of bf16 are the same for any number of rows.
    pub(crate) fn knows(self, dtype: DType) -> bool {
        match (self, Format::of(dtype)) {
            (Many::Same, _) => true,
            (_, None) => dtype == DType::BF16,
            (Many::Unpack, Some(format)) => format.range == CodeRange::Bits4,
            (Many::Matrix, Some(format)) => !format.halves,
        }
    }
}

/// A quantised type as constants.
pub trait QuantWeights {
    /// What its blocks mean.
    const FORMAT: Format;
    /// Where they are in a panel.
    const LAYOUT: QuantLayout;
}

/// How sixteen lanes are computed on one instruction set.
///
/// Every method does the same arithmetic on every implementor that has it, bit for bit, on numbers (which NaN comes
/// out where one goes in is not specified).
pub trait Simd: Copy + Send + Sync {
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// What keeps a matrix unit ready.
    type Tiles;
    /// Rows of activations that a register tile holds at most: 16, 8, 6 or 4.
    const ROWS: usize;
    /// Float vectors that stay in registers as sums beside what is added to them.
    const SUMS: usize;
    /// What becomes of a panel that many rows share.
    const MANY: Many;
    /// Whether products of byte weights read [`WideBlock`]s.
    const WIDE: bool;
    /// In which order products of bf16 are summed.
    const BF16: Bf16Order;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, to: &mut [f32; LANES], x: Self::F);
    /// Half-precision bits to single precision, exact.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// Rounds to nearest, ties to even.
    fn store_f16(self, to: &mut [u16; LANES], x: Self::F);
    /// Pairs of bf16 as floats: the sixteen first ones, the sixteen second ones.
    fn load_pairs(self, x: &[u8; 4 * LANES]) -> [Self::F; 2];
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;
    /// Rounds to nearest, ties to even; `x` is within `-127.5..127.5`.
    fn store_i8(self, to: &mut [i8; LANES], x: Self::F);
    /// Exact.
    #[inline(always)]
    fn sum_i8(self, x: &[i8; LANES]) -> i16 {
        x.iter().map(|x| i16::from(*x)).sum()
    }
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// The magnitude of `a` with the sign of `sign`.
    fn copysign(self, a: Self::F, sign: Self::F) -> Self::F;
    /// `if a < b { yes } else { no }`.
    fn if_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for integral `n` in `-126..=127`; any value for another `n`.
    fn exp2i(self, n: Self::F) -> Self::F;
    /// Integers below `2^24`, exact.
    fn to_float(self, a: Self::I) -> Self::F;

    /// Sum of the lanes in one fixed tree: halves are folded onto each other until one lane is left.
    fn sum(self, x: Self::F) -> f32;
    /// Largest lane, found by folding in the same tree with [`Simd::max`].
    fn largest(self, x: Self::F) -> f32;

    fn load_int(self, x: &[i32; LANES]) -> Self::I;

    /// Makes the matrix unit ready.
    fn tiles(self) -> Self::Tiles;

    /// `sums[b][r][o] = Σ_i x[b].q[r][i] · w[b]` over the 32 inputs of each of at most [`MATRIX_BLOCKS`] blocks, for
    /// [`MATRIX_ROWS`] rows by 16 outputs; weights are signed bytes in the order of [`Simd::bytes`]. Every `sums[b]` is written.
    #[inline(always)]
    fn matrix(
        self,
        _x: &[XBlock<MATRIX_ROWS>],
        _w: &[ByteBlock],
        _tiles: &mut Self::Tiles,
        _sums: &mut MatrixSums,
    ) {
        unreachable!("callers ask for `Many::Matrix` first")
    }

    /// Adds the products of `pairs` with the two bf16 in `x`, in the order [`Bf16Order::OddFirst`].
    #[inline(always)]
    fn add_pairs(self, _sums: Self::F, _pairs: &[u8; 4 * LANES], _x: u32) -> Self::F {
        unreachable!("callers ask for `Bf16Order::OddFirst` first")
    }

    /// The products of `X` tiles of rows with `W` panels, at most two of each and the first of two tiles a full one, in the order
    /// [`Bf16Order::Blocks`]; panels are blocks of [`BF16_BLOCK`] bytes, as many as `x` has. The rows' sums are written; where they
    /// begin with what is there, it is there for all rows.
    #[inline(always)]
    fn bf16_matrix<const X: usize, const W: usize>(
        self,
        _x: [Bf16Rows<'_>; X],
        _w: [&[[u8; BF16_BLOCK]]; W],
        _tiles: &mut Self::Tiles,
        _begin: Begin,
        _sums: &mut Bf16Sums,
    ) {
        unreachable!("callers ask for `Bf16Order::Blocks` first")
    }

    /// `Σ (code - zero) · q` over 32 inputs of 16 outputs by `R` rows, weights two to a byte: vector `g` (64 bytes)
    /// holds in byte `4·o + j` the weight of output `o` for input `4·g + j` (low half) and `16 + 4·g + j`
    /// (high half). With `HALVES` the first result is over inputs `..16` and the second over `16..`; without, the
    /// first holds the whole and the second nothing of use.
    fn nibbles<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; NIBBLE_BLOCK],
        x: &XBlock<R>,
        zero: i16,
    ) -> [[Self::I; R]; 2];

    /// As [`Simd::nibbles`] with a byte to a weight: vector `g` holds in byte `4·o + j` the weight of
    /// output `o` for input `4·g + j`. `wide` is the same activations as `x` where `WIDE` is true and
    /// the range is `Bits8`; else it is not read.
    fn bytes<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; BYTE_BLOCK],
        range: CodeRange,
        x: &XBlock<R>,
        wide: &[WideBlock; R],
        zero: i16,
    ) -> [[Self::I; R]; 2];

    /// Weights two to a byte as weights of a byte each, less `zero`, in the order of [`Simd::bytes`].
    #[inline(always)]
    fn unpack(self, w: &[u8; NIBBLE_BLOCK], zero: u8, to: &mut [u8; BYTE_BLOCK]) {
        let (low, high) = to.split_at_mut(NIBBLE_BLOCK);
        for ((both, low), high) in w.iter().zip(low).zip(high) {
            (*low, *high) = ((both & 15).wrapping_sub(zero), (both >> 4).wrapping_sub(zero));
        }
    }

    /// `sums[r] += Σ_i weights[r][i] · values[i · stride ..][..16]`, a chain over ascending `i`.
    #[inline(always)]
    fn weighted<const R: usize>(
        self,
        sums: &mut [Self::F; R],
        weights: [&[f32]; R],
        values: &[f32],
        stride: usize,
    ) {
        for (i, values) in values.chunks(stride).take(weights[0].len()).enumerate() {
            let values = self.load(values.first_chunk().expect("sixteen values of every position"));
            for r in 0..R {
                sums[r] = self.fma(self.splat(weights[r][i]), values, sums[r]);
            }
        }
    }

    /// The product of `R` rows with a whole panel, its sums beginning with `_y`, where this instruction set has a faster way than
    /// block by block.
    #[inline(always)]
    fn panel<Q: QuantWeights, const R: usize>(
        self,
        _y: [Self::F; R],
        _x: &[XBlock<R>],
        _wide: &[[WideBlock; R]],
        _panel: &[u8],
    ) -> Option<[Self::F; R]> {
        None
    }
}

/// How far ahead of its use a weight is asked for: memory answers after about as long as these bytes take to compute with.
const AHEAD: usize = 4 << 10;

/// Asks for the bytes that come [`AHEAD`] after `data`. Hardware prefetching stops at every page of 4 KiB, which a small
/// matrix crosses with each panel.
#[inline(always)]
pub(crate) fn prefetch(data: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..data.len()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching any address is harmless; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(AHEAD + line).cast()) }
    }
}

/// Asks for the 64 bytes that begin here.
#[inline(always)]
pub(crate) fn prefetch_line<E>(data: &[E]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching any address is harmless; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().cast()) }
    }
}

/// The lanes as an array.
#[inline(always)]
pub(crate) fn lanes<S: Simd>(s: S, x: S::F) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    s.store(&mut out, x);
    out
}

/// Up to sixteen numbers, the missing lanes `fill`.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(s: S, x: &[f32], fill: f32) -> S::F {
    if let Some(full) = x.first_chunk() {
        return s.load(full);
    }
    let mut lanes = [fill; LANES];
    lanes[..x.len()].copy_from_slice(x);
    s.load(&lanes)
}

/// Stores the first `to.len()` lanes, at most sixteen.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(s: S, to: &mut [f32], x: S::F) {
    if let Some(full) = to.first_chunk_mut() {
        return s.store(full, x);
    }
    let lanes = lanes(s, x);
    let len = to.len();
    to.copy_from_slice(&lanes[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, isa::Kernel, simd::scalar::Scalar};

    struct Bytes<'a>(&'a [i8; LANES]);

    impl Kernel for Bytes<'_> {
        type Out = i16;

        fn run<S: Simd>(self, s: S) -> i16 {
            s.sum_i8(self.0)
        }
    }

    #[test]
    fn bytes_are_summed_exactly() {
        for isa in Isa::available() {
            for (x, sum) in [([i8::MIN; LANES], -2048), ([i8::MAX; LANES], 2032), ([0; LANES], 0)] {
                assert_eq!(isa.run(Bytes(&x)), sum, "{isa}");
            }
            let x = std::array::from_fn(|i| if i % 2 == 0 { 7 * i as i8 } else { -(i as i8) });
            assert_eq!(isa.run(Bytes(&x)), 7 * 56 - 64, "{isa}");
        }
    }

    struct Folds<'a>(&'a [f32; LANES]);

    impl Kernel for Folds<'_> {
        type Out = [u32; 2];

        fn run<S: Simd>(self, s: S) -> [u32; 2] {
            let x = s.load(self.0);
            [s.sum(x).to_bits(), s.largest(x).to_bits()]
        }
    }

    #[test]
    fn lanes_are_folded_in_the_same_tree_everywhere() {
        let mut state = 1u32;
        for _ in 0..500 {
            let x = std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Of many magnitudes, so that another order would round otherwise.
                (state >> 8) as f32
                    * 2f32.powi((state % 40) as i32 - 30)
                    * if state & 64 == 0 { 1.0 } else { -1.0 }
            });
            for isa in Isa::available() {
                assert_eq!(isa.run(Folds(&x)), Folds(&x).run(Scalar), "{isa} {x:?}");
            }
        }
    }
}
