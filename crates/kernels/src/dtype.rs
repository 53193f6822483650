//! Decides how many bytes each tensor element type takes and how GGUF and safetensors name it.
//!
//! Block geometry follows the GGML type table (ggml `ggml-common.h`): a block is the smallest unit that
//! can be decoded alone, rows are whole numbers of blocks.

use std::fmt;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `F32`.
    BF16,
    /// 32 weights: f16 scale, 4-bit values minus 8.
    Q4_0,
    /// 32 weights: f16 scale, f16 minimum, 4-bit values.
    Q4_1,
    /// 32 weights: f16 scale, 5-bit values minus 16.
    Q5_0,
    /// 32 weights: f16 scale, f16 minimum, 5-bit values.
    Q5_1,
    /// 32 weights: f16 scale, signed 8-bit values.
    Q8_0,
    /// 256 weights in 16 sub-blocks of 16: 4-bit scales and minima, 2-bit values.
    Q2K,
    /// 256 weights in 16 sub-blocks of 16: 6-bit scales, 3-bit values minus 4.
    Q3K,
    /// 256 weights in 8 sub-blocks of 32: 6-bit scales and minima, 4-bit values.
    Q4K,
    /// 256 weights in 8 sub-blocks of 32: 6-bit scales and minima, 5-bit values.
    Q5K,
    /// 256 weights in 16 sub-blocks of 16: 8-bit scales, 6-bit values minus 32.
    Q6K,
}

impl DType {
    /// Every type, in declaration order.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
    ];

    /// Elements per block.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 32,
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K => 256,
        }
    }

    /// Inputs at whose multiples a product can be cut so that its halves, the second going on from the first, are the bits of the
    /// whole: a block, for BF16 what a matrix unit adds at once.
    pub const fn chain_step(self) -> usize {
        match self {
            DType::BF16 => 32,
            other => other.block_len(),
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
        }
    }

    /// Bytes of `len` consecutive elements, or `None` when `len` is not a whole number of blocks or the
    /// product overflows (lengths come from untrusted files).
    pub const fn bytes_for(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The type that GGUF numbers `id` (`enum ggml_type`), or `None` for one we do not read.
    pub const fn from_ggml(id: u32) -> Option<DType> {
        Some(match id {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Q4_0,
            3 => DType::Q4_1,
            6 => DType::Q5_0,
            7 => DType::Q5_1,
            8 => DType::Q8_0,
            10 => DType::Q2K,
            11 => DType::Q3K,
            12 => DType::Q4K,
            13 => DType::Q5K,
            14 => DType::Q6K,
            30 => DType::BF16,
            _ => return None,
        })
    }

    /// The number that GGUF gives the type (`enum ggml_type`).
    pub const fn ggml(self) -> u32 {
        match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q5_0 => 6,
            DType::Q5_1 => 7,
            DType::Q8_0 => 8,
            DType::Q2K => 10,
            DType::Q3K => 11,
            DType::Q4K => 12,
            DType::Q5K => 13,
            DType::Q6K => 14,
            DType::BF16 => 30,
        }
    }

    /// The name that llama.cpp prints for the type.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q2K => "Q2_K",
            DType::Q3K => "Q3_K",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_gguf_lead_back_to_their_types() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_ggml(dtype.ggml()), Some(dtype));
        }
    }

    #[test]
    fn a_row_is_a_whole_number_of_blocks() {
        assert_eq!(DType::Q4_0.bytes_for(64), Some(36));
        assert_eq!(DType::Q4_0.bytes_for(65), None);
        assert_eq!(DType::F32.bytes_for(usize::MAX), None);
    }
}
