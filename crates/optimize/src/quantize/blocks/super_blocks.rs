//! Super-blocks of 256: scales of small blocks are themselves codes of a scale.

use half::f16;

use super::legacy::{put_f16, weights};
use super::search::{codes, scaled, shifted};
use super::{Row, inverse, round};

#[inline(always)]
pub(super) fn q4_k(row: Row<'_>, out: &mut [u8]) {
    for ((x, importance), to) in row.blocks::<256>().zip(out.as_chunks_mut::<144>().0) {
        let (head, low) = to.split_at_mut(16);
        let all = affine(x, importance, 15.0, head);
        nibbles(&all, low);
    }
}

#[inline(always)]
pub(super) fn q5_k(row: Row<'_>, out: &mut [u8]) {
    for ((x, importance), to) in row.blocks::<256>().zip(out.as_chunks_mut::<176>().0) {
        let (head, rest) = to.split_at_mut(16);
        let (high, low) = rest.split_at_mut(32);
        let all = affine(x, importance, 31.0, head);
        nibbles(&all, low);
        // Bit b of byte l is the fifth bit of element l of small block b.
        for l in 0..32 {
            high[l] = (0..8).fold(0, |bits, block| bits | (all[32 * block + l] >> 4) << block);
        }
    }
}

/// Of each two small blocks one is in the low, one in the high halves of 32 bytes.
#[inline(always)]
fn nibbles(codes: &[u8; 256], to: &mut [u8]) {
    for (pair, to) in codes.as_chunks::<64>().0.iter().zip(to.as_chunks_mut::<32>().0) {
        for l in 0..32 {
            to[l] = pair[l] & 15 | pair[32 + l] << 4;
        }
    }
}

/// Writes the head of a super-block (scale, scale of minima, eight 6-bit codes for each) and returns the codes of its elements.
#[inline(always)]
fn affine(x: &[f32; 256], importance: Option<&[f32; 256]>, most: f32, head: &mut [u8]) -> [u8; 256] {
    let (mut scales, mut minima) = ([0.0f32; 8], [0.0f32; 8]);
    let mut matter = [0.0f32; 8];
    for (j, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let w = weights(x, importance.map(|all| &all.as_chunks::<32>().0[j]));
        let fit = shifted(x, &w, most, false);
        (scales[j], minima[j]) = (fit.scale, -fit.offset);
        matter[j] = w.iter().sum();
    }
    let (d, scale_codes) = six_bits(&scales, &matter);
    let (dmin, min_codes) = six_bits(&minima, &matter);
    put_f16(head, 0, d);
    put_f16(head, 2, dmin);
    pack_six_bits(&scale_codes, &min_codes, &mut head[4..16]);
    let (d, dmin) = (f16::from_f32(d).to_f32(), f16::from_f32(dmin).to_f32());
    let mut out = [0; 256];
    for (j, (x, out)) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0).enumerate() {
        let (scale, offset) = (d * f32::from(scale_codes[j]), -dmin * f32::from(min_codes[j]));
        *out = codes(x, scale, offset, 0.0, most);
    }
    out
}

/// Eight numbers that are not negative as a scale times 6-bit codes, with the least squares weighted by `matter`.
#[inline(always)]
fn six_bits(x: &[f32; 8], matter: &[f32; 8]) -> (f32, [u8; 8]) {
    let most = x.iter().fold(0.0f32, |most, x| most.max(*x));
    if most == 0.0 {
        return (0.0, [0; 8]);
    }
    let mut best = (0.0, [0; 8]);
    let mut explained = 0.0;
    for step in -4..=4 {
        let inverse = (63.0 + 0.1 * step as f32) / most;
        let q: [f32; 8] = std::array::from_fn(|i| round(x[i] * inverse).min(63.0));
        let (mut xq, mut qq) = (0.0, 0.0);
        for i in 0..8 {
            xq += matter[i] * x[i] * q[i];
            qq += matter[i] * q[i] * q[i];
        }
        if qq > 0.0 && xq * xq > explained * qq {
            explained = xq * xq / qq;
            best = (xq / qq, q.map(|q| q as u8));
        }
    }
    best
}

/// Codes 0 to 3 stand alone in the low six bits of bytes 0 to 7; the rest of those bytes and bytes 8 to 11 hold codes 4 to 7.
#[inline(always)]
fn pack_six_bits(scales: &[u8; 8], minima: &[u8; 8], to: &mut [u8]) {
    for j in 0..4 {
        to[j] = scales[j] | scales[4 + j] >> 4 << 6;
        to[4 + j] = minima[j] | minima[4 + j] >> 4 << 6;
        to[8 + j] = scales[4 + j] & 15 | minima[4 + j] << 4;
    }
}

#[inline(always)]
pub(super) fn q6_k(row: Row<'_>, out: &mut [u8]) {
    for ((x, importance), to) in row.blocks::<256>().zip(out.as_chunks_mut::<210>().0) {
        let mut scales = [0.0f32; 16];
        for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let w = match importance {
                Some(all) => weights(x, Some(&all.as_chunks::<16>().0[j])),
                None => x.map(|x| x * x),
            };
            scales[j] = scaled(x, &w, 32.0);
        }
        let extreme = super::search::extreme(&scales);
        // The extreme becomes -128, which has no opposite.
        let d = extreme / -128.0;
        let inverse = inverse(d);
        let scale_codes = scales.map(|scale| round(scale * inverse).clamp(-128.0, 127.0) as i8);
        let d16 = f16::from_f32(d).to_f32();
        let mut all = [0u8; 256];
        for (j, (x, all)) in x.as_chunks::<16>().0.iter().zip(all.as_chunks_mut::<16>().0).enumerate() {
            *all = codes(x, d16 * f32::from(scale_codes[j]), 0.0, -32.0, 31.0);
        }
        let (low, rest) = to.split_at_mut(128);
        let (high, rest) = rest.split_at_mut(64);
        for (half, all) in all.as_chunks::<128>().0.iter().enumerate() {
            let (low, high) = (&mut low[64 * half..][..64], &mut high[32 * half..][..32]);
            for l in 0..32 {
                let [a, b, c, d] = [all[l], all[32 + l], all[64 + l], all[96 + l]];
                low[l] = a & 15 | c << 4;
                low[32 + l] = b & 15 | d << 4;
                high[l] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
            }
        }
        for (to, code) in rest.iter_mut().zip(scale_codes) {
            *to = code as u8;
        }
        put_f16(rest, 16, d);
    }
}
