//! Decides which codes and scales stand for a row of floats in the format of compressed-tensors.
//!
//! Scales are bfloat16, as vLLM's own checkpoints have them, so that a product of code and scale is exact in single precision and
//! 8 bits of a scale are never lost. What is said of a code here is what `wharf_model::compressed` reads.

use std::fmt;

use half::bf16;
use wharf_model::compressed::fp8;

use super::scheme::CompressedScheme;

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
        f.write_str(match self.kind {
            CompressedScheme::Int8 | CompressedScheme::Int8Weight => "INT8",
            CompressedScheme::Int4 => "INT4",
            CompressedScheme::Fp8 => "FP8",
        })
    }
}

impl Codes {
    /// Bytes of the codes of a row of `cols`.
    pub(super) fn code_bytes(self, cols: usize) -> usize {
        match self.kind {
            CompressedScheme::Int4 => cols.div_ceil(8) * 4,
            CompressedScheme::Int8Weight => cols.div_ceil(4) * 4,
            CompressedScheme::Int8 | CompressedScheme::Fp8 => cols,
        }
    }

    /// Bytes of the scales of a row of `cols`.
    pub(super) fn scale_bytes(self, cols: usize) -> usize {
        cols / self.group * 2
    }

    /// Appends the codes and the scales of row `x`, and leaves in `back` what they stand for.
    pub(super) fn encode(self, x: &[f32], codes: &mut Vec<u8>, scales: &mut Vec<u8>, back: &mut [f32]) {
        let mut row = vec![0i8; x.len()];
        for ((x, back), row) in
            x.chunks(self.group).zip(back.chunks_mut(self.group)).zip(row.chunks_mut(self.group))
        {
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let scale = match self.kind {
                CompressedScheme::Int8 | CompressedScheme::Int8Weight => up(most / 127.0),
                CompressedScheme::Fp8 => up(most / FP8_MOST),
                CompressedScheme::Int4 => four_bits(x, most),
            };
            scales.extend(scale.to_le_bytes());
            let scale = scale.to_f32();
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for ((x, back), code) in x.iter().zip(back).zip(row) {
                match self.kind {
                    CompressedScheme::Fp8 => {
                        let byte = nearest_fp8(x * inverse);
                        *code = byte as i8;
                        // As it will be read: rounded to what the scales are.
                        *back = bf16::from_f32(fp8(byte) * scale).to_f32();
                    }
                    kind => {
                        let (least, most) =
                            if kind == CompressedScheme::Int4 { (-8.0, 7.0) } else { (-127.0, 127.0) };
                        *code = (x * inverse).round_ties_even().clamp(least, most) as i8;
                        *back = f32::from(*code) * scale;
                    }
                }
            }
        }
        match self.kind {
            CompressedScheme::Int4 => pack(&row, 4, codes),
            CompressedScheme::Int8Weight => pack(&row, 8, codes),
            CompressedScheme::Int8 | CompressedScheme::Fp8 => {
                codes.extend(row.iter().map(|code| *code as u8))
            }
        }
    }
}

/// The least bfloat16 that is not below `x`, so that the largest weight has a code.
fn up(x: f32) -> bf16 {
    let near = bf16::from_f32(x);
    if near.to_f32() < x { bf16::from_bits(near.to_bits() + 1) } else { near }
}

/// The scale of a group of 4-bit codes with the least error among some: the largest weight may well be cut off.
fn four_bits(x: &[f32], most: f32) -> bf16 {
    let error = |scale: bf16| {
        let scale = scale.to_f32();
        let inverse = 1.0 / scale;
        x.iter().map(|x| (x - (x * inverse).round_ties_even().clamp(-8.0, 7.0) * scale).powi(2)).sum::<f32>()
    };
    let tries = (0..16).map(|step| bf16::from_f32(most / (6.5 + 0.2 * step as f32)));
    let best = tries.filter(|scale| scale.to_f32() > 0.0).min_by(|a, b| error(*a).total_cmp(&error(*b)));
    best.unwrap_or_default()
}

/// Codes of `bits` in words, the first one lowest, each larger by half of its range; what is left of the last word is zero.
fn pack(codes: &[i8], bits: u32, out: &mut Vec<u8>) {
    let half = 1i32 << (bits - 1);
    for word in codes.chunks((32 / bits) as usize) {
        let place = |(i, code): (usize, &i8)| ((i32::from(*code) + half) as u32) << (bits * i as u32);
        out.extend(word.iter().enumerate().map(place).fold(0, |word, code| word | code).to_le_bytes());
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
            let (mut bytes, mut scales, mut back) = (Vec::new(), Vec::new(), vec![0.0; 256]);
            codes.encode(&x, &mut bytes, &mut scales, &mut back);
            assert_eq!(
                (bytes.len(), scales.len()),
                (codes.code_bytes(256), codes.scale_bytes(256)),
                "{kind:?}"
            );
            for (x, back) in x.iter().zip(&back) {
                assert!((x - back).abs() <= bound, "{kind:?}: {x} became {back}");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_has_scales_of_zero() {
        for kind in [CompressedScheme::Int8, CompressedScheme::Int4, CompressedScheme::Fp8] {
            let (mut bytes, mut scales, mut back) = (Vec::new(), Vec::new(), vec![1.0; 64]);
            Codes { kind, group: 32 }.encode(&[0.0; 64], &mut bytes, &mut scales, &mut back);
            assert_eq!(scales, [0; 4]);
            assert_eq!(back, [0.0; 64]);
        }
    }
}
