//! Decides which codes and scales stand for a row of floats in each block type.
//!
//! Layouts are ggml's (`ggml-common.h`). Types below 6 bits search their scales: several roundings are tried, the scale (and
//! minimum) that is best for each in the sense of weighted least squares follows in closed form, and the best of all stays.
//! Weights of the squares are what calibration found each input to matter, else larger numbers count more, because they reach
//! further.

mod legacy;
mod search;
mod super_blocks;

use half::{bf16, f16};
use wharf_kernels::DType;

/// One row to be rounded.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) x: &'a [f32],
    /// How much each input matters, not negative; `None` without calibration.
    pub(crate) importance: Option<&'a [f32]>,
}

impl<'a> Row<'a> {
    fn blocks<const N: usize>(self) -> impl Iterator<Item = (&'a [f32; N], Option<&'a [f32; N]>)> {
        let importance = self.importance.map(|importance| importance.as_chunks::<N>().0);
        self.x.as_chunks::<N>().0.iter().enumerate().map(move |(i, x)| (x, importance.map(|all| &all[i])))
    }
}

/// Writes `row` as blocks of `dtype` to `out`, which has exactly their bytes.
///
/// # Panics
/// When the type is not written by any scheme, or `out` has another length.
pub(crate) fn encode(dtype: DType, row: Row<'_>, out: &mut [u8]) {
    assert_eq!(dtype.bytes_for(row.x.len()), Some(out.len()), "a row of whole blocks and its bytes");
    pulp::Arch::new().dispatch(Encode { dtype, row, out });
}

struct Encode<'a> {
    dtype: DType,
    row: Row<'a>,
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Encode { dtype, row, out } = self;
        match dtype {
            DType::F32 => floats(row.x, out, f32::to_le_bytes),
            DType::F16 => floats(row.x, out, |x| f16::from_f32(x).to_le_bytes()),
            DType::BF16 => floats(row.x, out, |x| bf16::from_f32(x).to_le_bytes()),
            DType::Q8_0 => legacy::q8_0(row, out),
            DType::Q4_0 => legacy::q4_0(row, out),
            DType::Q4_1 => legacy::q4_1(row, out),
            DType::Q5_0 => legacy::q5_0(row, out),
            DType::Q5_1 => legacy::q5_1(row, out),
            DType::Q4K => super_blocks::q4_k(row, out),
            DType::Q5K => super_blocks::q5_k(row, out),
            DType::Q6K => super_blocks::q6_k(row, out),
            DType::Q2K | DType::Q3K => unreachable!("no scheme writes {dtype}"),
        }
    }
}

#[inline(always)]
fn floats<const N: usize>(x: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (x, out) in x.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = bytes(*x);
    }
}

/// Nearest integer, halves away from zero, as floats so that loops over it become vectors.
#[inline(always)]
fn round(x: f32) -> f32 {
    (x.abs() + 0.5).floor().copysign(x)
}

/// `1 / d`, or 0 so that a block of zeros has codes of zero.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests;
