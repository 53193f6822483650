//! Decides how floats round to the types that can be written: as ggml's reference quantisers do.

use half::{bf16, f16};

use super::BlockError;
use crate::DType;

/// The elements `x` as bytes of `dtype`.
///
/// # Errors
/// When `x` is not a whole number of blocks or the type can be read only.
pub fn quantize(dtype: DType, x: &[f32]) -> Result<Vec<u8>, BlockError> {
    let bytes = dtype.bytes_for(x.len()).ok_or(BlockError::Ragged { dtype, elements: x.len() })?;
    let mut out = Vec::with_capacity(bytes);
    let blocks = x.as_chunks::<32>().0;
    match dtype {
        DType::F32 => out.extend(x.iter().flat_map(|x| x.to_le_bytes())),
        DType::F16 => out.extend(x.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
        DType::BF16 => out.extend(x.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        DType::Q8_0 => blocks.iter().for_each(|block| q8_0(block, &mut out)),
        DType::Q4_0 => blocks.iter().for_each(|block| q4_0(block, &mut out)),
        DType::Q4_1 => blocks.iter().for_each(|block| q4_1(block, &mut out)),
        DType::Q5_0 | DType::Q5_1 | DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K => {
            return Err(BlockError::ReadOnly { dtype });
        }
    }
    Ok(out)
}

/// `1 / d`, or 0 so that a block of zeros has codes of zero.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(x: &[f32; 32], out: &mut Vec<u8>) {
    let d = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
    let inverse = inverse(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(x.iter().map(|x| (x * inverse).round() as i8 as u8));
}

fn q4_0(x: &[f32; 32], out: &mut Vec<u8>) {
    // The weight of largest magnitude becomes code 0, whatever its sign.
    let extreme = x.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let d = extreme / -8.0;
    let inverse = inverse(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(nibbles(x, |x| x * inverse + 8.5));
}

fn q4_1(x: &[f32; 32], out: &mut Vec<u8>) {
    let least = x.iter().fold(f32::MAX, |least, x| least.min(*x));
    let most = x.iter().fold(f32::MIN, |most, x| most.max(*x));
    let d = (most - least) / 15.0;
    let inverse = inverse(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(f16::from_f32(least).to_le_bytes());
    out.extend(nibbles(x, |x| (x - least) * inverse + 0.5));
}

/// Element `i` in the low half of byte `i`, element `16 + i` in the high half.
fn nibbles(x: &[f32; 32], code: impl Fn(f32) -> f32) -> [u8; 16] {
    std::array::from_fn(|i| {
        let code = |x: f32| (code(x) as u8).min(15);
        code(x[i]) | code(x[16 + i]) << 4
    })
}
