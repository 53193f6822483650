//! Sixteen lanes as two 256-bit registers.
#![expect(unsafe_code, reason = "intrinsics; every value of `Avx2` proves that the CPU has them")]

mod tile;

use std::arch::x86_64::*;

use super::{
    BYTE_BLOCK, Bf16Order, CodeRange, LANES, Many, NIBBLE_BLOCK, QuantWeights, Simd, WideBlock, XBlock,
};

/// Proof of AVX2, FMA and F16C; only `detect` makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Avx2(()))
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// One intrinsic on both registers.
macro_rules! both {
    (|$i:ident| $body:expr) => {{
        // SAFETY: `self` proves the features; every pointer is into an array reference of the exact length.
        unsafe {
            [
                {
                    let $i = 0usize;
                    $body
                },
                {
                    let $i = 1usize;
                    $body
                },
            ]
        }
    }};
}

impl Simd for Avx2 {
    type F = F;
    type I = I;
    type Tiles = ();
    const ROWS: usize = 6;
    const SUMS: usize = 6;
    const MANY: Many = Many::Same;
    const WIDE: bool = true;
    const BF16: Bf16Order = Bf16Order::Ascending;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        both!(|_i| _mm256_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        both!(|i| _mm256_loadu_ps(x.as_ptr().add(8 * i)))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], x: F) {
        both!(|i| _mm256_storeu_ps(to.as_mut_ptr().add(8 * i), x[i]));
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        both!(|i| _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8 * i).cast())))
    }
    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES], x: F) {
        both!(|i| _mm_storeu_si128(
            to.as_mut_ptr().add(8 * i).cast(),
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[i])
        ));
    }
    #[inline(always)]
    fn load_pairs(self, x: &[u8; 4 * LANES]) -> [F; 2] {
        let pairs = both!(|i| _mm256_loadu_si256(x.as_ptr().add(32 * i).cast()));
        [
            both!(|i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[i]))),
            // The upper half of a pair is its second number, the lower half would be more of the fraction.
            both!(|i| _mm256_castsi256_ps(_mm256_and_si256(pairs[i], _mm256_set1_epi32(-0x10000)))),
        ]
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        both!(|i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().add(8 * i).cast()))))
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES], x: F) {
        // SAFETY: `self` proves the features; the store is 16 bytes into an array of 16.
        unsafe {
            let pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            // The pack works within 128-bit halves; put its four quarters in order.
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn sum_i8(self, x: &[i8; LANES]) -> i16 {
        // SAFETY: `self` proves the features.
        unsafe { sum_bytes(x) }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        both!(|i| _mm256_add_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        both!(|i| _mm256_sub_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        both!(|i| _mm256_mul_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        both!(|i| _mm256_div_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        both!(|i| _mm256_fmadd_ps(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        both!(|i| _mm256_max_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        both!(|i| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a[i]))
    }
    #[inline(always)]
    fn copysign(self, a: F, sign: F) -> F {
        both!(|i| {
            let mask = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(mask, a[i]), _mm256_and_ps(mask, sign[i]))
        })
    }
    #[inline(always)]
    fn if_less(self, a: F, b: F, yes: F, no: F) -> F {
        both!(|i| _mm256_blendv_ps(no[i], yes[i], _mm256_cmp_ps::<_CMP_LT_OQ>(a[i], b[i])))
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        both!(|i| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[i]))
    }
    #[inline(always)]
    fn exp2i(self, n: F) -> F {
        both!(|i| {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n[i]), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn to_float(self, a: I) -> F {
        both!(|i| _mm256_cvtepi32_ps(a[i]))
    }

    #[inline(always)]
    fn sum(self, x: F) -> f32 {
        // SAFETY: `self` proves the features.
        unsafe { fold_sum(_mm256_add_ps(x[0], x[1])) }
    }
    #[inline(always)]
    fn largest(self, x: F) -> f32 {
        // SAFETY: `self` proves the features.
        unsafe { fold_largest(_mm256_max_ps(x[0], x[1])) }
    }

    #[inline(always)]
    fn tiles(self) {}

    #[inline(always)]
    fn load_int(self, x: &[i32; LANES]) -> I {
        both!(|i| _mm256_loadu_si256(x.as_ptr().add(8 * i).cast()))
    }

    #[inline(always)]
    fn nibbles<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; NIBBLE_BLOCK],
        x: &XBlock<R>,
        zero: i16,
    ) -> [[I; R]; 2] {
        let init = bias::<R, HALVES>(x, zero);
        // SAFETY: `self` proves the features; vector `g` of `w` and group `g` of `x` are within the arrays.
        unsafe {
            let none = [[_mm256_setzero_si256(); 2]; R];
            let (mut low, mut high) = (none, none);
            let mask = _mm256_set1_epi8(15);
            for g in 0..4 {
                for i in 0..2 {
                    let both = _mm256_loadu_si256(w.as_ptr().add(64 * g + 32 * i).cast());
                    let (l, h) =
                        (_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask));
                    for r in 0..R {
                        // A pair is at most 2·15·127 and eight are added: 30,480 fits 16 bits.
                        let pl = _mm256_maddubs_epi16(l, quad(&x.q[r], g));
                        let ph = _mm256_maddubs_epi16(h, quad(&x.q[r], 4 + g));
                        low[r][i] = _mm256_add_epi16(low[r][i], pl);
                        if HALVES {
                            high[r][i] = _mm256_add_epi16(high[r][i], ph);
                        } else {
                            low[r][i] = _mm256_add_epi16(low[r][i], ph);
                        }
                    }
                }
            }
            let mut out = [none; 2];
            for r in 0..R {
                for i in 0..2 {
                    out[0][r][i] = _mm256_add_epi32(widen(low[r][i]), _mm256_set1_epi32(init[0][r]));
                    if HALVES {
                        out[1][r][i] = _mm256_add_epi32(widen(high[r][i]), _mm256_set1_epi32(init[1][r]));
                    }
                }
            }
            out
        }
    }

    #[inline(always)]
    fn bytes<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; BYTE_BLOCK],
        range: CodeRange,
        x: &XBlock<R>,
        wide: &[WideBlock; R],
        zero: i16,
    ) -> [[I; R]; 2] {
        let init = bias::<R, HALVES>(x, zero);
        // SAFETY: `self` proves the features; vector `g` of `w` and group `g` of `x` are within the arrays.
        unsafe {
            let mut out = [[[_mm256_setzero_si256(); 2]; R]; 2];
            for half in 0..2 {
                for r in 0..R {
                    out[half][r] = [_mm256_set1_epi32(init[half][r]); 2];
                }
            }
            // Groups of four inputs whose products are added in 16 bits.
            let run = match range {
                CodeRange::Bits4 | CodeRange::Bits5 => 4,
                CodeRange::Bits6 => 2,
                CodeRange::Bits8 => {
                    let mask = _mm256_set1_epi16(255);
                    for g in 0..8 {
                        let half = usize::from(HALVES && g >= 4);
                        for i in 0..2 {
                            let both = _mm256_loadu_si256(w.as_ptr().add(64 * g + 32 * i).cast());
                            let (even, odd) = (_mm256_and_si256(both, mask), _mm256_srli_epi16::<8>(both));
                            for r in 0..R {
                                let at = wide[r].0.as_ptr().add(4 * g).cast::<i32>();
                                let xe = _mm256_set1_epi32(at.read_unaligned());
                                let xo = _mm256_set1_epi32(at.add(1).read_unaligned());
                                let sum = &mut out[half][r][i];
                                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(even, xe));
                                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(odd, xo));
                            }
                        }
                    }
                    return out;
                }
            };
            for first in (0..8).step_by(run) {
                let half = usize::from(HALVES && first >= 4);
                for i in 0..2 {
                    let mut sums = [_mm256_setzero_si256(); R];
                    for g in first..first + run {
                        let codes = _mm256_loadu_si256(w.as_ptr().add(64 * g + 32 * i).cast());
                        for r in 0..R {
                            // At most 4·2·31·127 or 2·2·63·127: both fit 16 bits.
                            let products = _mm256_maddubs_epi16(codes, quad(&x.q[r], g));
                            sums[r] = _mm256_add_epi16(sums[r], products);
                        }
                    }
                    for r in 0..R {
                        out[half][r][i] = _mm256_add_epi32(out[half][r][i], widen(sums[r]));
                    }
                }
            }
            out
        }
    }

    #[inline(always)]
    fn weighted<const R: usize>(
        self,
        sums: &mut [F; R],
        weights: [&[f32]; R],
        values: &[f32],
        stride: usize,
    ) {
        // SAFETY: `self` proves the features.
        unsafe { tile::weighted::<R>(sums, weights, values, stride) }
    }

    #[inline(always)]
    fn panel<Q: QuantWeights, const R: usize>(
        self,
        y: [F; R],
        x: &[XBlock<R>],
        wide: &[[WideBlock; R]],
        panel: &[u8],
    ) -> Option<[F; R]> {
        // One or two rows leave registers free for all sixteen outputs, so that a panel is read in one sweep.
        // SAFETY: `self` proves the features; `wide` is filled for formats of whole bytes, because `WIDE` is set.
        (R > 2 && tile::knows::<Q>()).then(|| unsafe { tile::tile::<Q, R>(y, x, wide, panel) })
    }
}

/// What the sums begin with: what the zero point takes off.
#[inline(always)]
fn bias<const R: usize, const HALVES: bool>(x: &XBlock<R>, zero: i16) -> [[i32; R]; 2] {
    let mut init = [[0; R]; 2];
    for r in 0..R {
        let [a, b] = x.bias(r, zero);
        (init[0][r], init[1][r]) = if HALVES { (a, b) } else { (a + b, 0) };
    }
    init
}

/// Four consecutive activations in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
fn quad(q: &[i8; 32], group: usize) -> __m256i {
    let at = 4 * group;
    _mm256_set1_epi32(i32::from_le_bytes([q[at] as u8, q[at + 1] as u8, q[at + 2] as u8, q[at + 3] as u8]))
}

/// Adds neighbouring 16-bit sums into 32-bit ones.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(sums: __m256i) -> __m256i {
    _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
}

/// Sum of sixteen bytes: as distances from the least byte there is, which one instruction adds.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_bytes(x: &[i8; LANES]) -> i16 {
    // SAFETY: the load is of the array's 16 bytes.
    let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
    let sums = _mm_sad_epu8(_mm_xor_si128(x, _mm_set1_epi8(i8::MIN)), _mm_setzero_si128());
    (_mm_cvtsi128_si32(sums) + _mm_extract_epi16::<4>(sums)) as i16 + LANES as i16 * i16::from(i8::MIN)
}

/// Sum of eight lanes, halves folded onto each other.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn fold_sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// Largest of eight lanes, halves folded onto each other; the instruction returns its second operand where one is no number,
/// as the definition of `max` does.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn fold_largest(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}
