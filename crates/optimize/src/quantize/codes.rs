//! Decides which codes and scales stand for a row of floats in the format of compressed-tensors.
//!
//! Scales are bfloat16, as vLLM's own checkpoints have them, so that a product of code and scale is exact in single precision and
//! 8 bits of a scale are never lost. What is said of a code here is what `wharf_model::compressed` reads.

use std::fmt;

use half::bf16;
use wharf_model::compressed::fp8;

use super::scheme::{CompressedScheme, Kind};

/// How a matrix is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes {
    pub(super) kind: CompressedScheme,
    /// Inputs that share a scale.
    pub(super) group: usize,
}

/// The largest number of E4M3.
const FP8_MOST: f32 = 448.0;

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind.codes() {
            Kind::Int8 => "INT8",
            Kind::Int4 => "INT4",
            Kind::Fp8 => "FP8",
        })
    }
}

impl Codes {
    /// Bytes of the codes of a row of `cols`.
    pub(super) fn code_bytes(self, cols: usize) -> usize {
        match (self.kind.codes(), self.kind.is_packed()) {
            (Kind::Int4, _) => cols.div_ceil(8) * 4,
            (Kind::Int8, true) => cols.div_ceil(4) * 4,
            (Kind::Int8 | Kind::Fp8, _) => cols,
        }
    }

    /// Bytes of the scales of a row of `cols`.
    pub(super) fn scale_bytes(self, cols: usize) -> usize {
        cols / self.group * 2
    }

    /// The scale of each group of row `x`; errors count as `importance` says, which only few codes have need of.
    pub(super) fn scales(self, x: &[f32], importance: Option<&[f32]>) -> Vec<bf16> {
        let groups = x.chunks(self.group).enumerate();
        let scale = |(index, x): (usize, &[f32])| {
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            match self.kind.codes() {
                Kind::Int8 => up(most / 127.0),
                Kind::Fp8 => up(most / FP8_MOST),
                Kind::Int4 => {
                    let importance = importance.map(|all| &all[index * self.group..][..x.len()]);
                    pulp::Arch::new().dispatch(FourBits { x, importance, most })
                }
            }
        };
        groups.map(scale).collect()
    }

    /// What `x` becomes with a scale.
    #[inline(always)]
    pub(super) fn nearest(self, x: f32, scale: f32) -> f32 {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (least, most) = match self.kind.codes() {
            Kind::Int8 => (-127.0, 127.0),
            Kind::Int4 => FOUR_BITS,
            // As it will be read: rounded to what the scales are.
            Kind::Fp8 => return bf16::from_f32(fp8(nearest_fp8(x * inverse)) * scale).to_f32(),
        };
        (x * inverse).round_ties_even().clamp(least, most) * scale
    }

    /// Replaces row `x` by what it becomes with these scales.
    pub(super) fn round(self, x: &mut [f32], scales: &[bf16]) {
        for (x, scale) in x.chunks_mut(self.group).zip(scales) {
            let scale = scale.to_f32();
            x.iter_mut().for_each(|x| *x = self.nearest(*x, scale));
        }
    }

    /// Appends the codes of a row that [`Codes::round`] has made.
    pub(super) fn put(self, rounded: &[f32], scales: &[bf16], out: &mut Vec<u8>) {
        let groups = rounded.chunks(self.group).zip(scales);
        let codes = groups.flat_map(|(x, scale)| {
            let scale = scale.to_f32();
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            x.iter().map(move |x| x * inverse)
        });
        match self.kind {
            CompressedScheme::Fp8 => out.extend(codes.map(nearest_fp8)),
            CompressedScheme::Int8 | CompressedScheme::Int8Static => {
                out.extend(codes.map(|code| code.round_ties_even() as i8 as u8));
            }
            CompressedScheme::Int8Weight => pack(codes, 8, out),
            CompressedScheme::Int4 | CompressedScheme::Int4Gptq | CompressedScheme::Int4Awq => {
                pack(codes, 4, out);
            }
        }
    }
}

/// Least and largest code of four bits.
const FOUR_BITS: (f32, f32) = (-8.0, 7.0);

/// The least bfloat16 that is not below `x`, so that the largest weight has a code.
fn up(x: f32) -> bf16 {
    let near = bf16::from_f32(x);
    if near.to_f32() < x { bf16::from_bits(near.to_bits() + 1) } else { near }
}

/// The scale of a group of 4-bit codes with the least error among some: the largest weight may well be cut off.
struct FourBits<'a> {
    x: &'a [f32],
    importance: Option<&'a [f32]>,
    most: f32,
}

impl pulp::NullaryFnOnce for FourBits<'_> {
    type Output = bf16;

    #[inline(always)]
    fn call(self) -> bf16 {
        let FourBits { x, importance, most } = self;
        let mut best = (f32::INFINITY, bf16::ZERO);
        for step in 0..16 {
            let scale = bf16::from_f32(most / (6.5 + 0.2 * step as f32));
            if scale.to_f32() > 0.0 {
                let error = error(x, importance, scale.to_f32());
                if error < best.0 {
                    best = (error, scale);
                }
            }
        }
        best.1
    }
}

/// Weighted square error of four bits with a scale.
#[inline(always)]
fn error(x: &[f32], importance: Option<&[f32]>, scale: f32) -> f32 {
    const LANES: usize = 16;
    let inverse = 1.0 / scale;
    let square =
        |x: f32| (x - (x * inverse).round_ties_even().clamp(FOUR_BITS.0, FOUR_BITS.1) * scale).powi(2);
    let mut sums = [0.0f32; LANES];
    match importance {
        None => {
            for x in x.chunks(LANES) {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += square(*x));
            }
        }
        Some(importance) => {
            for (x, w) in x.chunks(LANES).zip(importance.chunks(LANES)) {
                sums.iter_mut().zip(x).zip(w).for_each(|((sum, x), w)| *sum += square(*x) * w);
            }
        }
    }
    sums.iter().sum()
}

/// Codes of `bits` in words, the first one lowest, each larger by half of its range; what is left of the last word is zero.
fn pack(codes: impl Iterator<Item = f32>, bits: u32, out: &mut Vec<u8>) {
    let (half, per_word) = (1i32 << (bits - 1), 32 / bits);
    let (mut word, mut filled) = (0u32, 0);
    for code in codes {
        word |= ((code.round_ties_even() as i32 + half) as u32) << (bits * filled);
        filled += 1;
        if filled == per_word {
            out.extend(word.to_le_bytes());
            (word, filled) = (0, 0);
        }
    }
    if filled > 0 {
        out.extend(word.to_le_bytes());
    }
}

/// The code of the E4M3 number nearest to `x`, ties to the even mantissa; numbers beyond the largest become the largest.
fn nearest_fp8(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let size = x.abs().min(FP8_MOST);
    // Below the least normal number steps are of 2^-9.
    let exponent = if size < 2f32.powi(-6) { -6 } else { (size.to_bits() >> 23) as i32 - 127 };
    let steps = (size * 2f32.powi(3 - exponent)).round_ties_even() as i32;
    // A mantissa that is rounded up to the next power carries into the exponent by itself.
    sign | (((exponent + 6) << 3) + steps) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 700.0).collect()
    }

    #[test]
    fn every_number_of_fp8_is_its_own_nearest() {
        for code in (0..=0xffu8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(nearest_fp8(fp8(code)), code, "{code:#x}");
        }
        assert_eq!(nearest_fp8(1e6), 0x7e);
        // Between 1 and 1.125 the even mantissa wins; above the middle, the nearer.
        assert_eq!(nearest_fp8(1.0625), 0x38);
        assert_eq!(nearest_fp8(1.07), 0x39);
        assert_eq!(nearest_fp8(1.99), 0x40);
    }

    #[test]
    fn errors_stay_below_half_a_step() {
        let x = row(256);
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let cases = [
            (CompressedScheme::Int8, 256, most / 127.0 * 0.51),
            (CompressedScheme::Int8Weight, 256, most / 127.0 * 0.51),
            (CompressedScheme::Int4, 128, most / 6.0),
            (CompressedScheme::Fp8, 256, most / 16.0),
        ];
        for (kind, group, bound) in cases {
            let codes = Codes { kind, group };
            let (mut bytes, scales, mut back) = (Vec::new(), codes.scales(&x, None), x.clone());
            codes.round(&mut back, &scales);
            codes.put(&back, &scales, &mut bytes);
            assert_eq!(
                (bytes.len(), 2 * scales.len()),
                (codes.code_bytes(256), codes.scale_bytes(256)),
                "{kind:?}"
            );
            for (x, back) in x.iter().zip(&back) {
                assert!((x - back).abs() <= bound, "{kind:?}: {x} became {back}");
            }
        }
    }

    #[test]
    fn four_bits_serve_what_matters() {
        // One number far from the others: cutting it off is right only where it does not matter.
        let mut x = row(128);
        x[7] = 0.2;
        let codes = Codes { kind: CompressedScheme::Int4, group: 128 };
        let error_of_the_large = |importance: &[f32]| {
            let mut back = x.clone();
            codes.round(&mut back, &codes.scales(&x, Some(importance)));
            (back[7] - x[7]).abs()
        };
        let mut important = vec![1e-6; 128];
        important[7] = 1.0;
        let mut unimportant = vec![1.0; 128];
        unimportant[7] = 0.0;
        assert!(error_of_the_large(&important) < 0.1 * error_of_the_large(&unimportant));
    }

    #[test]
    fn a_row_of_zeros_has_scales_of_zero() {
        for kind in [CompressedScheme::Int8, CompressedScheme::Int4, CompressedScheme::Fp8] {
            let codes = Codes { kind, group: 32 };
            let mut x = [0.0; 64];
            let scales = codes.scales(&x, None);
            codes.round(&mut x, &scales);
            assert_eq!((&scales[..], x), (&[bf16::ZERO; 2][..], [0.0; 64]));
        }
    }
}
