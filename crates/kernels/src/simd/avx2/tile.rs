//! Decides the order of instructions in a product of quantised weights: eight outputs by `R` rows at a time, so that the
//! sums and results of a whole tile stay in the sixteen registers.
//!
//! The arithmetic is that of the general product, bit for bit: integer sums are exact in any order, and floats are added
//! block by block. What is gained is that no result leaves its register between blocks.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::simd::{CodeRange, LANES, QuantWeights, Scales, WideBlock, XBlock, prefetch};

/// Whether [`tile`] knows the format: one sum per block, and codes whose sums it knows how to hold.
pub(super) const fn knows<Q: QuantWeights>() -> bool {
    let held = match Q::FORMAT.range {
        CodeRange::Bits4 => matches!(Q::FORMAT.zero, 0 | 8),
        CodeRange::Bits5 | CodeRange::Bits8 => true,
        CodeRange::Bits6 => false,
    };
    held && !Q::FORMAT.halves
}

/// The product of `R` rows with sixteen outputs, its sums beginning with `y`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C, and `wide` is filled for a format of whole bytes.
#[inline(always)]
pub(super) unsafe fn tile<Q: QuantWeights, const R: usize>(
    y: [[__m256; 2]; R],
    x: &[XBlock<R>],
    wide: &[[WideBlock; R]],
    panel: &[u8],
) -> [[__m256; 2]; R] {
    let blocks = panel.len() / Q::LAYOUT.group() * Q::LAYOUT.blocks;
    let bytes = matches!(Q::FORMAT.range, CodeRange::Bits8);
    assert!(x.len() >= blocks && (!bytes || wide.len() >= blocks), "a block for every 32 inputs");
    // SAFETY: the lengths were just checked; the features are the caller's promise.
    unsafe {
        let mut begin = [[_mm256_setzero_ps(); R]; 2];
        for r in 0..R {
            [begin[0][r], begin[1][r]] = y[r];
        }
        let low = half::<Q, R>(begin[0], x, wide, panel, 0);
        let high = half::<Q, R>(begin[1], x, wide, panel, 1);
        std::array::from_fn(|r| [low[r], high[r]])
    }
}

/// Outputs `8 · half ..` of a tile.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn half<Q: QuantWeights, const R: usize>(
    mut y: [__m256; R],
    rows: &[XBlock<R>],
    wide: &[[WideBlock; R]],
    panel: &[u8],
    half: usize,
) -> [__m256; R] {
    let (format, layout) = (Q::FORMAT, Q::LAYOUT);
    let rows = rows.as_ptr();
    let wide = wide.as_ptr().cast::<WideBlock>();
    // SAFETY: groups are as long as the layout says, rows as long as the caller says.
    unsafe {
        for (group, data) in panel.chunks_exact(layout.group()).enumerate() {
            if R <= 4 && half == 0 {
                prefetch(data);
            }
            let scales = data.as_ptr().add(layout.codes * layout.blocks);
            let d = halves(scales.add(16 * half));
            let min = match (format.affine, format.scales) {
                (false, _) => d,
                (true, Scales::Half) => halves(scales.add(2 * LANES + 16 * half)),
                // These formats subtract their minima.
                (true, Scales::Super) => {
                    _mm256_sub_ps(_mm256_setzero_ps(), halves(scales.add(2 * LANES + 16 * half)))
                }
            };
            for block in 0..layout.blocks {
                let at = group * layout.blocks + block;
                let x = &*rows.add(at);
                let codes = data.as_ptr().add(block * layout.codes + 32 * half);
                let sums = match format.range {
                    CodeRange::Bits4 => nibbles::<Q, R>(codes, x),
                    CodeRange::Bits5 | CodeRange::Bits6 => bytes::<Q, R>(codes, x),
                    CodeRange::Bits8 => {
                        wide_bytes::<Q, R>(codes, x, std::array::from_fn(|r| wide.add(at * R + r)))
                    }
                };
                let (mut scale, mut min) = (d, min);
                if let Scales::Super = format.scales {
                    let factors = scales.add(layout.head + block * layout.factors + 8 * half);
                    scale = _mm256_mul_ps(d, signed_bytes(factors));
                    if format.affine {
                        min = _mm256_mul_ps(min, signed_bytes(factors.add(LANES)));
                    }
                }
                for r in 0..R {
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x.scale[r]));
                    y[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sums[r]), y[r]);
                    if format.affine {
                        y[r] = _mm256_fmadd_ps(min, _mm256_set1_ps(x.weighted[r]), y[r]);
                    }
                }
                keep_order(&mut y);
            }
        }
        y
    }
}

/// Sums over codes of four bits. Sixteen-bit sums hold them: of the 16 products in one, each is at most 15 · 127, and `zero`
/// (at most 8) times the sum of 16 activations is taken off; with it no more than 31,496 is left, and wrapping on the way
/// there does no harm.
///
/// # Safety
/// As [`tile`], for one block.
#[inline(always)]
unsafe fn nibbles<Q: QuantWeights, const R: usize>(codes: *const u8, x: &XBlock<R>) -> [__m256i; R] {
    // SAFETY: four vectors of codes, 64 bytes apart, and a block of activations per row.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut sums = [_mm256_setzero_si256(); R];
        for g in 0..4 {
            let both = _mm256_loadu_si256(codes.add(64 * g).cast());
            let low = _mm256_and_si256(both, mask);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            for r in 0..R {
                let q = x.q[r].as_ptr();
                let products = _mm256_maddubs_epi16(low, quad(q.add(4 * g)));
                sums[r] = match g {
                    0 if Q::FORMAT.zero == 8 => {
                        _mm256_sub_epi16(products, _mm256_slli_epi16::<3>(halves_of(x, r)))
                    }
                    0 => products,
                    _ => _mm256_add_epi16(sums[r], products),
                };
                sums[r] = _mm256_add_epi16(sums[r], _mm256_maddubs_epi16(high, quad(q.add(16 + 4 * g))));
            }
            keep_order_i(&mut sums);
        }
        // No closures around intrinsics: a closure does not have the features of its function.
        for sum in &mut sums {
            *sum = _mm256_madd_epi16(*sum, _mm256_set1_epi16(1));
        }
        sums
    }
}

/// Sums over codes of up to five bits in a byte each: four groups of four fit 16 bits (4 · 2 · 31 · 127).
///
/// # Safety
/// As [`tile`], for one block.
#[inline(always)]
unsafe fn bytes<Q: QuantWeights, const R: usize>(codes: *const u8, x: &XBlock<R>) -> [__m256i; R] {
    // SAFETY: eight vectors of codes, 64 bytes apart, and a block of activations per row.
    unsafe {
        let mut out = [_mm256_setzero_si256(); R];
        for r in 0..R {
            out[r] = bias::<Q, R>(x, r);
        }
        for first in [0, 4] {
            let mut sums = [_mm256_setzero_si256(); R];
            for g in first..first + 4 {
                let codes = _mm256_loadu_si256(codes.add(64 * g).cast());
                for r in 0..R {
                    let products = _mm256_maddubs_epi16(codes, quad(x.q[r].as_ptr().add(4 * g)));
                    sums[r] = _mm256_add_epi16(sums[r], products);
                }
                keep_order_i(&mut sums);
            }
            for r in 0..R {
                out[r] = _mm256_add_epi32(out[r], _mm256_madd_epi16(sums[r], _mm256_set1_epi16(1)));
            }
        }
        out
    }
}

/// Sums over codes of eight bits, of which not even two products fit 16 bits: everything is widened first.
///
/// # Safety
/// As [`tile`], for one block.
#[inline(always)]
unsafe fn wide_bytes<Q: QuantWeights, const R: usize>(
    codes: *const u8,
    x: &XBlock<R>,
    wide: [*const WideBlock; R],
) -> [__m256i; R] {
    // SAFETY: eight vectors of codes, 64 bytes apart, and a block of activations in both forms per row.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); R];
        for r in 0..R {
            sums[r] = bias::<Q, R>(x, r);
        }
        for g in 0..8 {
            let both = _mm256_loadu_si256(codes.add(64 * g).cast());
            let even = _mm256_and_si256(both, _mm256_set1_epi16(255));
            let odd = _mm256_srli_epi16::<8>(both);
            for r in 0..R {
                let at = (*wide[r]).0.as_ptr().add(4 * g);
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(even, quad(at.cast())));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(odd, quad(at.add(2).cast())));
            }
            keep_order_i(&mut sums);
        }
        sums
    }
}

/// `-zero` times the sum of a block's activations, in every lane.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn bias<Q: QuantWeights, const R: usize>(x: &XBlock<R>, row: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        match Q::FORMAT.zero {
            0 => _mm256_setzero_si256(),
            zero => _mm256_madd_epi16(halves_of(x, row), _mm256_set1_epi16(-i16::from(zero))),
        }
    }
}

/// The sums of both halves of a block, as 16-bit neighbours in every 32-bit lane.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn halves_of<const R: usize>(x: &XBlock<R>, row: usize) -> __m256i {
    // SAFETY: two 16-bit numbers are four bytes.
    unsafe { quad((&raw const x.sums[row]).cast()) }
}

/// Four bytes in every 32-bit lane.
///
/// # Safety
/// The CPU has AVX2 and the bytes exist.
#[inline(always)]
unsafe fn quad(at: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
}

/// Eight half-precision numbers.
///
/// # Safety
/// The CPU has AVX2 and F16C, and the sixteen bytes exist.
#[inline(always)]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Eight signed bytes as floats.
///
/// # Safety
/// The CPU has AVX2, and the eight bytes exist.
#[inline(always)]
unsafe fn signed_bytes(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
}

/// Makes the compiler finish what comes before: left to itself it computes row by row, for which the registers do not
/// suffice, and spills.
#[inline]
#[target_feature(enable = "avx2")]
fn keep_order_i<const R: usize>(sums: &mut [__m256i; R]) {
    for sum in sums {
        // SAFETY: there is no instruction; the register is only named.
        unsafe { asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags, pure)) }
    }
}

/// As [`keep_order_i`].
#[inline]
#[target_feature(enable = "avx2")]
fn keep_order<const R: usize>(sums: &mut [__m256; R]) {
    for sum in sums {
        // SAFETY: there is no instruction; the register is only named.
        unsafe { asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags, pure)) }
    }
}

/// As [`Simd::weighted`](crate::simd::Simd::weighted), a function of its own: inlined into all of attention, its sums would not
/// get registers.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
pub(super) fn weighted<const R: usize>(
    sums: &mut [[__m256; 2]; R],
    weights: [&[f32]; R],
    values: &[f32],
    stride: usize,
) {
    let count = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() == count), "equally many weights");
    assert!(count == 0 || (count - 1) * stride + LANES <= values.len(), "sixteen values of every position");
    let mut held = *sums;
    let weights = weights.map(<[f32]>::as_ptr);
    for i in 0..count {
        // SAFETY: the lengths were just checked.
        unsafe {
            let at = values.as_ptr().add(i * stride);
            let (low, high) = (_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8)));
            for r in 0..R {
                let weight = _mm256_set1_ps(*weights[r].add(i));
                held[r] =
                    [_mm256_fmadd_ps(weight, low, held[r][0]), _mm256_fmadd_ps(weight, high, held[r][1])];
            }
        }
    }
    *sums = held;
}
