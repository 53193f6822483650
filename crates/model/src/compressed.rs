//! Decides what weights in the format of compressed-tensors are as blocks: codes beside their scales, in several tensors of a file.
//!
//! Codes and scales that a block type holds without loss become that type, so that what is computed with are exactly the numbers
//! of the file: 4 bits with a scale for each 32 or more inputs are `Q4_0`, 8 bits `Q8_0`, if the scales are half-precision
//! numbers. Any others, and rows that are no whole blocks, become floats. FP8 becomes bfloat16 where its scales are bfloat16: the
//! products are rounded as compressed-tensors itself rounds them.
//!
//! The format is that of the Python package `compressed-tensors` (`pack_quantized`, `naive_quantized`).

use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use wharf_kernels::DType;

use crate::mmap::MappedFile;

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) file: usize,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl Span {
    pub(crate) fn of(self, files: &[MappedFile]) -> &[u8] {
        &files[self.file][self.offset..self.offset + self.len]
    }
}

/// What a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A signed byte.
    Int8,
    /// Some of 32 bits: the lowest are the first, each code larger by half of its range. 4 or 8 bits.
    Packed { bits: u32 },
    /// Four bits of exponent, three of mantissa, no infinity.
    Fp8,
}

/// A matrix of codes with scales. Lengths fit each other: whoever makes one has checked them.
#[derive(Clone, Debug)]
pub struct Compressed {
    pub(crate) code: Code,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) codes: Span,
    pub(crate) scales: Span,
    pub(crate) scale_dtype: DType,
    /// Scales of a row; divides its columns.
    pub(crate) scales_per_row: usize,
    decoded: Arc<OnceLock<Vec<u8>>>,
}

impl PartialEq for Compressed {
    fn eq(&self, other: &Compressed) -> bool {
        (self.code, self.codes, self.scales) == (other.code, other.codes, other.scales)
    }
}

impl Eq for Compressed {}

impl Compressed {
    pub(crate) fn new(
        code: Code,
        (rows, cols): (usize, usize),
        codes: Span,
        (scales, scale_dtype): (Span, DType),
        scales_per_row: usize,
    ) -> Compressed {
        let decoded = Arc::default();
        Compressed { code, rows, cols, codes, scales, scale_dtype, scales_per_row, decoded }
    }

    /// The type of blocks that holds the weights without loss.
    pub(crate) fn dtype(&self, files: &[MappedFile]) -> DType {
        if self.code == Code::Fp8 {
            return if self.scale_dtype == DType::BF16 { DType::BF16 } else { DType::F32 };
        }
        let group = self.cols / self.scales_per_row;
        let scales = self.scales.of(files);
        let halves = (0..self.rows * self.scales_per_row).all(|i| {
            let scale = self.scale(scales, i);
            f16::from_f32(scale).to_f32() == scale
        });
        match self.code {
            _ if !halves || !group.is_multiple_of(32) => DType::F32,
            Code::Packed { bits: 4 } => DType::Q4_0,
            _ => DType::Q8_0,
        }
    }

    /// All rows as blocks of [`Compressed::dtype`], made when they are first asked for.
    pub(crate) fn blocks(&self, dtype: DType, files: &[MappedFile]) -> &[u8] {
        self.decoded.get_or_init(|| self.decode(dtype, files))
    }

    fn scale(&self, scales: &[u8], i: usize) -> f32 {
        match self.scale_dtype {
            DType::F32 => f32::from_le_bytes(scales[4 * i..][..4].try_into().expect("four bytes")),
            DType::F16 => f16::from_le_bytes([scales[2 * i], scales[2 * i + 1]]).to_f32(),
            _ => bf16::from_le_bytes([scales[2 * i], scales[2 * i + 1]]).to_f32(),
        }
    }

    fn decode(&self, dtype: DType, files: &[MappedFile]) -> Vec<u8> {
        let (codes, scales) = (self.codes.of(files), self.scales.of(files));
        let row_bytes = dtype.bytes_for(self.cols).expect("chosen so that rows are whole blocks");
        let group = self.cols / self.scales_per_row;
        let mut out = Vec::with_capacity(self.rows * row_bytes);
        let mut row_codes = vec![0i8; self.cols];
        let code_bytes = codes.len() / self.rows;
        for row in 0..self.rows {
            let from = &codes[row * code_bytes..][..code_bytes];
            let scale = |col: usize| self.scale(scales, row * self.scales_per_row + col / group);
            match self.code {
                Code::Fp8 => {
                    let values = from.iter().enumerate().map(|(col, code)| fp8(*code) * scale(col));
                    match dtype {
                        DType::BF16 => out.extend(values.flat_map(|x| bf16::from_f32(x).to_le_bytes())),
                        _ => out.extend(values.flat_map(f32::to_le_bytes)),
                    }
                    continue;
                }
                Code::Int8 => row_codes.iter_mut().zip(from).for_each(|(code, byte)| *code = *byte as i8),
                Code::Packed { bits } => unpack(from, bits, &mut row_codes),
            }
            match dtype {
                DType::Q4_0 => {
                    for (block, codes) in row_codes.as_chunks::<32>().0.iter().enumerate() {
                        out.extend(f16::from_f32(scale(32 * block)).to_le_bytes());
                        let nibble = |i: usize| (codes[i] + 8) as u8;
                        out.extend((0..16).map(|i| nibble(i) | nibble(16 + i) << 4));
                    }
                }
                DType::Q8_0 => {
                    for (block, codes) in row_codes.as_chunks::<32>().0.iter().enumerate() {
                        out.extend(f16::from_f32(scale(32 * block)).to_le_bytes());
                        out.extend(codes.map(|code| code as u8));
                    }
                }
                _ => {
                    let values =
                        row_codes.iter().enumerate().map(|(col, code)| f32::from(*code) * scale(col));
                    out.extend(values.flat_map(f32::to_le_bytes));
                }
            }
        }
        out
    }
}

fn unpack(words: &[u8], bits: u32, out: &mut [i8]) {
    let per_word = (32 / bits) as usize;
    let (mask, half) = ((1u32 << bits) - 1, 1i32 << (bits - 1));
    for (word, out) in words.as_chunks::<4>().0.iter().zip(out.chunks_mut(per_word)) {
        let word = u32::from_le_bytes(*word);
        for (i, out) in out.iter_mut().enumerate() {
            *out = ((word >> (bits * i as u32) & mask) as i32 - half) as i8;
        }
    }
}

/// The number that a byte stands for in E4M3 without infinity; both codes of "no number" are NaN.
pub fn fp8(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    sign * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_fp8_are_the_numbers_of_its_table() {
        for (code, number) in
            [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x38, 1.0), (0x3c, 1.5), (0x7e, 448.0), (0xc0, -2.0)]
        {
            assert_eq!(fp8(code), number, "{code:#x}");
        }
        assert!(fp8(0x7f).is_nan() && fp8(0xff).is_nan());
    }

    #[test]
    fn words_hold_their_first_code_lowest() {
        let mut codes = [0; 8];
        unpack(&0xfedc_ba98u32.to_le_bytes(), 4, &mut codes);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
        let mut codes = [0; 4];
        unpack(&0x00ff_8081u32.to_le_bytes(), 8, &mut codes);
        assert_eq!(codes, [1, 0, 127, -128]);
    }
}
