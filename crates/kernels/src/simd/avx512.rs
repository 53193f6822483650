//! Sixteen lanes as one 512-bit register, with the byte dot product of VNNI.
#![expect(unsafe_code, reason = "intrinsics; every value of `Avx512` proves that the CPU has them")]

use std::arch::x86_64::*;

use super::avx2::{fold_largest, fold_sum};
use super::{BYTE_BLOCK, CodeRange, LANES, NIBBLE_BLOCK, Simd, WideBlock, XBlock};

/// Proof of AVX-512 F, BW, VL, DQ and VNNI, and of AVX2, FMA and F16C; only `detect` makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Avx512> {
        (super::avx2::Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni"))
        .then_some(Avx512(()))
    }
}

/// One expression of intrinsics.
macro_rules! op {
    ($body:expr) => {{
        // SAFETY: `self` proves the features; every pointer is into an array reference of the exact length.
        unsafe { $body }
    }};
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const ROWS: usize = 8;
    const WIDE: bool = false;

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
    fn load_bf16(self, x: &[u16; LANES]) -> __m512 {
        op!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
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
        x: [&XBlock; R],
        init: [[i32; R]; 2],
    ) -> [[__m512i; R]; 2] {
        // SAFETY: `self` proves the features; vector `g` of `w` and group `g` of `x` are within the arrays.
        unsafe {
            let mut low = [_mm512_setzero_si512(); R];
            let mut high = [_mm512_setzero_si512(); R];
            for r in 0..R {
                low[r] = _mm512_set1_epi32(init[0][r]);
                if HALVES {
                    high[r] = _mm512_set1_epi32(init[1][r]);
                }
            }
            let mask = _mm512_set1_epi8(15);
            for g in 0..4 {
                let both = _mm512_loadu_si512(w.as_ptr().add(64 * g).cast());
                let l = _mm512_and_si512(both, mask);
                let h = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                for r in 0..R {
                    low[r] = _mm512_dpbusd_epi32(low[r], l, quad(&x[r].q, g));
                    // Two chains even without halves: the dot product has a latency of several cycles.
                    high[r] = _mm512_dpbusd_epi32(high[r], h, quad(&x[r].q, 4 + g));
                }
            }
            if !HALVES {
                for r in 0..R {
                    low[r] = _mm512_add_epi32(low[r], high[r]);
                }
            }
            [low, high]
        }
    }

    #[inline(always)]
    fn bytes<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; BYTE_BLOCK],
        _: CodeRange,
        x: [&XBlock; R],
        _: [&WideBlock; R],
        init: [[i32; R]; 2],
    ) -> [[__m512i; R]; 2] {
        // SAFETY: `self` proves the features; vector `g` of `w` and group `g` of `x` are within the arrays.
        unsafe {
            let mut low = [_mm512_setzero_si512(); R];
            let mut high = [_mm512_setzero_si512(); R];
            for r in 0..R {
                low[r] = _mm512_set1_epi32(init[0][r]);
                if HALVES {
                    high[r] = _mm512_set1_epi32(init[1][r]);
                }
            }
            for g in 0..4 {
                let l = _mm512_loadu_si512(w.as_ptr().add(64 * g).cast());
                let h = _mm512_loadu_si512(w.as_ptr().add(64 * (4 + g)).cast());
                for r in 0..R {
                    low[r] = _mm512_dpbusd_epi32(low[r], l, quad(&x[r].q, g));
                    high[r] = _mm512_dpbusd_epi32(high[r], h, quad(&x[r].q, 4 + g));
                }
            }
            if !HALVES {
                for r in 0..R {
                    low[r] = _mm512_add_epi32(low[r], high[r]);
                }
            }
            [low, high]
        }
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

/// Four consecutive activations in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn quad(q: &[i8; 32], group: usize) -> __m512i {
    let at = 4 * group;
    _mm512_set1_epi32(i32::from_le_bytes([q[at] as u8, q[at + 1] as u8, q[at + 2] as u8, q[at + 3] as u8]))
}
