//! Rows of quantised types as integers with a scale, and a minimum, for each sub-block: what other devices than the CPU make their own
//! layouts of.

use half::f16;

use super::{BlockError, Codes, Format, Scales};
use crate::DType;
use crate::simd::CodeRange;

/// What the integers of a quantised type are. A weight is `scale · (code - zero) + min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integers {
    /// Codes are below 16.
    pub four_bits: bool,
    /// The code of nothing.
    pub zero: u8,
    /// Weights that share a scale and a minimum: 16 or 32.
    pub sub_block: usize,
    /// Whether there are minima.
    pub affine: bool,
}

impl Integers {
    /// Those of a quantised type, `None` for a float type.
    pub fn of(dtype: DType) -> Option<Integers> {
        let format = Format::of(dtype)?;
        Some(Integers {
            four_bits: matches!(format.range, CodeRange::Bits4),
            zero: format.zero,
            sub_block: format.sub_block(),
            affine: format.affine,
        })
    }

    /// Reads `codes.len()` weights of `dtype`, the type that these are of: a code for each, a scale and a minimum (zero for types without) for
    /// each sub-block.
    ///
    /// # Errors
    /// When `data` is not exactly as long as that many weights are.
    ///
    /// # Panics
    /// When `scales` or `mins` have not a place for each sub-block, or the type has no codes.
    pub fn read(
        self,
        dtype: DType,
        data: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
    ) -> Result<(), BlockError> {
        if dtype.bytes_for(codes.len()) != Some(data.len()) {
            return Err(BlockError::Length { dtype, elements: codes.len(), bytes: data.len() });
        }
        let format = Format::of(dtype).expect("a quantised type");
        let subs = dtype.block_len() / self.sub_block;
        assert!(
            scales.len() * self.sub_block == codes.len() && mins.len() == scales.len(),
            "a place for each"
        );
        let mut block = Codes::default();
        for (i, bytes) in data.chunks_exact(dtype.block_bytes()).enumerate() {
            block.read(dtype, bytes);
            let len = dtype.block_len();
            codes[i * len..][..len].copy_from_slice(&block.code[..len]);
            let (d, min) = (f16::from_bits(block.d).to_f32(), f16::from_bits(block.min).to_f32());
            for sub in 0..subs {
                scales[i * subs + sub] = d * f32::from(block.scale[sub]);
                mins[i * subs + sub] = match (format.affine, format.scales) {
                    (false, _) => 0.0,
                    (true, Scales::Half) => min,
                    (true, Scales::Super) => -min * f32::from(block.min_scale[sub]),
                };
            }
        }
        Ok(())
    }
}
