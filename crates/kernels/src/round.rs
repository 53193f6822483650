//! Decides how at most [`BLOCK`] numbers become signed bytes with one scale.
//!
//! The scale is `max|x| / 127` in single precision; codes are rounded to nearest, ties to even. A block with an infinity or NaN
//! in it gets a NaN scale, so that what is computed with it shows it. A block whose magnitudes are all below 1e-30 is zero.

use crate::simd::{LANES, Simd};

/// Numbers that share a scale: activations, and elements of a key or a value.
pub(crate) const BLOCK: usize = 32;

/// Vectors of a block.
pub(crate) const VECTORS: usize = BLOCK / LANES;

/// How a block is rounded.
#[derive(Clone, Copy)]
pub(crate) struct ByteScale {
    /// What codes are multiples of.
    pub(crate) scale: f32,
    /// By what numbers are multiplied to become codes; 0 if all codes are.
    pub(crate) inverse: f32,
}

impl ByteScale {
    /// The rule for numbers of which `most` is the largest magnitude.
    #[inline(always)]
    pub(crate) fn of(most: f32) -> ByteScale {
        if most >= 1e-30 {
            ByteScale { scale: most / 127.0, inverse: 127.0 / most }
        } else {
            ByteScale { scale: 0.0, inverse: 0.0 }
        }
    }
}

/// The rule for a block; where it is shorter, the lanes behind it are zero.
#[inline(always)]
pub(crate) fn byte_scale<S: Simd>(s: S, [a, b]: [S::F; VECTORS]) -> ByteScale {
    let most = s.largest(s.max(s.abs(a), s.abs(b)));
    // Zero times a number is zero, but not times an infinity or NaN.
    let zero = s.splat(0.0);
    let spoilt = s.sum(s.fma(a, zero, s.mul(b, zero)));
    if spoilt != 0.0 { ByteScale { scale: f32::NAN, inverse: 0.0 } } else { ByteScale::of(most) }
}
