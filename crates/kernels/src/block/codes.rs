//! Decides how each quantised block splits into integer codes and scales.

use half::f16;

use crate::{DType, simd::CodeRange};

/// Where a block's scales come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// One half-precision scale (and minimum) for 32 weights.
    Half,
    /// Half-precision scale (and minimum) of 256 weights times an 8-bit factor for each sub-block.
    Super,
}

/// What a quantised type's codes are. A weight is `scale · (code - zero)`, minus the sub-block's minimum
/// (plus it for `Scales::Half`) where the format is `affine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub(crate) range: CodeRange,
    pub(crate) zero: u8,
    pub(crate) affine: bool,
    pub(crate) scales: Scales,
    /// Sub-blocks of 16 weights instead of 32.
    pub(crate) halves: bool,
}

impl Format {
    const fn half(range: CodeRange, zero: u8, affine: bool) -> Format {
        Format { range, zero, affine, scales: Scales::Half, halves: false }
    }

    const fn k(range: CodeRange, zero: u8, affine: bool, halves: bool) -> Format {
        Format { range, zero, affine, scales: Scales::Super, halves }
    }

    pub(crate) const Q4_0: Format = Format::half(CodeRange::Bits4, 8, false);
    pub(crate) const Q4_1: Format = Format::half(CodeRange::Bits4, 0, true);
    pub(crate) const Q5_0: Format = Format::half(CodeRange::Bits5, 16, false);
    pub(crate) const Q5_1: Format = Format::half(CodeRange::Bits5, 0, true);
    pub(crate) const Q8_0: Format = Format::half(CodeRange::Bits8, 128, false);
    pub(crate) const Q2K: Format = Format::k(CodeRange::Bits4, 0, true, true);
    pub(crate) const Q3K: Format = Format::k(CodeRange::Bits4, 4, false, true);
    pub(crate) const Q4K: Format = Format::k(CodeRange::Bits4, 0, true, false);
    pub(crate) const Q5K: Format = Format::k(CodeRange::Bits5, 0, true, false);
    pub(crate) const Q6K: Format = Format::k(CodeRange::Bits6, 32, false, true);

    /// The format of a quantised type, `None` for a float type.
    pub(crate) const fn of(dtype: DType) -> Option<Format> {
        Some(match dtype {
            DType::F32 | DType::F16 | DType::BF16 => return None,
            DType::Q4_0 => Format::Q4_0,
            DType::Q4_1 => Format::Q4_1,
            DType::Q5_0 => Format::Q5_0,
            DType::Q5_1 => Format::Q5_1,
            DType::Q8_0 => Format::Q8_0,
            DType::Q2K => Format::Q2K,
            DType::Q3K => Format::Q3K,
            DType::Q4K => Format::Q4K,
            DType::Q5K => Format::Q5K,
            DType::Q6K => Format::Q6K,
        })
    }

    /// Weights that share one scale.
    pub(crate) const fn sub_block(self) -> usize {
        if self.halves { 16 } else { 32 }
    }
}

/// One block of any quantised type.
pub(crate) struct Codes {
    /// One code a weight; as many as the type's block has.
    pub(crate) code: [u8; 256],
    /// Half-precision bits.
    pub(crate) d: u16,
    /// Half-precision bits; zero where the type has none.
    pub(crate) min: u16,
    /// Factor of `d` for each sub-block; one for `Scales::Half`.
    pub(crate) scale: [i8; 16],
    /// Factor of `min` for each sub-block; one for `Scales::Half`.
    pub(crate) min_scale: [u8; 16],
}

/// Reads fields off the front of a block, whose length the caller has checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> &'a [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the block has the type's length");
        self.0 = rest;
        field
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(*self.take())
    }
}

impl Default for Codes {
    fn default() -> Codes {
        Codes { code: [0; 256], d: 0, min: 0, scale: [1; 16], min_scale: [1; 16] }
    }
}

impl Codes {
    /// Reads one block; `block` has the type's length. Into the same place for every block of a type, because clearing and
    /// copying 300 bytes would take longer than reading a block of 32.
    #[inline]
    pub(crate) fn read(&mut self, dtype: DType, block: &[u8]) {
        assert_eq!(block.len(), dtype.block_bytes(), "length of one {dtype} block");
        let mut from = Fields(block);
        let codes = self;
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("float types have no codes"),
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 => codes.read_32(dtype, &mut from),
            DType::Q8_0 => {
                codes.d = from.half();
                for (code, byte) in codes.code.iter_mut().zip(from.take::<32>()) {
                    *code = byte ^ 0x80;
                }
            }
            DType::Q2K => codes.read_q2k(&mut from),
            DType::Q3K => codes.read_q3k(&mut from),
            DType::Q4K | DType::Q5K => codes.read_q45k(dtype, &mut from),
            DType::Q6K => codes.read_q6k(&mut from),
        }
    }

    #[inline]
    fn read_32(&mut self, dtype: DType, from: &mut Fields<'_>) {
        self.d = from.half();
        if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
            self.min = from.half();
        }
        let high =
            if matches!(dtype, DType::Q5_0 | DType::Q5_1) { u32::from_le_bytes(*from.take()) } else { 0 };
        let nibbles = from.take::<16>();
        for i in 0..16 {
            let bit = |at: usize| ((high >> at) as u8 & 1) << 4;
            self.code[i] = (nibbles[i] & 15) | bit(i);
            self.code[16 + i] = (nibbles[i] >> 4) | bit(16 + i);
        }
    }

    fn read_q2k(&mut self, from: &mut Fields<'_>) {
        let scales = from.take::<16>();
        let bits = from.take::<64>();
        (self.d, self.min) = (from.half(), from.half());
        for i in 0..16 {
            self.scale[i] = (scales[i] & 15) as i8;
            self.min_scale[i] = scales[i] >> 4;
        }
        for i in 0..256 {
            self.code[i] = two_bits(bits, i);
        }
    }

    fn read_q3k(&mut self, from: &mut Fields<'_>) {
        let high = from.take::<32>();
        let bits = from.take::<64>();
        let scales = from.take::<12>();
        self.d = from.half();
        for i in 0..16 {
            let low = if i < 8 { scales[i] & 15 } else { scales[i - 8] >> 4 };
            let top = (scales[8 + i % 4] >> (2 * (i / 4))) & 3;
            self.scale[i] = (low | top << 4) as i8 - 32;
        }
        for i in 0..256 {
            let top = (high[i % 32] >> (i / 32)) & 1;
            self.code[i] = two_bits(bits, i) | top << 2;
        }
    }

    fn read_q45k(&mut self, dtype: DType, from: &mut Fields<'_>) {
        (self.d, self.min) = (from.half(), from.half());
        let packed = from.take::<12>();
        for i in 0..8 {
            let (scale, min) = if i < 4 {
                (packed[i] & 63, packed[4 + i] & 63)
            } else {
                (
                    (packed[4 + i] & 15) | (packed[i - 4] >> 6) << 4,
                    (packed[4 + i] >> 4) | (packed[i] >> 6) << 4,
                )
            };
            (self.scale[i], self.min_scale[i]) = (scale as i8, min);
        }
        let zeros = [0; 32];
        let high = if dtype == DType::Q5K { from.take::<32>() } else { &zeros };
        let nibbles = from.take::<128>();
        for i in 0..256 {
            let byte = nibbles[i / 64 * 32 + i % 32];
            let nibble = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
            self.code[i] = nibble | ((high[i % 32] >> (i / 32)) & 1) << 4;
        }
    }

    fn read_q6k(&mut self, from: &mut Fields<'_>) {
        let low = from.take::<128>();
        let high = from.take::<64>();
        self.scale = from.take::<16>().map(|byte| byte as i8);
        self.d = from.half();
        for i in 0..256 {
            let byte = low[i / 128 * 64 + i % 64];
            let nibble = if i % 128 < 64 { byte & 15 } else { byte >> 4 };
            let top = (high[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
            self.code[i] = nibble | top << 4;
        }
    }

    /// The block's weights, in the order of operations of ggml's reference code.
    pub(crate) fn values(&self, format: Format, out: &mut [f32]) {
        match format.sub_block() {
            16 => self.sub_blocks::<16>(format, out),
            _ => self.sub_blocks::<32>(format, out),
        }
    }

    /// In loops whose length and factors are known before they begin, which become vectors.
    #[inline(always)]
    fn sub_blocks<const N: usize>(&self, format: Format, out: &mut [f32]) {
        let Format { range: _, zero, affine, scales, halves: _ } = format;
        let d = f16::from_bits(self.d).to_f32();
        let min = f16::from_bits(self.min).to_f32();
        let codes = self.code.as_chunks::<N>().0;
        for (sub, (out, codes)) in out.as_chunks_mut::<N>().0.iter_mut().zip(codes).enumerate() {
            let scale = d * f32::from(self.scale[sub]);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(i16::from(*code) - i16::from(zero));
            }
            if affine {
                let offset = match scales {
                    Scales::Half => min,
                    Scales::Super => -(min * f32::from(self.min_scale[sub])),
                };
                out.iter_mut().for_each(|out| *out += offset);
            }
        }
    }
}

/// Element `i` of 256 as Q2_K and Q3_K hold them: each byte has one element of four runs of 32.
fn two_bits(bits: &[u8; 64], i: usize) -> u8 {
    (bits[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3
}
