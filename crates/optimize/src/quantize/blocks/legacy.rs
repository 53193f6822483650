//! Blocks of 32 with one scale.

use half::f16;

use super::search::{bounds, codes, extreme, scaled, shifted};
use super::{Row, inverse, round};

/// The part of `out` that belongs to block `i` of `N` bytes.
macro_rules! each_block {
    ($row:expr, $out:expr, $bytes:literal, |$x:ident, $importance:ident, $to:ident| $body:expr) => {
        for (($x, $importance), $to) in $row.blocks::<32>().zip($out.as_chunks_mut::<$bytes>().0) {
            $body
        }
    };
}

#[inline(always)]
pub(super) fn q8_0(row: Row<'_>, out: &mut [u8]) {
    each_block!(row, out, 34, |x, _importance, to| {
        let (least, largest) = bounds(x);
        let d = largest.max(-least).abs() / 127.0;
        let inverse = inverse(d);
        put_f16(to, 0, d);
        for (to, x) in to[2..].iter_mut().zip(x) {
            *to = round(x * inverse) as i8 as u8;
        }
    });
}

/// Without calibration the scale is the extreme's, as in every other writer of this type: plain rounding is what readers of
/// `q4_0` expect, and it is the fastest.
#[inline(always)]
pub(super) fn q4_0(row: Row<'_>, out: &mut [u8]) {
    each_block!(row, out, 18, |x, importance, to| {
        let d = match importance {
            None => extreme(x) / -8.0,
            Some(importance) => scaled(x, &weights(x, Some(importance)), 8.0),
        };
        put_f16(to, 0, d);
        let d = if importance.is_some() { f16::from_f32(d).to_f32() } else { d };
        nibbles(&codes(x, d, 0.0, -8.0, 7.0), &mut to[2..]);
    });
}

#[inline(always)]
pub(super) fn q5_0(row: Row<'_>, out: &mut [u8]) {
    each_block!(row, out, 22, |x, importance, to| {
        let d = match importance {
            None => extreme(x) / -16.0,
            Some(importance) => scaled(x, &weights(x, Some(importance)), 16.0),
        };
        put_f16(to, 0, d);
        let d = if importance.is_some() { f16::from_f32(d).to_f32() } else { d };
        let codes = codes(x, d, 0.0, -16.0, 15.0);
        fifth_bits(&codes, &mut to[2..6]);
        nibbles(&codes, &mut to[6..]);
    });
}

#[inline(always)]
pub(super) fn q4_1(row: Row<'_>, out: &mut [u8]) {
    each_block!(row, out, 20, |x, importance, to| {
        let (d, least) = affine(x, importance, 15.0);
        put_f16(to, 0, d);
        put_f16(to, 2, least);
        nibbles(&codes(x, d, least, 0.0, 15.0), &mut to[4..]);
    });
}

#[inline(always)]
pub(super) fn q5_1(row: Row<'_>, out: &mut [u8]) {
    each_block!(row, out, 24, |x, importance, to| {
        let (d, least) = affine(x, importance, 31.0);
        put_f16(to, 0, d);
        put_f16(to, 2, least);
        let codes = codes(x, d, least, 0.0, 31.0);
        fifth_bits(&codes, &mut to[4..8]);
        nibbles(&codes, &mut to[8..]);
    });
}

#[inline(always)]
fn affine(x: &[f32; 32], importance: Option<&[f32; 32]>, most: f32) -> (f32, f32) {
    match importance {
        None => {
            let (least, largest) = bounds(x);
            ((largest - least) / most, least)
        }
        Some(_) => {
            let fit = shifted(x, &weights(x, importance), most, true);
            (f16::from_f32(fit.scale).to_f32(), f16::from_f32(fit.offset).to_f32())
        }
    }
}

/// What the error of each number counts: its input's importance, and more for larger numbers.
#[inline(always)]
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: Option<&[f32; N]>) -> [f32; N] {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / N as f32;
    match importance {
        Some(importance) => std::array::from_fn(|i| importance[i] * (mean_square + x[i] * x[i]).sqrt()),
        None => {
            let mean = mean_square.sqrt();
            std::array::from_fn(|i| mean + x[i].abs())
        }
    }
}

#[inline(always)]
pub(super) fn put_f16(to: &mut [u8], at: usize, x: f32) {
    to[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// The low four bits: element `i` in the low half of byte `i`, element `16 + i` in the high half.
#[inline(always)]
fn nibbles(codes: &[u8; 32], to: &mut [u8]) {
    for i in 0..16 {
        to[i] = codes[i] & 15 | codes[16 + i] << 4;
    }
}

/// The fifth bit of element `i` as bit `i` of 32.
#[inline(always)]
fn fifth_bits(codes: &[u8; 32], to: &mut [u8]) {
    let bits = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4) << i);
    to.copy_from_slice(&bits.to_le_bytes());
}
