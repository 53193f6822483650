//! Sixteen lanes as one 512-bit register, with the byte dot product of VNNI.
#![expect(unsafe_code, reason = "intrinsics; every value of `Avx512` proves that the CPU has them")]

use std::arch::x86_64::*;

use super::avx2::{fold_largest, fold_sum, sum_bytes};
use super::{
    BF16_BLOCK, BYTE_BLOCK, Begin, Bf16Order, Bf16Rows, Bf16Sums, ByteBlock, CodeRange, LANES, MATRIX_ROWS,
    Many, MatrixSums, NIBBLE_BLOCK, Simd, WideBlock, XBlock, amx,
};

/// Proof of AVX-512 F, BW, VL, DQ and VNNI, and of AVX2, FMA and F16C, and of the instructions that `UNIT` names. Only functions
/// that ask the CPU make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512<const UNIT: u8>(());

/// Nothing more.
pub(crate) const PLAIN: u8 = 0;
/// The dot product of bf16.
pub(crate) const DOT_BF16: u8 = 1;
/// AMX with tiles of bytes and of bf16.
pub(crate) const MATRIX: u8 = 2;

impl Avx512<PLAIN> {
    pub(crate) fn detect() -> Option<Avx512<PLAIN>> {
        (super::avx2::Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni"))
        .then_some(Avx512(()))
    }

    /// The same with the dot product of bf16, if the CPU has it.
    pub(crate) fn with_bf16(self) -> Option<Avx512<DOT_BF16>> {
        is_x86_feature_detected!("avx512bf16").then_some(Avx512(()))
    }

    /// # Safety
    /// The CPU has AMX with tiles of bytes and of bf16, and the system lets this process use it.
    pub(super) unsafe fn with_matrix_unit(self) -> Avx512<MATRIX> {
        Avx512(())
    }
}

/// Whether the dot product of bf16 is faster than multiplying floats. It is twice as fast on AMD's Zen 4 and needs one and a half times as long on
/// Intel's processors, which multiply floats twice a cycle and begin such a product every other one.
pub(crate) fn bf16_is_faster() -> bool {
    let vendor = __cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// One expression of intrinsics.
macro_rules! op {
    ($body:expr) => {{
        // SAFETY: `self` proves the features; every pointer is into an array reference of the exact length.
        unsafe { $body }
    }};
}

impl<const UNIT: u8> Avx512<UNIT> {
    /// Without what `UNIT` names.
    pub(crate) fn plain(self) -> Avx512<PLAIN> {
        Avx512(())
    }
}

impl<const UNIT: u8> Simd for Avx512<UNIT> {
    type F = __m512;
    type I = __m512i;
    type Tiles = amx::Tiles;
    const ROWS: usize = if UNIT == MATRIX { MATRIX_ROWS } else { 8 };
    const SUMS: usize = 12;
    const MANY: Many = if UNIT == MATRIX { Many::Matrix } else { Many::Unpack };
    const WIDE: bool = false;
    const BF16: Bf16Order = match UNIT {
        MATRIX => Bf16Order::Blocks,
        DOT_BF16 => Bf16Order::OddFirst,
        _ => Bf16Order::Ascending,
    };

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        op!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], x: __m512) {
        op!(_mm512_storeu_ps(to.as_mut_ptr(), x))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES], x: __m512) {
        op!(_mm256_storeu_si256(
            to.as_mut_ptr().cast(),
            _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
        ))
    }
    #[inline(always)]
    fn load_pairs(self, x: &[u8; 4 * LANES]) -> [__m512; 2] {
        op!({
            let pairs = _mm512_loadu_si512(x.as_ptr().cast());
            // The upper half of a pair is its second number, the lower half would be more of the fraction.
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
        })
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES], x: __m512) {
        op!(_mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x))))
    }
    #[inline(always)]
    fn sum_i8(self, x: &[i8; LANES]) -> i16 {
        op!(sum_bytes(x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn copysign(self, a: __m512, sign: __m512) -> __m512 {
        op!({
            let mask = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(mask, a), _mm512_and_ps(mask, sign))
        })
    }
    #[inline(always)]
    fn if_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2i(self, n: __m512) -> __m512 {
        op!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        op!(fold_sum(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }
    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        op!(fold_largest(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }

    #[inline(always)]
    fn nibbles<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; NIBBLE_BLOCK],
        x: &XBlock<R>,
        zero: i16,
    ) -> [[__m512i; R]; 2] {
        // SAFETY: `self` proves the features; vector `g` of `w` and group `g` of `x` are within the arrays.
        unsafe {
            let mut sums = start::<R, HALVES>(x, zero);
            let mask = _mm512_set1_epi8(15);
            for g in 0..4 {
                let both = _mm512_loadu_si512(w.as_ptr().add(64 * g).cast());
                let low = _mm512_and_si512(both, mask);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                for r in 0..R {
                    sums[0][r] = _mm512_dpbusd_epi32(sums[0][r], low, quad(&x.q[r], g));
                    let to = second_chain::<R, HALVES>();
                    sums[to][r] = _mm512_dpbusd_epi32(sums[to][r], high, quad(&x.q[r], 4 + g));
                }
            }
            finish::<R, HALVES>(sums)
        }
    }

    #[inline(always)]
    fn bytes<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; BYTE_BLOCK],
        _: CodeRange,
        x: &XBlock<R>,
        _: &[WideBlock; R],
        zero: i16,
    ) -> [[__m512i; R]; 2] {
        // SAFETY: `self` proves the features; vector `g` of `w` and group `g` of `x` are within the arrays.
        unsafe {
            let mut sums = start::<R, HALVES>(x, zero);
            for g in 0..4 {
                let low = _mm512_loadu_si512(w.as_ptr().add(64 * g).cast());
                let high = _mm512_loadu_si512(w.as_ptr().add(64 * (4 + g)).cast());
                for r in 0..R {
                    sums[0][r] = _mm512_dpbusd_epi32(sums[0][r], low, quad(&x.q[r], g));
                    let to = second_chain::<R, HALVES>();
                    sums[to][r] = _mm512_dpbusd_epi32(sums[to][r], high, quad(&x.q[r], 4 + g));
                }
            }
            finish::<R, HALVES>(sums)
        }
    }

    #[inline(always)]
    fn unpack(self, w: &[u8; NIBBLE_BLOCK], zero: u8, to: &mut [u8; BYTE_BLOCK]) {
        // SAFETY: `self` proves the features; vector `g` is within the arrays.
        unsafe {
            let mask = _mm512_set1_epi8(15);
            let zero = _mm512_set1_epi8(zero as i8);
            for g in 0..4 {
                let both = _mm512_loadu_si512(w.as_ptr().add(64 * g).cast());
                let low = _mm512_sub_epi8(_mm512_and_si512(both, mask), zero);
                let high = _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16::<4>(both), mask), zero);
                _mm512_storeu_si512(to.as_mut_ptr().add(64 * g).cast(), low);
                _mm512_storeu_si512(to.as_mut_ptr().add(64 * (4 + g)).cast(), high);
            }
        }
    }

    #[inline(always)]
    fn load_int(self, x: &[i32; LANES]) -> __m512i {
        op!(_mm512_loadu_si512(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn tiles(self) -> amx::Tiles {
        assert!(UNIT == MATRIX, "only this proof is of AMX");
        // SAFETY: just checked.
        unsafe { amx::Tiles::new() }
    }

    #[inline(always)]
    fn matrix(
        self,
        x: &[XBlock<MATRIX_ROWS>],
        w: &[ByteBlock],
        tiles: &mut amx::Tiles,
        sums: &mut MatrixSums,
    ) {
        tiles.products(x, w, sums);
    }

    #[inline(always)]
    fn add_pairs(self, sums: __m512, pairs: &[u8; 4 * LANES], x: u32) -> __m512 {
        assert!(UNIT == DOT_BF16, "only this proof is of the dot product");
        // SAFETY: just checked; the load is of the array's 64 bytes.
        unsafe { dot_pairs(sums, _mm512_loadu_si512(pairs.as_ptr().cast()), x) }
    }

    #[inline(always)]
    fn bf16_matrix<const X: usize, const W: usize>(
        self,
        x: [Bf16Rows<'_>; X],
        w: [&[[u8; BF16_BLOCK]]; W],
        tiles: &mut amx::Tiles,
        begin: Begin,
        sums: &mut Bf16Sums,
    ) {
        tiles.bf16_products(x, w, begin, sums);
    }

    #[inline(always)]
    fn weighted<const R: usize>(
        self,
        sums: &mut [__m512; R],
        weights: [&[f32]; R],
        values: &[f32],
        stride: usize,
    ) {
        let count = weights[0].len();
        assert!(weights.iter().all(|weights| weights.len() == count), "equally many weights");
        assert!(
            count == 0 || (count - 1) * stride + LANES <= values.len(),
            "sixteen values of every position"
        );
        let weights = weights.map(<[f32]>::as_ptr);
        for i in 0..count {
            // SAFETY: `self` proves the features; the lengths were just checked.
            unsafe {
                let values = _mm512_loadu_ps(values.as_ptr().add(i * stride));
                for r in 0..R {
                    sums[r] = _mm512_fmadd_ps(_mm512_set1_ps(*weights[r].add(i)), values, sums[r]);
                }
            }
        }
    }
}

/// What the sums begin with: what the zero point takes off. The sums of both halves are neighbours in one lane, so that one
/// instruction multiplies and adds them.
///
/// # Safety
/// The CPU has what [`Avx512`] proves.
#[inline(always)]
unsafe fn start<const R: usize, const HALVES: bool>(x: &XBlock<R>, zero: i16) -> [[__m512i; R]; 2] {
    // SAFETY: two 16-bit sums are four bytes; the features are the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); R]; 2];
        if zero == 0 {
            return sums;
        }
        if let (false, Some(bias)) = (HALVES, x.kept_bias(zero)) {
            for r in 0..R {
                sums[0][r] = _mm512_set1_epi32(bias[r]);
            }
            return sums;
        }
        let factors = [i32::from(-zero) & 0xffff, i32::from(-zero) << 16];
        for r in 0..R {
            let both = _mm512_set1_epi32((&raw const x.sums[r]).cast::<i32>().read_unaligned());
            let times = |factors| _mm512_madd_epi16(both, _mm512_set1_epi32(factors));
            if HALVES {
                sums[0][r] = times(factors[0]);
                sums[1][r] = times(factors[1]);
            } else {
                sums[0][r] = times(factors[0] | factors[1]);
            }
        }
        sums
    }
}

/// Which of the two sums takes the products of the second half. Few rows have two chains in any case, because a dot product
/// has a latency of several cycles; many rows are as many chains, and one sum each saves the addition.
const fn second_chain<const R: usize, const HALVES: bool>() -> usize {
    if HALVES || R < 4 { 1 } else { 0 }
}

/// The sums as the trait wants them.
///
/// # Safety
/// The CPU has what [`Avx512`] proves.
#[inline(always)]
unsafe fn finish<const R: usize, const HALVES: bool>(mut sums: [[__m512i; R]; 2]) -> [[__m512i; R]; 2] {
    if !HALVES && second_chain::<R, HALVES>() == 1 {
        for r in 0..R {
            // SAFETY: the features are the caller's promise.
            sums[0][r] = unsafe { _mm512_add_epi32(sums[0][r], sums[1][r]) };
        }
    }
    sums
}

/// Adds the products of pairs with two bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_pairs(sums: __m512, pairs: __m512i, x: u32) -> __m512 {
    // No closures around intrinsics: what is passed to `map` has features that `map` does not have, and becomes a call.
    // SAFETY: vectors of as many bits, of which all are numbers.
    let pairs = unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) };
    // SAFETY: as above.
    let x = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x as i32)) };
    _mm512_dpbf16_ps(sums, pairs, x)
}

/// Four consecutive activations in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn quad(q: &[i8; 32], group: usize) -> __m512i {
    let at = 4 * group;
    _mm512_set1_epi32(i32::from_le_bytes([q[at] as u8, q[at + 1] as u8, q[at + 2] as u8, q[at + 3] as u8]))
}
