//! Decides what the bytes of a block mean: every quantised type is read into one shape, `Codes`, from
//! which rows are dequantised and panels are packed.
//!
//! Formats follow ggml's `ggml-common.h`; `dequantize` gives the numbers of ggml's reference code and of
//! the Python package `gguf` exactly.

mod codes;
mod integers;
mod quantize;

use half::{bf16, f16};

pub(crate) use codes::{Codes, Format, Scales};
pub use integers::Integers;
pub use quantize::quantize;

use crate::DType;

/// Why a row of blocks could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The byte count is not that of the elements.
    #[error(
        "failed to read {elements} elements of type {dtype}: {bytes} bytes do not hold exactly that many"
    )]
    Length {
        /// Type of the elements.
        dtype: DType,
        /// How many were asked for.
        elements: usize,
        /// How many bytes there are.
        bytes: usize,
    },
    /// The elements do not fill whole blocks.
    #[error("failed to quantise {elements} elements to {dtype}: its blocks hold {}", dtype.block_len())]
    Ragged {
        /// Type that was asked for.
        dtype: DType,
        /// How many elements there are.
        elements: usize,
    },
    /// The type can be read only.
    #[error("failed to quantise to {dtype}: only F32, F16, BF16, Q8_0, Q4_0 and Q4_1 can be written")]
    ReadOnly {
        /// Type that was asked for.
        dtype: DType,
    },
}

/// Reads `out.len()` elements of `dtype` from `data`.
///
/// # Errors
/// When `data` is not exactly as long as that many elements are.
pub fn dequantize(dtype: DType, data: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    if dtype.bytes_for(out.len()) != Some(data.len()) {
        return Err(BlockError::Length { dtype, elements: out.len(), bytes: data.len() });
    }
    match Format::of(dtype) {
        Some(format) => {
            let mut codes = Codes::default();
            let blocks = data.chunks_exact(dtype.block_bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(dtype.block_len())) {
                codes.read(dtype, block);
                codes.values(format, out);
            }
        }
        None => match dtype.block_bytes() {
            4 => {
                for (bytes, out) in data.as_chunks().0.iter().zip(out) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            _ => {
                for (bytes, out) in data.as_chunks().0.iter().zip(out) {
                    let bits = u16::from_le_bytes(*bytes);
                    *out = if dtype == DType::F16 {
                        f16::from_bits(bits).to_f32()
                    } else {
                        bf16::from_bits(bits).to_f32()
                    };
                }
            }
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests;
